"""The folder of backups: takes them from the live database, lists them, and lets the old ones go.

Owns `whisperd-<time>.db.zst`, their `.restored` twins, `latest.db` and `.lock` in its folder, and the
temporary files of its own names; whatever else lies there is never touched. What is in a backup file is
archive.py's, how the live database is read is db.py's.

The names sort by time. A clock that was set back does not change that: times then go on from the newest
backup's, a millisecond each, until the clock has caught up; else an older state could pass for the newest.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import time
from typing import IO, NamedTuple, TypeVar

from whisperd import archive, durable, packer
from whisperd.archive import BackupError, Manifest, Reason, Stopped
from whisperd.db import Database
from whisperd.packer import Laps
from whisperd.snapshot import SnapshotStopped, snapshot_of

R = TypeVar("R")
LATEST = "latest.db"  # the newest backup, unpacked: what to copy instead of the live file
RESTORED = ".restored"  # ends the name of a backup that has been used
_NAME = re.compile(r"whisperd-(\d{8}T\d{6}\.\d{3})Z\.db\.zst(\.restored)?")
_LEFT_OVER = re.compile(
    r"\.whisperd-\d{8}T\d{6}\.\d{3}Z\.db\.(zst(\.restored)?\.part|raw(-journal|-wal|-shm|-old)?)"
)
_SIDE_FILES = ("", "-journal", "-wal", "-shm")
_SMALL = 16 * 2**20  # bytes of a snapshot for which a process of its own is not worth its start


class BackupFailed(BackupError):
    """A backup could not be made, for a reason that is neither a full disk nor the database."""


@dataclass(frozen=True, slots=True)
class Keep:
    """How many backups stay. Hours and days count where they have one: a long stop deletes nothing."""

    newest: int = 24  # at least 1
    hourly: int = 48  # the last of each of so many hours
    daily: int = 14  # the last of each of so many days, UTC


@dataclass(frozen=True, slots=True)
class Backup:
    """One file. `verified`: it was read back and compared when it was made, and has its full size now."""

    path: Path
    taken_at: float  # Unix seconds, UTC: whatever was acknowledged before is in it
    bytes: int  # of the file
    restored: bool = False  # used by a restore; not used again unless somebody names it
    tasks: int | None = None  # None: the file is broken
    reason: str | None = None
    verified: bool = False
    problem: str | None = None  # why it is not
    seconds: float | None = None  # that it took; known only to whoever took it
    phases: dict[str, float] = field(default_factory=dict)  # seconds each, as above

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True, slots=True)
class Entry:
    """As much of a backup as decides whether it stays."""

    name: str
    taken_at: float
    usable: bool = True  # neither broken nor restored
    upgrade: bool = False


class Copies(NamedTuple):
    """How it stands with the copies of backups elsewhere."""

    last: str | None  # the newest copy, of those made since the start
    last_at: float | None  # Unix seconds, UTC: when it was made, or seen to be there
    trouble: str | None  # why the latest try failed; None: it did not
    error: str | None  # the last trouble that there was, perhaps over
    error_at: float | None
    behind: bool  # a newer backup is still to be copied


class BackupStore:
    """Takes one backup at a time, in this process and beside others; kept in `folder`, mode 0700.

    `last` is the newest sound backup, `trouble` why the latest attempt failed, or None. A backup that fails
    leaves nothing behind and the daemon goes on.
    """

    def __init__(
        self, folder: Path, keep: Keep | None = None, level: int = 3, now: Callable[[], float] = time
    ) -> None:
        self.folder = folder
        self.keep = keep or Keep()  # may be replaced: a reload
        self._level = level
        self._now = now
        self._turn = asyncio.Lock()
        self.trouble: str | None = None
        self.last: Backup | None = next((found for found in self.list() if found.verified), None)
        self._confirmed_at = 0.0

    async def take(self, db: Database, reason: Reason, seconds: float | None = None) -> Backup:
        """Back up the live database: whatever was acknowledged before this was called is in it.

        Writers are not held up. When cancelled, or after `seconds`, it ends within half a second; what is not
        complete by then is gone. Raises StorageFull, StorageBusy, StorageFailed, BackupError.
        """
        stop = threading.Event()
        with self._noted():
            try:
                async with asyncio.timeout(seconds), self._turn, self._alone(stop):
                    return await self._take(db, reason, stop)
            except TimeoutError as error:
                raise BackupFailed(f"the backup was not ready after {seconds:g} s") from error

    @property
    def current_at(self) -> float | None:
        """What was acknowledged until then (Unix seconds, UTC) is in the newest sound backup."""
        return max(self.last.taken_at, self._confirmed_at) if self.last else None

    def confirm(self) -> bool:
        """Nothing has changed since the last backup: it is as good as a new one. False: its file is gone."""
        if self.last is None or not self.last.path.exists():
            return False
        self._confirmed_at = self._now()
        return True

    def take_file(self, path: Path, reason: Reason, stop: threading.Event | None = None) -> Backup:
        """Back up a database that nobody has open, with what a crash left in its -wal. Changes nothing of it.

        Blocks. For the owner of its lock only: see db.owned. Raises as `take` does.
        """
        stop = stop or threading.Event()
        with self._noted(), alone_in(self.folder, stop), self._raw() as (raw, taken_at):
            laps = Laps()
            snapshot_of(path, raw, stop)
            laps("snapshot")
            return self._finish(raw, reason, taken_at, laps, stop)

    def list(self) -> Sequence[Backup]:
        """All that have a backup's name, newest first, the broken ones too. Reads a page of each; blocks."""
        with suppress(FileNotFoundError):
            found = [path for path in self.folder.iterdir() if time_of(path.name) is not None]
            return sorted(filter(None, map(_look, found)), key=lambda b: b.name, reverse=True)
        return []

    async def _take(self, db: Database, reason: Reason, stop: threading.Event) -> Backup:
        with self._raw() as (raw, taken_at):
            laps = Laps()
            await db.snapshot(raw, stop)
            laps("snapshot")
            if raw.stat().st_size < _SMALL:
                return await _on_thread(partial(self._finish, raw, reason, taken_at, laps, stop), stop)
            done = await packer.pack(raw, self._target(taken_at), reason, taken_at, self._level)
            assert done.manifest is not None
            phases = laps.seconds | done.phases
            return await _on_thread(partial(self._keep_it, raw, done.manifest, phases), stop)

    def _finish(
        self, raw: Path, reason: Reason, taken_at: float, laps: Laps, stop: threading.Event
    ) -> Backup:
        target = self._target(taken_at)
        manifest = archive.pack(
            raw, target, reason=reason, taken_at=taken_at, level=self._level, stop=stop, done=laps
        )
        return self._keep_it(raw, manifest, laps.seconds)

    def _keep_it(self, raw: Path, manifest: Manifest, phases: dict[str, float]) -> Backup:
        backup = _described(self._target(manifest.taken_at), manifest, phases)
        self.last, self.trouble = backup, None
        self._tidy(raw)
        return backup

    def _target(self, taken_at: float) -> Path:
        return self.folder / name_of(taken_at)

    def _tidy(self, raw: Path) -> None:
        """The backup stands by now; what goes wrong from here on is said, and does not undo it."""
        try:
            _replace_latest(raw, self.folder / LATEST)
            for name in doomed(map(_entry, self.list()), self.keep):
                _let_go(self.folder / name)
        except OSError as error:
            self.trouble = f"the backup was taken, but not what follows it: {error}"

    @contextmanager
    def _raw(self) -> Iterator[tuple[Path, float]]:
        """Where a snapshot goes, and its time. Whatever is left of it in the end is removed."""
        newest = max((time_of(name) or 0 for name in os.listdir(self.folder)), default=0)
        taken_at = max(round(self._now(), 3), round(newest + 0.001, 3))
        raw = self.folder / f".{name_of(taken_at).removesuffix('.zst')}.raw"
        try:
            yield raw, taken_at
        finally:
            _remove(raw)

    @asynccontextmanager
    async def _alone(self, stop: threading.Event) -> AsyncIterator[None]:
        with _lock_file(self.folder) as lock:
            await _on_thread(partial(_claim, lock, self.folder, stop), stop)
            yield

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Remember what went wrong, and say it in the caller's words. A stop is no trouble."""
        try:
            yield
        except SnapshotStopped as error:
            raise Stopped(str(error)) from error
        except Stopped:
            raise
        except OSError as error:
            self.trouble = f"the backup failed: {error.strerror or error}"
            raise BackupFailed(self.trouble) from error
        except Exception as error:
            self.trouble = str(error)
            raise


