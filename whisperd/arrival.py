"""What a start finds in the place of its database, and what it does about that.

For the owner of the database's lock (db.owned), before a connection is open on it. Blocks. A start never
begins with an empty queue where there was a full one, unless it was told to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time

from whisperd import condition, restore
from whisperd.backup import BackupStore
from whisperd.condition import Condition, Finding
from whisperd.db import NEWEST_SCHEMA, DatabaseTooNew
from whisperd.restore import SET_ASIDE, NoneSound, Restored


class CannotStart(Exception):
    """The database cannot be used as it is found, and was left so. The message says what to do."""


class NoBackup(CannotStart):
    """There was a queue, and there is no backup to bring it back from."""


@dataclass(frozen=True, slots=True)
class Arrival:
    condition: Condition
    message: str  # one sentence, for the log and /health
    at: float  # Unix seconds, UTC
    recovered: bool = False  # the queue may not be what it was: an operator has to know
    restored: str | None = None  # the name of the backup that is the queue now
    set_aside: Path | None = None  # where the old files went
    orphans: int = 0  # audio files of tasks that the database does not know; they went there too
    skipped: tuple[str, ...] = ()  # backups that could not be used, and why


@dataclass(frozen=True, slots=True)
class _Start:
    path: Path
    store: BackupStore
    spool: Path
    begin_afresh: bool
    at: float


def prepare(
    path: Path,
    store: BackupStore,
    spool: Path,
    *,
    begin_afresh: bool = False,
    now: Callable[[], float] = time,
) -> Arrival:
    """Make `path` a database to start with, or raise and leave it as it is.

    A missing or torn one is set aside and the newest sound backup restored. Any other that is not byte by
    byte what an orderly end left has its commits compared with those of the newest sound backup: who knows
    more is used, and audio whose task he does not know is set aside.
    With nothing to restore, `begin_afresh` starts an empty queue. Raises CannotStart, NoBackup,
    DatabaseTooNew; BackupError and StorageFull, of the backup before an upgrade; OSError.
    """
    path = Path(os.path.realpath(path))
    _check_writable(path)
    start = _Start(path, store, spool, begin_afresh, now())
    if finished := restore.finish(path, spool, store.folder):
        return _restored(start, Condition.ABSENT, "a restore had been cut off", finished)
    if not condition.undo(path):
        ways = "make room on its disk, and see that it can be written"
        raise CannotStart(f"{path}: a change was cut off, and SQLite could not undo it: {ways}")
    found = condition.examine(path)
    if found.condition in _ANSWERS:
        return _ANSWERS[found.condition](start, found)
    if found.condition == Condition.TOO_NEW:
        ways = "upgrade whisperd, or `whisperd restore` the backup that was taken before the upgrade"
        raise DatabaseTooNew(f"{path}: {found.reason}; {ways}")
    raise CannotStart(f"{path} cannot be used: {found.reason}; it was left as it is")


def _kept(start: _Start, found: Finding) -> Arrival:
    _before_upgrade(start, found)
    return Arrival(found.condition, found.reason, start.at)


def _absent(start: _Start, found: Finding) -> Arrival:
    traces = _traces(start)
    if not traces:
        return Arrival(found.condition, "a first start: the queue is empty", start.at)
    return _brought_back(start, found, f"{start.path} is missing, but there is {' and '.join(traces)}")


def _torn(start: _Start, found: Finding) -> Arrival:
    if start.path.stat().st_size == 0 and _never_began(start, "-journal"):
        return _first_after_all(start, found)
    return _brought_back(start, found, f"{start.path} is broken: {found.reason}")


def _clean(start: _Start, found: Finding) -> Arrival:
    return _kept(start, found) if found.sealed else _compared(start, found)


def _compared(start: _Start, found: Finding) -> Arrival:
    if not found.schema:
        return _without_tables(start, found)
    if found.commits is None:  # of a version that did not count: the backup before its upgrade is yet to come
        return _used(start, found, ())
    try:
        done = restore.restore_newest(start.store, start.path, start.spool, _at_least(found))
    except NoneSound as error:
        return _used(start, found, error.skipped)
    what = "as much" if found.condition == Condition.CHANGED else "more"
    return _restored(start, found.condition, f"{found.reason}; the newest backup knows {what}", done)


def _without_tables(start: _Start, found: Finding) -> Arrival:
    own = ["-journal"] if found.condition == Condition.BARE else ["-journal", "-wal", "-shm"]
    if _never_began(start, *own):
        return _first_after_all(start, found)
    return _brought_back(start, found, f"{start.path} holds no tables: {found.reason}")


def _at_least(found: Finding) -> int:
    """How many commits a backup has to know to be preferred.

    More than the file. As many where somebody changed it while nobody ran: the backup of the last stop then
    holds the same, without the change. Never times: clocks are set back, and a retry takes its time away.
    """
    known = found.commits or 0
    return known if found.condition == Condition.CHANGED else known + 1


def _used(start: _Start, found: Finding, skipped: tuple[str, ...]) -> Arrival:
    """What it does not know of may be all there is left of a task that it has lost."""
    _before_upgrade(start, found)
    aside = restore.aside(start.path, start.at)
    known = condition.known_tasks(start.path, restore.audio_ids(start.spool))
    orphans = restore.keep_orphans(start.spool, known, aside)
    doubtful = found.condition in _DOUBTFUL
    message = found.reason + ("; no backup knows more, so it is used as it is" if doubtful else "")
    if orphans:
        message += f"; {orphans} audio files of no task were set aside"
    where, why = aside if orphans else None, skipped if doubtful else ()
    return Arrival(found.condition, message, start.at, doubtful, None, where, orphans, why)


def _brought_back(start: _Start, found: Finding, what: str) -> Arrival:
    try:
        done = restore.restore_newest(start.store, start.path, start.spool)
    except NoneSound as error:
        if not start.begin_afresh:
            raise NoBackup(_ways_on(start, what, error.skipped)) from error
        return _afresh(start, found, what, error.skipped)
    return _restored(start, found.condition, what, done)


def _afresh(start: _Start, found: Finding, what: str, skipped: tuple[str, ...]) -> Arrival:
    aside = restore.aside(start.path, start.at)
    moved = restore.set_aside(start.path, aside)
    orphans = restore.keep_orphans(start.spool, (), aside)
    message = f"{what}; as told, the queue begins afresh"
    where = aside if moved or orphans else None
    return Arrival(found.condition, message, start.at, True, None, where, orphans, skipped)


def _restored(start: _Start, condition: Condition, what: str, done: Restored) -> Arrival:
    source = done.backup or "the file that was named"
    message = f"{what}; restored {source} with {done.tasks} tasks"
    if done.orphans:
        message += f", {done.orphans} audio files belong to tasks that it does not know"
    return Arrival(
        condition,
        message,
        start.at,
        True,
        done.backup or None,
        done.set_aside,
        done.orphans,
        done.skipped,
    )


def _before_upgrade(start: _Start, found: Finding) -> None:
    """The way back, should the new version disappoint."""
    if found.schema and found.schema < NEWEST_SCHEMA:
        start.store.take_file(start.path, "upgrade")


def _first_after_all(start: _Start, found: Finding) -> Arrival:
    return Arrival(found.condition, "a first start, after one that was cut off", start.at)


def _never_began(start: _Start, *own: str) -> bool:
    """Of a database without content: whether beside it lies only what SQLite leaves at a new one."""
    return set(_traces(start)) <= {f"{start.path.name}{end}" for end in own}


def _traces(start: _Start) -> Sequence[str]:
    """What an earlier life left: with any of it, a missing database is a loss and not a first start."""
    backups, audio = len(start.store.list()), len(restore.audio_ids(start.spool))
    traces = [file.name for file in restore.side_files(start.path) if file.exists()]
    traces += [f"the folder {SET_ASIDE}"] if (start.path.parent / SET_ASIDE).exists() else []
    traces += [f"{backups} backups in {start.store.folder}"] if backups else []
    return traces + ([f"audio of {audio} tasks in {start.spool}"] if audio else [])


def _ways_on(start: _Start, what: str, skipped: Sequence[str]) -> str:
    why = f"no backup can be used ({'; '.join(skipped)})" if skipped else "there is no backup"
    return (
        f"{what}, and {why}. Nothing was changed. To bring the queue back: `whisperd restore FILE` with a "
        f"backup from elsewhere, or put one into {start.store.folder}. To give it up: "
        "`whisperd serve --begin-afresh`, which deletes nothing"
    )


def _check_writable(path: Path) -> None:
    for needed in (path, path.parent):
        if needed.exists() and not os.access(needed, os.W_OK):
            raise CannotStart(
                f"{needed} cannot be written: check its owner, its mode and how its disk is mounted"
            )


_ANSWERS = {
    Condition.ABSENT: _absent,
    Condition.CLEAN: _clean,
    Condition.CRASHED: _compared,
    Condition.BARE: _compared,
    Condition.CHANGED: _compared,
    Condition.TORN: _torn,
}
_DOUBTFUL = {Condition.BARE, Condition.CHANGED}  # an operator has to know, whatever was done
