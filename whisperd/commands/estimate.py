"""The command `estimate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from whisperd.commands import DEFAULT_URL, Json, Model, Url, client, command
from whisperd.commands.files import FilesOrFolders, Plan, Priority, Tenant, recordings
from whisperd.terminal import clock, safe, show_json, show_table, spell

if TYPE_CHECKING:
    from whisperd.client import Client, Estimate, Likely

app = typer.Typer()

HEAD = ("FILE", "MODEL", "LENGTH", "BEGINS IN", "DONE IN", "AT THE LATEST")


@command(app, "estimate", "Transcripts")
def estimate(
    files: FilesOrFolders,
    *,
    model: Model = None,
    priority: Priority = None,
    plan: Plan = None,
    tenant: Tenant = None,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Say when files would be done if they were sent now; sends nothing.

    Columns: file, model, length as its size lets think, when it would begin and be done, and when if all goes
    slowly; - for what is not known yet. Each file is taken for itself, as if it came alone. Of a folder are
    taken those that `transcribe` takes. Exit status 1 if one would not be accepted: the last column says why.

      $ whisperd estimate --priority 10 talk.mp3
      $ whisperd estimate --json recordings/ | jq '.[].eta_seconds.p50'
    """
    options = {"model": model, "priority": priority, "plan": plan, "tenant": tenant}
    paths = [path for path, _ in recordings(files)]
    with client(url) as daemon:
        found = [_of(daemon, path, options) for path in paths]
    if json:
        from msgspec.structs import asdict

        show_json([{"file": safe(str(path)), **asdict(one)} for path, one in zip(paths, found, strict=True)])
    else:
        rows = [_row(path, one) for path, one in zip(paths, found, strict=True)]
        show_table(HEAD, rows, "FILE")
    raise typer.Exit(not all(one.accepted for one in found))


def _of(daemon: Client, path: Path, options: dict[str, Any]) -> Estimate:
    return daemon.estimate(size_bytes=path.stat().st_size, name=path.name, **options)


def _row(path: Path, found: Estimate) -> Sequence[str]:
    begins, ends = found.starts_in_seconds, found.eta_seconds
    last = found.refusal.message if found.refusal else _spelled(ends.p90 if ends else None)
    return str(path), found.model, clock(found.audio_seconds), _likely(begins), _likely(ends), last


def _likely(found: Likely | None) -> str:
    return _spelled(found.p50 if found else None)


def _spelled(seconds: float | None) -> str:
    return "-" if seconds is None else spell(seconds)
