"""One SQLite file: who may open it, which connection writes, and how writes share a commit.

Owns the file, its lock, its connections and its schema. Knows nothing of tasks. Only SQLite itself may
touch the database, its -wal and its -shm: opening the live file by path and closing it again drops
SQLite's locks, since POSIX locks belong to the process (https://sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias, TypeVar

import aiosqlite

from whisperd.connection import (
    Files,
    connect,
    connect_read_only,
    count_commit,
    mark,
    merge,
    set_reading,
    set_writing,
    tend,
)
from whisperd.snapshot import copy
from whisperd.sqlite_trouble import failed, translation
from whisperd.task import StorageFailed, TaskError
from whisperd.together import Together, attempt

R = TypeVar("R")
LARGEST_BATCH = 256  # verbs in one transaction; what comes meanwhile waits for the next commit
READS_AT_ONCE = 32  # on one hop to their thread: the first waits for the last
IDLE_SECONDS = 1.0  # without a write, until what is in the -wal goes into the file
_OF_A_JOB = {  # primary result codes that say something of what was asked, or of what stands in a row
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_TOOBIG,
}


_Read: TypeAlias = Callable[[sqlite3.Connection], Any]


class DatabaseInUse(Exception):
    """Another daemon owns this database."""


class DatabaseTooNew(Exception):
    """A newer whisperd wrote this database."""


@dataclass(slots=True)
class _Job:
    run: Callable[[sqlite3.Connection], Any]
    then: Callable[[Any], None] | None
    answer: asyncio.Future[Any]


class Database:
    """Runs plain functions of a connection: `write` on the only one that may write, `read` on another.

    A function is one transaction. Functions that are waiting when a commit begins share the next one
    (group commit), each inside its own savepoint; every caller is answered only after that commit has
    reached the disk (synchronous = full). Cancelling a caller leaves all of its function or none of it.
    Whoever opens one holds `owned` for its path around it.

    While it is open, the file itself says so (`session.clean` = 0); an orderly end marks it clean and leaves
    no -wal. So a file that is not clean and has no -wal was copied alone, or lost it.
    After trouble nothing is written any more, not even at the end: file and -wal stay for the next start.
    Weakness: functions run in order on one thread, so a slow one holds up all writers.
    `committed` is told the seconds of each transaction, with the way to its thread and back.
    """

    def __init__(
        self,
        path: Path,
        idle_seconds: float = IDLE_SECONDS,
        committed: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.path = path
        self._committed_in = committed
        self._idle_seconds = idle_seconds
        self._jobs: asyncio.Queue[_Job | None] = asyncio.Queue()
        self._broken: str | None = None
        self._closed = False
        self._ending = threading.Event()  # for the thread that copies
        self._one_snapshot = asyncio.Lock()
        self._unmerged = True  # the -wal holds what the file does not
        self._writing, self._reading, self._searching = connect(path), connect(path), connect(path)
        self._copying = connect_read_only(path)
        self._reads = Together(partial(self._read_all, self._reading), READS_AT_ONCE)
        self._searches = Together(partial(self._read_all, self._searching), 1)

    async def __aenter__(self) -> Database:
        opening = asyncio.create_task(self._open(), name="db-open")
        try:  # shielded: cut off while it opens one, aiosqlite would leave a connection open
            await asyncio.shield(opening)
        except BaseException:
            await asyncio.wait([opening])
            await self._close(clean=False)
            raise
        # Not in a TaskGroup: it would wrap what the body raises. It is awaited in __aexit__.
        self._writer = asyncio.create_task(self._write_batches(), name="db-writer")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closed = True
        self._ending.set()
        self._jobs.put_nowait(None)  # after all that was asked for
        clean = False
        try:
            await self._writer
            clean = await self._marked_clean()
        finally:  # cancelled or not: a thread that is left over would keep the process from ending
            await self._close(clean)

    async def read(self, fn: Callable[..., R], *args: Any) -> R:
        """Call `fn(conn, *args)` on the reading connection; a write through it is refused.

        All that it reads is of one moment, and after every write that was answered before.
        """
        found: R = await self._reads.ask(self._reader(fn, args))
        return found

    async def search(self, fn: Callable[..., R], *args: Any) -> R:
        """As `read`, on a connection of its own: what may take a tenth of a second holds up no others."""
        found: R = await self._searches.ask(self._reader(fn, args))
        return found

    async def write(self, fn: Callable[..., R], *args: Any, then: Callable[[R], None] | None = None) -> R:
        """Commit `fn(conn, *args)` and return its result; `then(result)` runs on the loop, in commit order.

        `then` runs even if the caller was cancelled while the commit was under way.
        Raises StorageFull when the disk is full, StorageReadOnly when it may not be written, StorageBusy when
        another program holds the database, StorageFailed after any other trouble. All of them committed
        nothing; only an I/O error on the commit itself, and a file that vanished in it, are ambiguous, which
        is why nothing more is written after such trouble. StorageFailed too where `fn` itself asked for what
        cannot be, or met text that is none: that is its own trouble, and others are written.
        """
        if self._closed:
            raise StorageFailed("the database is closed")
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait(_Job(partial(_with_args, fn, args), then, answer))
        return await answer

    async def snapshot(self, target: Path, stop: threading.Event) -> None:
        """Copy all that is committed into the new file `target`: one self-contained database, mode 0600.

        Writers go on meanwhile. Works after trouble too, and when file or -wal have lost their names: its
        connection has had them open since the start. One at a time; a second one waits.
        Safe to cancel. Raises SnapshotStopped once `stop` is set or the database closes, StorageFull,
        StorageFailed. `target` is gone after any of them. Does not fsync the folder.
        """
        if self._closed:
            raise StorageFailed("the database is closed")
        async with self._one_snapshot:
            cancelled = threading.Event()
            ends = (stop, cancelled, self._ending)
            take = partial(copy, target=target, stopped=lambda: any(end.is_set() for end in ends))
            try:
                await self._on(self._copying, take)
            except asyncio.CancelledError:
                cancelled.set()
                await _hop(self._copying, _nothing)  # its thread has taken `target` away
                raise

    async def changes(self) -> int:
        """Rows that were changed since it was opened. Asked of the writer, so it shows that one answers."""
        return await self.write(_total_changes)

    async def tend(self) -> None:
        """Let SQLite look after its statistics, and move what it can from the -wal into the file.

        Raises what `write` raises. Waits for no reader.
        """
        if trouble := "the database is closed" if self._closed else self._broken:
            raise StorageFailed(trouble)
        try:
            await self._on(self._writing, tend)
        except StorageFailed as error:
            self._note(error)
            raise

    def check_files(self) -> str | None:
        """Why nothing is written any more, after a look whether the files still have their names.

        Where they have not, the next start would not find what is committed from now on. Costs a few µs; the
        writer also looks before each acknowledgement.
        """
        self._broken = self._broken or self._files.trouble()
        return self._broken

    @property
    def broken(self) -> str | None:
        """Why nothing is written any more; None while all is well."""
        return self._broken

    async def _open(self) -> None:
        await self._writing
        await self._on(self._writing, _begin)
        for conn in (self._reading, self._searching, self._copying):
            await conn
            await self._on(conn, set_reading)
        self._unmerged = not await self._on(self._writing, partial(_marked, clean=False))
        self._files = Files(self.path)

    def _reader(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> _Read:
        return partial(_translated, self.path, partial(_with_args, fn, args))

    async def _read_all(self, conn: aiosqlite.Connection, reads: Sequence[_Read]) -> Sequence[Any]:
        return await self._on(conn, partial(_at_one_moment, reads))

    async def _on(self, conn: aiosqlite.Connection, fn: Callable[[sqlite3.Connection], R]) -> R:
        return await _hop(conn, partial(_translated, self.path, fn))

    async def _write_batches(self) -> None:
        while batch := await self._next_batch():
            try:
                outcomes = await self._committed(batch)
            except Exception as error:  # an edge: whatever the commit raised belongs to its callers
                self._note(error)
                outcomes = [error] * len(batch)
            for job, outcome in zip(batch, outcomes, strict=True):
                _settle(job, outcome)

    async def _committed(self, batch: Sequence[_Job]) -> list[Any]:
        if self._broken:  # asked here and not in `write`: what was waiting then must not be written either
            raise StorageFailed(self._broken)
        self._unmerged = True
        began = monotonic()
        outcomes = await self._on(self._writing, partial(_commit, batch, self._files))
        self._committed_in(monotonic() - began)
        return outcomes

    async def _next_batch(self) -> list[_Job]:
        batch: list[_Job] = []
        while len(batch) < LARGEST_BATCH and (not batch or not self._jobs.empty()):
            job = await self._next_job()
            if job is None:
                self._jobs.put_nowait(None)  # end at the next look
                break
            batch.append(job)
        return batch

    async def _next_job(self) -> _Job | None:
        """The next one; while there is none, see to it that the file alone is soon complete."""
        while self._jobs.empty() and self._unmerged and not self._broken:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    return await self._jobs.get()
            except TimeoutError:
                await self._merge()
        return await self._jobs.get()

    async def _merge(self) -> None:
        try:
            self._unmerged = not await self._on(self._writing, merge)
        except TaskError as error:  # a full disk may have room in a second
            self._note(error)

    def _note(self, error: Exception) -> None:
        if isinstance(error, StorageFailed):
            self._broken = str(error)

    async def _marked_clean(self) -> bool:
        """True once the file says that it was closed in order, and needs no -wal."""
        for conn in (self._reading, self._searching):
            await conn.close()  # which waits for its thread: a read would hold up the merge
        await _hop(self._copying, _nothing)
        if self.check_files():
            return False
        try:
            return await self._on(self._writing, partial(_marked, clean=True))
        except TaskError:  # the next start finds the -wal, and asks it
            return False

    async def _close(self, clean: bool) -> None:
        """Who closes last decides what becomes of the -wal.

        One that may write merges it into the file and removes it, unasked; one that may not leaves it.
        """
        last = [self._copying, self._writing] if clean else [self._writing, self._copying]
        async with AsyncExitStack() as stack:
            for conn in reversed([self._reading, self._searching, *last]):
                stack.push_async_callback(conn.close)


def _commit(batch: Sequence[_Job], files: Files, conn: sqlite3.Connection) -> list[Any]:
    """Run all jobs in one transaction; what a job raises is its outcome and undoes only that job.

    What changes no row must not change the file either: an idle daemon is asked every few seconds.
    """
    outcomes = [_alone(conn, batch[0])] if len(batch) == 1 else _together(conn, batch)
    if trouble := files.trouble():  # after the commit, never before: else it may be in a -wal without a name
        raise StorageFailed(trouble)
    return outcomes


def _alone(conn: sqlite3.Connection, job: _Job) -> Any:
    """Its transaction is undone whole: that spares it a savepoint."""
    try:
        with _counted(conn):
            return job.run(conn)
    except Exception as error:
        if _is_trouble(error):
            raise
        return _told(error)


def _together(conn: sqlite3.Connection, batch: Sequence[_Job]) -> list[Any]:
    with _counted(conn):
        return [_attempt(conn, job) for job in batch]


def _attempt(conn: sqlite3.Connection, job: _Job) -> Any:
    conn.execute("savepoint job")
    try:
        result = job.run(conn)
    except Exception as error:
        if _is_trouble(error):
            raise  # the whole batch is lost
        conn.execute("rollback to job")
        result = _told(error)
    conn.execute("release job")
    return result


def _is_trouble(error: Exception) -> bool:
    """Of the disk, and not of the job: Python's own errors have no code, over text that is not UTF-8, say."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.Error) and code is not None and code & 0xFF not in _OF_A_JOB