@contextmanager
def alone_in(folder: Path, stop: threading.Event | None = None) -> Iterator[None]:
    """While it lasts, nobody else writes to this folder of backups, which is made if need be. Blocks.

    What killed ones left in it is gone. Raises Stopped, OSError.
    """
    with _lock_file(folder) as lock:
        _claim(lock, folder, stop or threading.Event())
        yield


def name_of(taken_at: float) -> str:
    moment = datetime.fromtimestamp(taken_at, UTC)
    return f"whisperd-{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03}Z.db.zst"


def time_of(name: str) -> float | None:
    """When a backup of this name was taken, used or not; None for any other name."""
    if not (found := _NAME.fullmatch(name)):
        return None
    try:
        return datetime.fromisoformat(f"{found[1]}+00:00").timestamp()
    except ValueError:  # the 31st of June
        return None


def doomed(entries: Iterable[Entry], keep: Keep) -> set[str]:
    """The names that may go: pure, and never all that are usable.

    What is broken or was restored takes nobody's place: it goes once `keep.newest` usable ones are newer.
    The newest that was taken before an upgrade stays: it is the way back.
    """
    newest_first = sorted(entries, key=lambda entry: entry.taken_at, reverse=True)
    usable = [entry for entry in newest_first if entry.usable]
    kept = {entry.name for entry in usable[: max(1, keep.newest)]}
    kept |= _last_of_each(usable, 3600, keep.hourly) | _last_of_each(usable, 86400, keep.daily)
    kept |= {entry.name for entry in [e for e in usable if e.upgrade][:1]}
    for entry in newest_first[: _place_of(newest_first, usable, keep)]:
        kept.add(entry.name)
    return {entry.name for entry in newest_first} - kept


