"""Copies of a whole database, each one self-contained file, made while others go on writing to it.

Reads the source through SQLite only. Knows the mark of a clean end (`session`), and no other table.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from whisperd.connection import open_read_only
from whisperd.sqlite_trouble import translation

PAGES = 256  # a step: 1 MiB
# Written bytes go to the disk in small portions: else the fsync of somebody's commit waits behind them all.
PAGES_TO_SYNC = 1024


class SnapshotStopped(Exception):
    """The snapshot was told to stop; it left nothing behind."""


def snapshot_of(source: Path, target: Path, stop: threading.Event) -> None:
    """Copy a database that no connection has open into the new file `target`, and leave it as it is.

    For a backup before a migration: any schema will do, and a -wal is read but stays. Blocking.
    Raises SnapshotStopped, StorageFull, StorageFailed, and then leaves no `target`.
    """
    with translation(source), closing(open_read_only(source)) as conn:
        copy(conn, target, stop.is_set)


def copy(conn: sqlite3.Connection, target: Path, stopped: Callable[[], bool]) -> None:
    """Copy what `conn` sees now into the new file `target`: mode 0600, fsynced, marked as closed cleanly.

    One read transaction: what others commit meanwhile neither shows nor makes the copy begin again; their
    -wal grows until it ends. The folder is not fsynced: who renames the file does that.
    Raises SnapshotStopped once `stopped()` is true, StorageFull, StorageFailed, and then leaves nothing;
    FileExistsError, and then leaves what is there.
    """
    with translation(target):
        file = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _fill(conn, target, _Pace(file, stopped))
            os.fsync(file)
        except BaseException:
            for leftover in (target, *beside(target)):
                leftover.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)


def beside(target: Path) -> list[Path]:
    """What SQLite has for a moment beside a copy; a process that is killed then leaves it."""
    return [Path(f"{target}-wal"), Path(f"{target}-journal")]


class _Pace:
    """What happens between two steps: look whether to stop, and see to it that the disk keeps up."""

    def __init__(self, file: int, stopped: Callable[[], bool]) -> None:
        self._file = file
        self._stopped = stopped
        self._synced = 0

    def __call__(self, status: int, remaining: int, total: int) -> None:
        if self._stopped():
            raise SnapshotStopped("the snapshot was stopped")
        if total - remaining - self._synced >= PAGES_TO_SYNC:
            self._synced = total - remaining
            os.fdatasync(self._file)


def _fill(conn: sqlite3.Connection, target: Path, pace: _Pace) -> None:
    with closing(sqlite3.connect(target, isolation_level=None)) as into:
        into.execute("pragma locking_mode = exclusive")  # no -shm
        into.execute("pragma journal_mode = off")
        into.execute("pragma synchronous = off")  # fsynced at the end, and worth nothing before
        into.execute("pragma cache_size = -2000")  # KiB; what is more goes to the file
        with _standing_still(conn):
            conn.backup(into, pages=PAGES, progress=pace)
        _complete(into)


@contextmanager
def _standing_still(conn: sqlite3.Connection) -> Iterator[None]:
    conn.execute("begin")
    try:
        conn.execute("select 1 from sqlite_schema").fetchone()  # only a read makes it see what is now
        yield
    finally:
        conn.execute("rollback")


def _complete(into: sqlite3.Connection) -> None:
    """A database in WAL mode cannot be opened where nothing may be written: this one can."""
    into.execute("pragma journal_mode = delete")
    if into.execute("select 1 from sqlite_schema where name = 'session'").fetchone():
        into.execute("update session set clean = 1")
