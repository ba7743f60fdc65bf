"""The command `restore`: what backups there are, what one would bring, and bringing it back."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whisperd.commands import DataDir, Json, Settings, command
from whisperd.commands.data_folder import (
    as_owner,
    exclusively,
    offsite_of,
    settings_of,
    source_of,
    to_look_at,
    utc,
)
from whisperd.terminal import complain, megabytes, show_fields, show_json, show_table, spell

if TYPE_CHECKING:
    from whisperd.backup import Backup, BackupStore
    from whisperd.config import Config
    from whisperd.offsite import Remote
    from whisperd.restore import Preview, Restored

app = typer.Typer()
UPCOMING = 10  # tasks that a dry run names

Fields = Sequence[tuple[str, object]]


Source = Annotated[
    str | None,
    typer.Argument(metavar="FILE", help="A backup, or a SQLite file; s3:NAME.", show_default=False),
]
List = Annotated[bool, typer.Option("--list", help="List the backups, newest first.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing; show what would be there and run next.")
]


@command(app, "restore", "The daemon")
def restore(
    file: Source = None,
    list_: List = False,
    dry_run: DryRun = False,
    config: Settings = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Bring back the queue from a backup, while no daemon runs.

    Without FILE the newest sound backup is taken that was not restored before. The present database is not
    deleted but set aside, and the output says how to undo the restore. A backup that was used is marked, so
    that it is not taken a second time by mistake; to take it again, name it. A copy in S3 is fetched first.

      $ whisperd restore --list
      $ whisperd restore --dry-run
      $ whisperd restore s3:whisperd-20261123T050000.000Z.db.zst
      $ systemctl stop whisperd && whisperd restore && systemctl start whisperd
    """
    settings = settings_of(config, data_dir)
    if list_:
        _list(settings, json)
    elif dry_run:
        _foresee(settings, file, json)
    else:
        _restore(settings, file, _place(config, data_dir), json)


def _place(config: Path | None, data_dir: str | None) -> Sequence[str]:
    """The options by which this command was told where the data folder is."""
    named = {"--data-dir": data_dir, "--config": config}
    return [str(part) for option, value in named.items() if value for part in (option, value)]


def _list(settings: Config, json: bool) -> None:
    """Exit status 1 when the copies in S3 cannot be listed; those of this machine are all the same."""
    from msgspec import to_builtins

    from whisperd.backup_setup import store
    from whisperd.shown import backup_view

    backups, (copies, trouble) = store(settings).list(), _copies(settings)
    if json:
        show_json(to_builtins([backup_view(backup) for backup in backups]) + [_copy(copy) for copy in copies])
    else:
        head = ("TAKEN", "AGE", "TASKS", "SIZE", "REASON", "STATE", "NAME")
        rows = [_row(backup) for backup in backups] + [_copy_row(copy) for copy in copies]
        show_table(head, rows, "NAME")
    if trouble:
        complain(trouble)
        raise typer.Exit(1)


def _copies(settings: Config) -> tuple[Sequence[Remote], str | None]:
    """The copies in S3, and why there are none."""
    from whisperd.archive import BackupError

    if not settings.backup.s3.bucket:
        return [], None
    try:
        return asyncio.run(offsite_of(settings).list()), None
    except BackupError as error:
        return [], str(error)


def _copy(copy: Remote) -> dict[str, Any]:
    from whisperd.shown import timestamp

    return {"name": f"s3:{copy.name}", "taken_at": timestamp(copy.taken_at), "bytes": copy.bytes}


def _copy_row(copy: Remote) -> Sequence[str]:
    return (*_when(copy.taken_at), "-", megabytes(copy.bytes), "-", "s3", f"s3:{copy.name}")


def _row(backup: Backup) -> Sequence[str]:
    return (
        *_when(backup.taken_at),
        "-" if backup.tasks is None else str(backup.tasks),
        megabytes(backup.bytes),
        backup.reason or "-",
        "broken" if not backup.verified else "restored" if backup.restored else "ok",
        backup.name,
    )


def _when(taken_at: float) -> Sequence[str]:
    return f"{utc(taken_at):%Y-%m-%d %H:%M:%S}Z", spell(max(0.0, time() - taken_at))


