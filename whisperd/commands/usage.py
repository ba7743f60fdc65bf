"""The command `usage`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from whisperd.commands import DEFAULT_URL, Json, Url, client, command
from whisperd.terminal import clock, complain, show_json, show_table

if TYPE_CHECKING:
    from whisperd.client import UsageSums

app = typer.Typer()

Day = "YYYY-MM-DD"
PARTS = ("day", "tenant", "model")


@command(app, "usage", "The daemon")
def usage(
    first: Annotated[
        str | None, typer.Option("--from", metavar=Day, help="The first day, UTC.", show_default=False)
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", metavar=Day, help="The last day; today.", show_default=False)
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Of one tenant.", show_default=False)] = None,
    by: Annotated[str, typer.Option(help="A line for each: some of these.")] = "day,tenant,model",
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Show what tenants had done for them; in the last 30 days, unless others are given.

    Columns: day, tenant, model, length of the audio that was transcribed, time that workers took, tasks
    completed, failed, cancelled. A task counts on the day of its end, and stays counted when it is deleted.

      $ whisperd usage --from 2026-11-01 --to 2026-11-30 --by tenant
    """
    parts = _parts(by)
    with client(url) as daemon:
        found = daemon.usage(first=first, last=last, tenant=tenant, group_by=",".join(parts))
    if json:
        show_json({"from": found.first, "to": found.last, "usage": found.rows, "total": found.total})
    else:
        rows = [[*(str(getattr(row, part)) for part in parts), *_sums(row)] for row in found.rows]
        if sys.stdout.isatty():
            rows.append(["total", *[""] * (len(parts) - 1), *_sums(found.total)])
        head = [*(part.upper() for part in parts), "AUDIO", "WORK", "DONE", "FAILED", "CANCELLED"]
        show_table(head, rows, head[len(parts) - 1])
    if found.truncated:
        complain("there are more lines: ask for fewer days, or another --by")


def _parts(text: str) -> Sequence[str]:
    wanted = {name.strip() for name in text.split(",")}
    if unknown := wanted - set(PARTS):
        raise typer.BadParameter(f"--by {min(unknown)!a}: must be some of {', '.join(PARTS)}")
    return [part for part in PARTS if part in wanted]


def _sums(row: UsageSums) -> Sequence[str]:
    spans = (clock(row.audio_seconds), clock(row.compute_seconds))
    return (*spans, str(row.completed), str(row.failed), str(row.cancelled))
