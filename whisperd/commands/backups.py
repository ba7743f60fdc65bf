"""The command `backup`: by the daemon, or by this process when none runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whisperd.commands import DEFAULT_URL, DataDir, Json, Settings, Url, client, command
from whisperd.commands.data_folder import exclusively, settings_of
from whisperd.terminal import megabytes, safe, show_fields, show_json, spell

if TYPE_CHECKING:
    from whisperd.config import Config

app = typer.Typer()


To = Annotated[
    Path | None,
    typer.Option("--to", metavar="FILE", help="Write a plain SQLite file, too.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the FILE of --to.")]


@command(app, "backup", "The daemon")
def backup(
    to: To = None,
    force: Force = False,
    url: Url = DEFAULT_URL,
    config: Settings = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Back up the queue now: all tasks, their order and their transcripts, but not the audio.

    The running daemon does it, without holding anything up; where none runs, this process does. The backup
    is checked before it gets its name. With --to it is also unpacked into one file that any SQLite opens.
    Never copy the live whisperd.db itself: its last commits are in whisperd.db-wal, and a copy made while
    the daemon writes can be torn.

      $ whisperd backup
      $ whisperd backup --to /mnt/stick/whisperd.db
    """
    _check_target(to, force)
    taken = _taken(url, config, data_dir)
    if to is not None:
        _unpack(Path(taken["path"]), to)
        taken["unpacked"] = str(to.absolute())
    if json:
        show_json(taken)
    else:
        show_fields(_backup_fields(taken))


def _check_target(target: Path | None, force: bool) -> None:
    if target is None:
        return
    if target.exists() and not force:
        raise typer.BadParameter(f"{safe(str(target))} is there already; --force overwrites it")
    wal = target.with_name(f"{target.name}-wal")
    if wal.exists():  # SQLite would apply it to whatever lies beside it
        raise typer.BadParameter(f"{safe(str(wal))} is there: {safe(target.name)} is a database in use")


def _taken(url: str, config: Path | None, data_dir: str | None) -> dict[str, Any]:
    """The backup as the API shows it: by the daemon, or else by this process."""
    from msgspec.structs import asdict

    from whisperd.client import DaemonAway

    if data_dir is None:  # else it is named which queue is meant, whoever answers at the URL
        try:
            with client(url) as daemon:
                return asdict(daemon.backup())
        except DaemonAway as away:
            if away.stopped:
                raise
    return _taken_here(settings_of(config, data_dir))


def _taken_here(settings: Config) -> dict[str, Any]:
    from msgspec import to_builtins

    from whisperd.backup import BackupFailed
    from whisperd.backup_setup import store
    from whisperd.shown import backup_view

    if not (database := settings.database).is_file():  # a backup of nothing could be restored
        raise FileNotFoundError(2, "there is no queue; name its folder with --data-dir", str(database))
    with exclusively(settings, "leave --data-dir out, or name the daemon with --url"):
        try:
            taken: dict[str, Any] = to_builtins(backup_view(store(settings).take_file(database, "manual")))
            return taken
        except BackupFailed as error:
            raise BackupFailed(f"{error}; see {settings.backups_dir}, and its disk") from error


def _unpack(backup: Path, target: Path) -> None:
    """The file is there whole and checked, or not at all."""
    from whisperd import archive
    from whisperd.durable import publish

    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)  # of a call that was killed
    archive.unpack(backup, part)
    publish(part, target)


def _backup_fields(taken: Mapping[str, Any]) -> Sequence[tuple[str, object]]:
    return (
        ("backup", taken["path"]),
        ("unpacked", taken.get("unpacked")),
        ("tasks", taken["tasks"]),
        ("size", megabytes(taken["bytes"])),
        ("took", None if taken["seconds"] is None else spell(taken["seconds"])),
    )