def _foresee(settings: Config, named: str | None, json: bool) -> None:
    from whisperd.backup_setup import store
    from whisperd.restore import preview

    def look(source: Path) -> Preview:
        return preview(source, settings.database, settings.spool_dir, settings.queue.order, UPCOMING)

    with as_owner(settings.data_dir):  # also while a daemon runs: nothing of its own is touched
        if named is not None:
            source, skipped = Path(named), list[str]()
            with to_look_at(settings, named) as file:
                found = look(file)
        else:
            source, found, skipped = _first(store(settings), look)
    if json:
        show_json(_preview_json(source, found, skipped))
    else:
        _tell_skipped(skipped)
        _show_preview(source, found)


def _first(store: BackupStore, look: Callable[[Path], Preview]) -> tuple[Path, Preview, list[str]]:
    """The backup that a restore would take, looked at; and those that it would skip, with the reason."""
    from whisperd.archive import BackupError
    from whisperd.restore import NoneSound

    skipped: list[str] = []
    for backup in store.list():
        if backup.restored:
            skipped.append(f"{backup.name}: it was restored before")
            continue
        try:
            return backup.path, look(backup.path), skipped
        except BackupError as error:
            skipped.append(f"{backup.name}: {error}")
    raise NoneSound(skipped)


def _preview_json(source: Path, found: Preview, skipped: Sequence[str]) -> dict[str, Any]:
    from whisperd.shown import timestamp

    return {
        "source": str(source),
        "tasks": found.tasks,
        "by_state": dict(found.by_state),
        "last_change": timestamp(found.last_change),
        "skipped": list(skipped),
        "next": [
            {
                "task_id": task.id,
                "priority": task.priority,
                "name": task.audio_name,
                "run_at": timestamp(task.run_at),
                "audio": task.audio,
            }
            for task in found.upcoming
        ],
    }


def _show_preview(source: Path, found: Preview) -> None:
    last = None if found.last_change is None else f"{spell(max(0.0, time() - found.last_change))} ago"
    show_fields((("backup", source), ("tasks", _states(found.tasks, found.by_state)), ("last change", last)))
    if found.upcoming:
        print("\nwould run next:")
        rows = [
            (task.id, str(task.priority), "kept" if task.audio else "gone: it would fail", task.audio_name)
            for task in found.upcoming
        ]
        show_table(("ID", "PRIORITY", "AUDIO", "NAME"), rows, "NAME")


def _restore(settings: Config, named: str | None, here: Sequence[str], json: bool) -> None:
    from whisperd import restore
    from whisperd.backup_setup import store

    spool = settings.spool_dir
    if named is not None:  # on a new machine
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusively(settings, "stop it first") as database:
        if named is not None:
            source = source_of(settings, named)
            done = restore.restore(source, database, spool, settings.backups_dir)
        else:
            done = restore.restore_newest(store(settings), database, spool)
    if json:
        show_json(_restored_json(done, named, here))
    else:
        show_fields(_restored_fields(done, named, here))


def _restored_json(done: Restored, named: str | None, here: Sequence[str]) -> dict[str, Any]:
    return {
        "source": done.backup or named,
        "tasks": done.tasks,
        "by_state": dict(done.by_state),
        "set_aside": done.set_aside and str(done.set_aside),
        "undo": _undo(done, here),
        "orphans": done.orphans,
        "skipped": list(done.skipped),
    }


def _restored_fields(done: Restored, named: str | None, here: Sequence[str]) -> Fields:
    orphans = f"{done.orphans} audio files of tasks that it does not know were set aside, too"
    return (
        ("restored", done.backup or named),
        ("tasks", _states(done.tasks, done.by_state)),
        ("set aside", done.set_aside),
        ("orphans", orphans if done.orphans else None),
        ("undo", _undo(done, here)),
    )


def _undo(done: Restored, here: Sequence[str]) -> str | None:
    """The command that brings back what was there before; None when nothing was."""
    from whisperd.config import DATABASE

    old = done.set_aside and done.set_aside / DATABASE
    if old is None or not old.exists():
        return None
    return shlex.join(["whisperd", "restore", *here, str(old)])


def _tell_skipped(skipped: Sequence[str]) -> None:
    for reason in skipped:
        complain(f"skipped {reason}")


def _states(tasks: int, by_state: Mapping[str, int]) -> str:
    counts = ", ".join(f"{n} {state}" for state, n in sorted(by_state.items()) if n)
    return f"{tasks} ({counts})" if counts else str(tasks)
