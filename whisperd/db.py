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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from whisperd.task import StorageBusy, StorageFailed, StorageFull

R = TypeVar("R")
LARGEST_BATCH = 256  # verbs in one transaction; what comes meanwhile waits for the next commit
_HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}  # primary result codes


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
    Weakness: functions run in order on one thread, so a slow one holds up all writers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._jobs: asyncio.Queue[_Job | None] = asyncio.Queue()
        self._broken: str | None = None
        self._closed = False

    async def __aenter__(self) -> Database:
        async with AsyncExitStack() as stack:
            stack.enter_context(_owned(self.path))
            self._writing = await stack.enter_async_context(_connect(self.path))
            await _hop(self._writing, _translated(_prepare))
            self._reading = await stack.enter_async_context(_connect(self.path))
            await _hop(self._reading, _translated(_prepare_reading))
            # Not in a TaskGroup: it would wrap what the body raises. It is awaited in __aexit__.
            self._writer = asyncio.create_task(self._write_batches(), name="db-writer")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closed = True
        self._jobs.put_nowait(None)  # after all that was asked for
        try:
            await self._writer
        finally:  # cancelled or not: a thread that is left over would keep the process from ending
            await self._stack.aclose()

    async def read(self, fn: Callable[..., R], *args: Any) -> R:
        """Call `fn(conn, *args)` on the reading connection; a write through it is refused."""
        return await _hop(self._reading, _translated(partial(_with_args, fn, args)))

    async def write(self, fn: Callable[..., R], *args: Any, then: Callable[[R], None] | None = None) -> R:
        """Commit `fn(conn, *args)` and return its result; `then(result)` runs on the loop, in commit order.

        `then` runs even if the caller was cancelled while the commit was under way.
        Raises StorageFull when the disk is full, StorageBusy when another program holds the database,
        StorageFailed after any other trouble of SQLite's. All of them committed nothing; only an I/O error
        on the commit itself is ambiguous, which is why nothing more is written after a StorageFailed.
        """
        if self._closed:
            raise StorageFailed("the database is closed")
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait(_Job(partial(_with_args, fn, args), then, answer))
        return await answer

    @property
    def broken(self) -> str | None:
        """Why nothing is written any more; None while all is well."""
        return self._broken

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
        return await _hop(self._writing, partial(_commit, batch))

    async def _next_batch(self) -> list[_Job]:
        batch: list[_Job] = []
        while len(batch) < LARGEST_BATCH and (not batch or not self._jobs.empty()):
            job = await self._jobs.get()
            if job is None:
                self._jobs.put_nowait(None)  # end at the next look
                break
            batch.append(job)
        return batch

    def _note(self, error: Exception) -> None:
        if isinstance(error, StorageFailed):
            self._broken = str(error)


def _commit(batch: Sequence[_Job], conn: sqlite3.Connection) -> list[Any]:
    """Run all jobs in one transaction; what a job raises is its outcome and undoes only that job."""
    with _translation(), transaction(conn):
        return [_attempt(conn, job) for job in batch]


def _attempt(conn: sqlite3.Connection, job: _Job) -> Any:
    conn.execute("savepoint job")
    try:
        result = job.run(conn)
    except Exception as error:
        if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
            raise  # the disk, not the job: the whole batch is lost
        conn.execute("rollback to job")
        result = error
    conn.execute("release job")
    return result


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


@contextmanager
def _translation() -> Iterator[None]:
    """Raise SQLite's troubles with the disk as ours."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code
        if code == sqlite3.SQLITE_FULL:
            raise StorageFull("no disk space is left for the queue") from error
        if code in _HELD:
            raise StorageBusy("another program holds the database") from error
        raise StorageFailed(f"the database reported: {error}") from error


def _translated(fn: Callable[[sqlite3.Connection], R]) -> Callable[[sqlite3.Connection], R]:
    def run(conn: sqlite3.Connection) -> R:
        with _translation():
            return fn(conn)

    return run


def _with_args(fn: Callable[..., R], args: tuple[Any, ...], conn: sqlite3.Connection) -> R:
    return fn(conn, *args)


async def _hop(conn: aiosqlite.Connection, fn: Callable[[sqlite3.Connection], R]) -> R:
    """Run `fn(connection)` on aiosqlite's thread: one hop for a whole transaction.

    aiosqlite's public calls cost a hop each (56 µs) and let two coroutines interleave inside one
    transaction. This is the only use of its private call; test_db.py holds that it exists.
    """
    result: R = await conn._execute(fn, conn._conn)  # type: ignore[no-untyped-call]
    return result


def _connect(path: Path) -> aiosqlite.Connection:
    return aiosqlite.connect(path, isolation_level=None, cached_statements=256)


def _prepare(conn: sqlite3.Connection) -> None:
    _configure(conn)
    conn.execute("pragma journal_mode = wal")
    conn.execute("pragma synchronous = full")  # normal loses acknowledged tasks at a power cut
    conn.execute("pragma journal_size_limit = 67108864")
    migrate(conn)


def _prepare_reading(conn: sqlite3.Connection) -> None:
    """Before 3.51.3 two connections that checkpoint at once can lose writes: this one never does."""
    _configure(conn)
    conn.execute("pragma wal_autocheckpoint = 0")
    conn.execute("pragma query_only = on")


def _configure(conn: sqlite3.Connection) -> None:
    conn.row_factory = sqlite3.Row
    for pragma in (
        "busy_timeout = 5000",
        "foreign_keys = on",
        "trusted_schema = off",
        "cell_size_check = on",
        "cache_size = -8000",  # KiB
    ):
        conn.execute(f"pragma {pragma}")


def migrate(conn: sqlite3.Connection) -> None:
    """Apply the numbered files above `pragma user_version`, each in its own transaction."""
    done = conn.execute("pragma user_version").fetchone()[0]
    found = resources.files("whisperd.migrations").iterdir()
    files = sorted((f for f in found if f.name.endswith(".sql")), key=lambda f: f.name)
    newest = int(files[-1].name[:4])
    if done > newest:
        raise DatabaseTooNew(f"the database has schema {done}, this whisperd knows {newest}: upgrade it")
    for file in files[done:]:
        number = int(file.name[:4])
        script = f"begin immediate; {file.read_text()}; pragma user_version = {number}; commit"
        try:
            conn.executescript(script)
        except BaseException:
            if conn.in_transaction:
                conn.execute("rollback")
            raise


@contextmanager
def _owned(path: Path) -> Iterator[None]:
    """Hold the lock that makes us the only daemon on this file, whatever path or link leads to it."""
    lock = Path(os.path.realpath(path)).with_suffix(".lock")
    file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(file, 32).decode().strip() or "unknown"
            raise DatabaseInUse(f"{path} is in use by the daemon with pid {pid}") from None
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield
    finally:
        with suppress(OSError):
            os.close(file)  # which unlocks; the file stays, so that no two can lock different ones