def _told(error: Exception) -> Exception:
    """What the caller of a job hears of it."""
    if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
        return failed(error)
    return error


@contextmanager
def _counted(conn: sqlite3.Connection) -> Iterator[None]:
    with transaction(conn):
        before = conn.total_changes
        yield
        if conn.total_changes != before:
            count_commit(conn)


def _settle(job: _Job, outcome: Any) -> None:
    if job.then is not None and not isinstance(outcome, BaseException):
        try:
            job.then(outcome)
        except Exception as error:  # an edge: the writer must outlive what its listeners do wrong
            outcome = error
    if job.answer.done():  # its caller was cancelled
        return
    if isinstance(outcome, BaseException):
        job.answer.set_exception(outcome)
    else:
        job.answer.set_result(outcome)


@contextmanager
def transaction(conn: sqlite3.Connection) -> Iterator[None]:
    """BEGIN IMMEDIATE … COMMIT, or nothing at all."""
    conn.execute("begin immediate")
    try:
        yield
        conn.execute("commit")
    except BaseException:
        if conn.in_transaction:  # a full disk has rolled back already, a failed commit has not
            conn.execute("rollback")
        raise


def _translated(path: Path, fn: Callable[[sqlite3.Connection], R], conn: sqlite3.Connection) -> R:
    with translation(path):
        return fn(conn)


