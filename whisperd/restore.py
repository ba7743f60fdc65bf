"""How a database comes back from a backup, and where the one that it replaces goes.

For the owner of the database's lock (db.owned), with no connection open on it. Everything here blocks.
Nothing is deleted: what is replaced moves to `set-aside/<time>/` beside the database, and so does audio
whose task the restored database does not know (it was acknowledged after the backup).

A restore is decided when a complete, checked, fsynced `<database>.restoring…` has its name. Killed before,
the old database is untouched; killed after, `finish` at the next start does the rest.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import structlog

from whisperd import archive, condition, durable
from whisperd.archive import BackupError, BadBackup, Census, NotABackup, Stopped
from whisperd.backup import RESTORED, Backup, BackupStore, time_of
from whisperd.condition import Condition, Finding
from whisperd.db import DatabaseTooNew
from whisperd.snapshot import SnapshotStopped, snapshot_of

log = structlog.get_logger(__name__)
SET_ASIDE = "set-aside"  # a folder beside the database
_READY = ".restoring"  # follows the database's name, and is followed by the backup's
_PART = ".restoring-part"
_AUDIO = ".audio"  # how the spool names what was submitted
_SIDE_FILES = ("-wal", "-shm", "-journal", ".seal")  # what follows the database's name
_USABLE = {Condition.CLEAN, Condition.CRASHED, Condition.BARE, Condition.CHANGED}


class NoneSound(BackupError):
    """No backup could be used; `skipped` says why, of each."""

    def __init__(self, skipped: Sequence[str]) -> None:
        super().__init__("; ".join(skipped) or "there are no backups")
        self.skipped = tuple(skipped)


@dataclass(frozen=True, slots=True)
class Restored:
    backup: str  # the name of the backup that was used; "" for any other file
    tasks: int
    by_state: Mapping[str, int]
    set_aside: Path | None  # the folder; None: there was nothing to set aside
    orphans: int  # audio files that went there too
    skipped: tuple[str, ...] = ()  # newer backups that could not be used, and why


@dataclass(frozen=True, slots=True)
class Next:
    """A task that would run, once the database is restored."""

    id: str
    priority: int
    state: str
    audio_name: str
    run_at: float | None  # Unix seconds, UTC; None: it stands in line
    audio: bool  # its audio is in the spool; else it fails with audio_missing


@dataclass(frozen=True, slots=True)
class Preview:
    tasks: int
    by_state: Mapping[str, int]
    last_change: float | None  # Unix seconds, UTC
    upcoming: Sequence[Next]


def restore(
    source: Path,
    path: Path,
    spool: Path | None = None,
    backups: Path | None = None,
    stop: threading.Event | None = None,
) -> Restored:
    """Make `source` the database `path`; the old one is set aside, and only once the new one is checked.

    `source` is a backup or a plain SQLite file, with its -wal if that lies beside it. A backup that lies in
    the folder `backups` gets the ending `.restored`. Raises BackupError, DatabaseTooNew, StorageFull,
    StorageFailed, OSError; the old database is then untouched, or the next start finishes the restore.
    """
    path = _real(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    finish(path, spool, backups)  # what an earlier one left: this one comes after it
    part = _clear_part(path)
    census = extract(source, path, part, stop)
    return _replace(source, path, part, census, spool, backups)


def restore_newest(
    store: BackupStore, path: Path, spool: Path | None = None, at_least: float | None = None
) -> Restored:
    """Restore the newest backup that is sound, was not restored before, and knows a change since `at_least`.

    Raises NoneSound: then nothing has changed. And StorageFull, OSError.
    """
    path = _real(path)
    part, skipped = _clear_part(path), list[str]()
    for backup in store.list():
        try:
            _check_fit(backup, at_least)
            census = extract(backup.path, path, part)
        except (BackupError, DatabaseTooNew) as error:
            skipped.append(f"{backup.name}: {error}")
            log.warning("backup_skipped", backup=backup.name, reason=str(error))
        else:
            return _replace(backup.path, path, part, census, spool, store.folder, tuple(skipped))
    raise NoneSound(skipped)


def finish(path: Path, spool: Path | None = None, backups: Path | None = None) -> Restored | None:
    """Do the rest of a restore that is decided; None if there is none. Killed anywhere, call it again.

    The folder for the old files is named after the decision, so that all of them meet in it.
    """
    path = _real(path)
    _clear_part(path)
    if (ready := _ready(path)) is None:
        return None
    backup = ready.name.removeprefix(f"{path.name}{_READY}").removeprefix(".")
    _mark_used(backup, backups)
    folder = aside(path, ready.stat().st_mtime)
    moved = set_aside(path, folder)
    orphans = keep_orphans(spool, known(ready, audio_ids(spool)), folder) if spool else 0
    census = archive.take_census(ready)
    durable.publish(ready, path)
    return Restored(backup, census.tasks, census.by_state, folder if moved or orphans else None, orphans)


def extract(source: Path, path: Path, part: Path, stop: threading.Event | None = None) -> Census:
    """Write the database in `source` to the new file `part`, checked: a clean one of ours that we can read.

    `path` is the database it is meant for. Nothing is left if it fails. Raises BackupError, DatabaseTooNew,
    StorageFull, OSError.
    """
    if path.exists() and source.samefile(path):
        raise NotABackup(f"{source} is the database itself")
    with durable.gone_if_it_fails(part):
        if archive.is_sqlite(source):
            census = _copy(source, part, stop or threading.Event())
        else:
            census = archive.unpack(source, part, stop)
        _check_condition(condition.examine(part), {Condition.CLEAN})
    return census


def preview(
    source: Path, path: Path, spool: Path, order: Literal["lifo", "fifo"] = "lifo", limit: int = 20
) -> Preview:
    """What a restore would bring, and what would run next; nothing changes. Raises as `extract` does.

    Tenants' limits are not considered.
    """
    path = _real(path)
    with TemporaryDirectory(dir=path.parent, prefix=".preview-") as folder:
        part = Path(folder) / path.name
        census = extract(source, path, part)
        return Preview(census.tasks, census.by_state, census.last_change, upcoming(part, spool, order, limit))


def upcoming(
    database: Path, spool: Path, order: Literal["lifo", "fifo"] = "lifo", limit: int = 20
) -> Sequence[Next]:
    """What would run next, in order; of a database that nobody has open, as after a start."""
    direction = {"lifo": "desc", "fifo": "asc"}[order]
    with closing(archive.connect(database)) as conn:
        rows = conn.execute(
            f"""
            select id, priority, state, audio_name, run_at from task
            where state in ('queued', 'processing')
            order by run_at is not null, case when run_at is null then -priority end, run_at, seq {direction}
            limit ?
            """,
            (limit,),
        ).fetchall()
    return [
        Next(task_id, priority, state, name, run_at, (spool / f"{task_id}{_AUDIO}").is_file())
        for task_id, priority, state, name, run_at in rows
    ]


def set_aside(path: Path, folder: Path) -> bool:
    """Move the database and all that belongs to it into `folder`; whether there was anything.

    The database first: a crash in between then leaves one that is missing, which a start never overlooks,
    and not one without its -wal. Raises OSError.
    """
    found = [file for file in (path, *side_files(path)) if file.exists()]
    for file in found:
        _move(file, folder / file.name)
    if found:
        durable.sync_folder(folder)
        durable.sync_folder(path.parent)
    return bool(found)


def side_files(path: Path) -> Sequence[Path]:
    """What belongs to a database and is worth nothing without it, there or not."""
    return [path.with_name(f"{path.name}{suffix}") for suffix in _SIDE_FILES]


def keep_orphans(spool: Path, known_ids: Collection[str], folder: Path) -> int:
    """Move audio that no task in `known_ids` owns to `folder`, where no clean-up finds it; how many files."""
    orphans = [task_id for task_id in audio_ids(spool) if task_id not in known_ids]
    for task_id in orphans:
        _move(spool / f"{task_id}{_AUDIO}", folder / f"{task_id}{_AUDIO}")
    if orphans:
        durable.sync_folder(folder)
        durable.sync_folder(spool)
    return len(orphans)


def audio_ids(spool: Path) -> Sequence[str]:
    """The tasks that the spool holds audio of."""
    return [file.name.removesuffix(_AUDIO) for file in spool.glob(f"*{_AUDIO}")] if spool.is_dir() else []


def known(database: Path, ids: Iterable[str]) -> set[str]:
    """Those of `ids` that are tasks; of a database that nobody has open and that has no -wal."""
    with closing(archive.connect(database)) as conn:
        found = (conn.execute("select id from task where id = ?", (task_id,)).fetchone() for task_id in ids)
        return {row[0] for row in found if row}


def aside(path: Path, moment: float) -> Path:
    """The folder for what is set aside at a moment (Unix seconds); made when it is needed."""
    return path.parent / SET_ASIDE / f"{datetime.fromtimestamp(moment, UTC):%Y%m%dT%H%M%S.%fZ}"


def _replace(
    source: Path,
    path: Path,
    part: Path,
    census: Census,
    spool: Path | None,
    backups: Path | None,
    skipped: tuple[str, ...] = (),
) -> Restored:
    used = f".{source.name}" if _lies_in(backups, source) else ""
    durable.publish(part, path.with_name(f"{path.name}{_READY}{used}"))  # decided
    done = finish(path, spool, backups)
    assert done is not None
    return replace(done, skipped=skipped)


def _lies_in(backups: Path | None, source: Path) -> bool:
    if time_of(source.name) is None or backups is None or not backups.is_dir():
        return False
    return source.parent.samefile(backups)


def _copy(source: Path, part: Path, stop: threading.Event) -> Census:
    _check_condition(condition.examine(source), _USABLE)
    try:
        snapshot_of(source, part, stop)
    except SnapshotStopped as error:
        raise Stopped(str(error)) from error
    return archive.take_census(part, stop)


def _check_condition(found: Finding, accepted: Collection[Condition]) -> None:
    if found.condition == Condition.TOO_NEW:
        raise DatabaseTooNew(found.reason)
    if found.condition not in accepted:
        raise BadBackup(f"it holds no usable database: {found.reason}")


def _check_fit(backup: Backup, at_least: float | None) -> None:
    """Raises BackupError when it is no candidate, before anything is unpacked."""
    if backup.restored:
        raise BackupError("it was restored before")
    last_change = archive.manifest_of(backup.path).last_change
    if at_least is not None and (last_change is None or last_change < at_least):
        raise BackupError("the database knows of later changes")


def _real(path: Path) -> Path:
    """Side files lie beside the file, not beside a link to it, and a rename must not replace the link."""
    return Path(os.path.realpath(path))


def _ready(path: Path) -> Path | None:
    """The database that is decided to take the place of `path`."""
    name = f"{path.name}{_READY}"
    found = [f for f in path.parent.iterdir() if f.name == name or f.name.startswith(f"{name}.")]
    return min(found, default=None)


def _clear_part(path: Path) -> Path:
    part = path.with_name(f"{path.name}{_PART}")
    part.unlink(missing_ok=True)  # a killed restore's: it was not decided
    return part


def _mark_used(name: str, backups: Path | None) -> None:
    """So that a start does not use it a second time unnoticed. Worth a warning, not a failed restore."""
    if not name or backups is None or name.endswith(RESTORED):
        return
    try:
        (backups / name).rename(backups / f"{name}{RESTORED}")
        durable.sync_folder(backups)
    except FileNotFoundError:
        return  # done before the restore was cut off, or rotated away
    except OSError as error:
        log.warning("backup_not_marked", backup=name, reason=str(error))


def _move(file: Path, target: Path) -> None:
    """Never over another file. The spool may be a disk of its own, hence no plain rename."""
    if target.exists():
        raise FileExistsError(f"{target} is in the way")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.move(file, target)