def _last_of_each(newest_first: Sequence[Entry], seconds: int, count: int) -> set[str]:
    last: dict[int, str] = {}
    for entry in newest_first:
        last.setdefault(int(entry.taken_at // seconds), entry.name)
    return set(list(last.values())[:count])


def _place_of(newest_first: Sequence[Entry], usable: Sequence[Entry], keep: Keep) -> int:
    """How many entries are not older than the last of the newest usable ones."""
    enough = len(usable) >= max(1, keep.newest)
    return newest_first.index(usable[max(1, keep.newest) - 1]) if enough else len(newest_first)


def _entry(backup: Backup) -> Entry:
    usable = backup.verified and not backup.restored
    return Entry(backup.name, backup.taken_at, usable, backup.reason == "upgrade")


def _look(path: Path) -> Backup | None:
    """What a file in the folder is, as far as its first page tells; None if it is no file, or gone."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    backup = Backup(path, time_of(path.name) or 0, found.st_size, restored=path.name.endswith(RESTORED))
    try:
        manifest = archive.manifest_of(path)
    except FileNotFoundError:
        return None
    except (BackupError, OSError) as error:
        return replace(backup, problem=str(error))
    return replace(backup, tasks=manifest.tasks, reason=manifest.reason, verified=True)


def _described(path: Path, manifest: Manifest, phases: dict[str, float]) -> Backup:
    return Backup(
        path,
        manifest.taken_at,
        manifest.packed,
        tasks=manifest.tasks,
        reason=manifest.reason,
        verified=True,
        seconds=sum(phases.values()),
        phases=phases,
    )


def _replace_latest(raw: Path, latest: Path) -> None:
    """Side files can only be an older copy's, that somebody opened: with the new one they would be wrong."""
    for suffix in _SIDE_FILES[1:]:
        Path(f"{latest}{suffix}").unlink(missing_ok=True)
    old = Path(f"{raw}-old")
    with suppress(OSError):  # there is none yet, or the disk has no links: then it is freed at once
        old.hardlink_to(latest)
    durable.publish(raw, latest)
    durable.remove(old)


def _let_go(path: Path) -> None:
    """Its name goes first: killed in mid-removal, it is a left-over and no broken backup."""
    with suppress(FileNotFoundError):
        durable.remove(path.rename(archive.part_of(path)))


def _remove(raw: Path) -> None:
    for suffix in _SIDE_FILES:
        durable.remove(Path(f"{raw}{suffix}"))


@contextmanager
def _lock_file(folder: Path) -> Iterator[IO[bytes]]:
    durable.make_folder(folder)
    with open(folder / ".lock", "ab", opener=_private) as file:
        yield file


def _claim(lock: IO[bytes], folder: Path, stop: threading.Event) -> None:
    """Wait until no process backs up to this folder, then remove what killed ones left."""
    while not _locked(lock):
        if stop.wait(0.05):
            raise Stopped("stopped while another process backs up")
    for name in filter(_LEFT_OVER.fullmatch, os.listdir(folder)):
        durable.remove(folder / name)


def _locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


async def _on_thread(fn: Callable[[], R], stop: threading.Event) -> R:
    """Call it on a thread. A cancel sets `stop` and waits for its end."""
    working = asyncio.ensure_future(asyncio.to_thread(fn))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stop.set()
        while not working.done():  # a second cancel must not leave the thread behind either
            with suppress(asyncio.CancelledError):
                await asyncio.wait([working])
        working.exception()  # heard, though nobody cares any more
        raise