def _with_args(fn: Callable[..., R], args: tuple[Any, ...], conn: sqlite3.Connection) -> R:
    return fn(conn, *args)


def _at_one_moment(reads: Sequence[_Read], conn: sqlite3.Connection) -> list[Any]:
    """The outcome of each: what it raises is one, too."""
    outcomes = []
    try:
        for read in reads:
            if not conn.in_transaction:  # SQLite has ended it itself after some errors
                conn.execute("begin")
            outcomes.append(attempt(partial(read, conn)))
    finally:
        if conn.in_transaction:
            conn.execute("rollback")
    return outcomes


async def _hop(conn: aiosqlite.Connection, fn: Callable[[sqlite3.Connection], R]) -> R:
    """Run `fn(connection)` on aiosqlite's thread: one hop for a whole transaction.

    aiosqlite's public calls cost a hop each (56 µs) and let two coroutines interleave inside one
    transaction. This is the only use of its private call; test_db.py holds that it exists.
    """
    result: R = await conn._execute(fn, conn._conn)  # type: ignore[no-untyped-call]
    return result


def _total_changes(conn: sqlite3.Connection) -> int:
    return conn.total_changes


def _nothing(conn: sqlite3.Connection) -> None:
    """All that was asked of its thread before is done."""


def _begin(conn: sqlite3.Connection) -> None:
    set_writing(conn)
    migrate(conn)


