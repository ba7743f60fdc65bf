"""How a database comes back from a backup, and where the one that it replaces goes.

For the owner of the database's lock (db.owned), with no connection open on it. Everything here blocks.
Nothing is deleted: what is replaced moves to `set-aside/<time>/` beside the database, and so does audio
whose task the restored database does not know (it was acknowledged after the backup).

A restore is decided when a complete, checked, fsynced `<database>.restoring…` has its name. Killed before,
the old database is untouched; killed after, `finish` at the next start does the rest. What is restored gets
more commits than any backup in the folder has (adopt.py): the queue that goes on is always ahead.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import structlog

from whisperd import archive, condition, durable, scratch
from whisperd.adopt import adopt
from whisperd.archive import BackupError, BadBackup, Census, DamagedDatabase, NotABackup, Stopped
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
    """No backup could be used; `skipped` says why, of each that was looked at."""

    def __init__(self, skipped: Sequence[str]) -> None:
        super().__init__("; ".join(skipped) or "there are no backups")
        self.skipped = tuple(skipped)


class _Unfit(BackupError):
    """A sound backup that is not the one to restore."""


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
    durable.make_folder(path.parent)
    finished = finish(path, spool, backups)  # what an earlier one left: this one comes after it
    if finished and finished.backup == source.name and _lies_in(backups, source):
        return finished  # the same, which was cut off
    _decide(source, path, backups, stop)
    return _done(path, spool, backups)


def restore_newest(
    store: BackupStore, path: Path, spool: Path | None = None, at_least: int | None = None
) -> Restored:
    """Restore the newest backup that is sound and was not restored before.

    With `at_least`, only the newest sound one is considered, and only if it knows so many commits: older ones
    may be of a queue that was given up, and know more of that. What an earlier restore of the newest had left
    to do is done, and is all then. Raises NoneSound: then nothing has changed. And StorageFull, OSError.
    """
    path = _real(path)
    finished, skipped = finish(path, spool, store.folder), list[str]()
    for backup in store.list():
        if finished and backup.name.removesuffix(RESTORED) == finished.backup:
            break
        try:
            _check_fit(backup, at_least)
            _decide(backup.path, path, store.folder)
        except (BackupError, DatabaseTooNew) as error:
            skipped.append(f"{backup.name}: {error}")
            if not isinstance(error, _Unfit):
                log.warning("backup_skipped", backup=backup.name, reason=str(error))
            elif at_least is not None:
                break
        else:
            return replace(_done(path, spool, store.folder), skipped=tuple(skipped))
    if finished:
        return replace(finished, skipped=tuple(skipped))
    raise NoneSound(skipped)


def highest_commits(backups: Path | None) -> int:
    """The most that any sound backup in the folder knows; 0 if there is none."""
    found = [] if backups is None or not backups.is_dir() else list(backups.iterdir())
    highest = 0
    for path in found:
        if time_of(path.name) is not None:
            with suppress(BackupError, OSError):
                highest = max(highest, archive.manifest_of(path).commits)
    return highest


def finish(path: Path, spool: Path | None = None, backups: Path | None = None) -> Restored | None:
    """Do the rest of a restore that is decided; None if there is none. Killed anywhere, call it again.

    The folder for the old files is named after the decision, so that all of them meet in it. A decided one
    that was damaged since goes there too, and counts as none. Raises OSError.
    """
    path = _real(path)
    _clear_part(path)
    scratch.clear(path.parent)
    if (ready := _ready(path)) is None:
        return None
    backup = ready.name.removeprefix(f"{path.name}{_READY}").removeprefix(".")
    folder = aside(path, ready.stat().st_mtime)
    if (census := _census_of(ready, folder)) is None:
        return None
    _mark_used(backup, backups)
    moved = set_aside(path, folder)
    orphans = keep_orphans(spool, condition.known_tasks(ready, audio_ids(spool)), folder) if spool else 0
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
    with scratch.scratch(path.parent) as folder:
        part = folder / path.name
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
    _move(found, folder)
    return bool(found)


def side_files(path: Path) -> Sequence[Path]:
    """What belongs to a database and is worth nothing without it, there or not."""
    return [path.with_name(f"{path.name}{suffix}") for suffix in _SIDE_FILES]


def keep_orphans(spool: Path, known_ids: Collection[str], folder: Path) -> int:
    """Move audio that no task in `known_ids` owns to `folder`, where no clean-up finds it; how many files.

    Where the spool is a disk of its own, it goes to `set-aside/<name of folder>/` in the spool: a copy could
    take long, find no room, or be cut off. Killed anywhere, call it again. Raises OSError.
    """
    orphans = [spool / f"{task_id}{_AUDIO}" for task_id in audio_ids(spool) if task_id not in known_ids]
    try:
        _move(orphans, folder)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        there = spool / SET_ASIDE / folder.name
        log.warning("audio_set_aside_on_its_own_disk", files=len(orphans), folder=str(there))
        _move(orphans, there)
    return len(orphans)


def audio_ids(spool: Path) -> Sequence[str]:
    """The tasks that the spool holds audio of."""
    return [file.name.removesuffix(_AUDIO) for file in spool.glob(f"*{_AUDIO}")] if spool.is_dir() else []


def aside(path: Path, moment: float) -> Path:
    """The folder for what is set aside at a moment (Unix seconds); made when it is needed."""
    return path.parent / SET_ASIDE / f"{datetime.fromtimestamp(moment, UTC):%Y%m%dT%H%M%S.%fZ}"


def _decide(source: Path, path: Path, backups: Path | None, stop: threading.Event | None = None) -> None:
    """From here on `source` is what `finish` brings."""
    part = _clear_part(path)
    with durable.gone_if_it_fails(part):
        extract(source, path, part, stop)
        adopt(part, highest_commits(backups))
        used = f".{source.name}" if _lies_in(backups, source) else ""
        durable.publish(part, path.with_name(f"{path.name}{_READY}{used}"))


def _done(path: Path, spool: Path | None, backups: Path | None) -> Restored:
    if (done := finish(path, spool, backups)) is None:
        raise BadBackup("the disk gave back something else than was written to it: the restore was given up")
    return done


def _census_of(ready: Path, folder: Path) -> Census | None:
    found = condition.examine(ready)
    try:
        if found.condition not in {Condition.CLEAN, Condition.TOO_NEW}:  # too new: the start says what to do
            raise DamagedDatabase(found.reason)
        return archive.take_census(ready)
    except DamagedDatabase as error:
        log.warning("decided_restore_given_up", reason=str(error), set_aside=str(folder))
        _move([ready], folder)
        return None


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


def _check_fit(backup: Backup, at_least: int | None) -> None:
    """Raises BackupError when it is no candidate, before anything is unpacked."""
    if backup.restored:
        raise _Unfit("it was restored before")
    if archive.manifest_of(backup.path).commits < (at_least or 0):
        raise _Unfit("the database knows of later changes")


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


def _move(files: Collection[Path], folder: Path) -> None:
    """Into a folder that is made if need be, for good, in this order; never over another file."""
    for file in files:
        target = folder / file.name
        if target.exists():
            raise FileExistsError(
                errno.EEXIST, "it is in the way: move it elsewhere, then try again", str(target)
            )
        durable.make_folder(folder)
        file.rename(target)
    if files:
        durable.sync_folder(folder)
        for source in {file.parent for file in files}:
            durable.sync_folder(source)