def _marked(conn: sqlite3.Connection, *, clean: bool) -> bool:
    """True when the mark stands in the file itself."""
    with transaction(conn):
        mark(conn, clean=clean)
    return merge(conn)


def _scripts() -> list[str]:
    """The numbered files in order: the first makes schema 1 of nothing, the n-th schema n of n - 1."""
    found = resources.files("whisperd.migrations").iterdir()
    files = sorted((f for f in found if f.name.endswith(".sql")), key=lambda f: f.name)
    return [file.read_text() for file in files]


SCRIPTS = _scripts()
NEWEST_SCHEMA = len(SCRIPTS)


def migrate(conn: sqlite3.Connection, scripts: Sequence[str] = SCRIPTS) -> None:
    """Apply the scripts above `pragma user_version`, each in its own transaction.

    Raises DatabaseTooNew, and what SQLite raises: then the schema is that of the last whole script.
    """
    done = conn.execute("pragma user_version").fetchone()[0]
    if done > len(scripts):
        raise DatabaseTooNew(
            f"the database has schema {done}, this whisperd knows {len(scripts)}: upgrade it"
        )
    for number, script in enumerate(scripts[done:], done + 1):
        try:
            conn.executescript(f"begin immediate; {script}; pragma user_version = {number}; commit")
        except BaseException:
            if conn.in_transaction:
                conn.execute("rollback")
            raise


@contextmanager
def owned(path: Path) -> Iterator[None]:
    """Hold the lock that makes us the only daemon on this file, whatever path or link leads to it.

    To be held around whatever looks at the file, restores it or opens it. Raises DatabaseInUse with the pid.
    Symbolic links and other mounts of the folder lead to the same lock. A hard link, or a mount of the file
    alone, is noticed by SQLite's locks in /proc/locks, and so only within one host and its space of pids.
    """
    real = Path(os.path.realpath(path))
    file = os.open(real.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(file, 32).decode().strip() or "unknown"
            raise DatabaseInUse(f"{path} is in use by the daemon with pid {owner}") from None
        if pid := _open_under_another_name(real):
            raise DatabaseInUse(f"{path} is in use, under another name, by the process with pid {pid}")
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield
    finally:
        with suppress(OSError):
            os.close(file)  # which unlocks; the file stays, so that no two can lock different ones


def _open_under_another_name(real: Path) -> str | None:
    """The process that has SQLite's lock on the file while no -wal lies beside this name of it."""
    if not real.exists() or Path(f"{real}-wal").exists():
        return None
    found = real.stat()
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():  # "1: POSIX ADVISORY READ 812 fe:00:77 1 2"
            if device in (fields := line.split()) and "POSIX" in fields:
                return fields[fields.index(device) - 1]
    return None
