"""SQLite's troubles with the disk, raised as ours. Never opens the database, its -wal or its -shm."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from whisperd.task import StorageBusy, StorageFailed, StorageFull, StorageReadOnly, TaskError

_HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}  # primary result codes
# A write that surely did not happen. SQLite says FULL for ENOSPC on its files, but "I/O error" for a quota, a
# read-only disk, and a -shm that finds no room. A failed fsync is not among them: what it leaves is unknown.
_NOT_WRITTEN = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMMAP,
}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_ENOUGH = 65_536  # bytes; a -shm grows by half of it, a -wal by a sixteenth


@contextmanager
def translation(path: Path) -> Iterator[None]:
    """Raise what SQLite and the system raise over the database at `path` as an error of ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(error, path) from error
    except FileExistsError:  # no trouble of the disk's
        raise
    except OSError as error:
        raise _cause(error) or StorageFailed(f"the disk reported: {error.strerror}") from error


def _translated(error: sqlite3.Error, path: Path) -> TaskError:
    code = getattr(error, "sqlite_errorcode", 0)  # the extended one
    if code & 0xFF == sqlite3.SQLITE_FULL:
        return StorageFull("no disk space is left for the queue")
    if code & 0xFF in _HELD:
        return StorageBusy("another program holds the database")
    if code & 0xFF == sqlite3.SQLITE_READONLY and code != sqlite3.SQLITE_READONLY_DBMOVED:
        return StorageReadOnly(f"the database cannot be written: {error}")
    cause = _why_not_written(path) if code in _NOT_WRITTEN else None
    return cause or failed(error)


def failed(error: sqlite3.Error) -> StorageFailed:
    """Python's own, over text that is not UTF-8, has no code, and that text in its message."""
    is_over_text = isinstance(error, sqlite3.OperationalError) and not hasattr(error, "sqlite_errorcode")
    return StorageFailed(f"the database reported: {'text that cannot be read' if is_over_text else error}")


def _why_not_written(path: Path) -> StorageFull | None:
    """Ask the disk, since Python does not pass on the errno that SQLite saw."""
    real = Path(os.path.realpath(path))
    for file in (real, Path(f"{real}-wal"), Path(f"{real}-shm")):
        if file.exists() and not os.access(file, os.W_OK):
            return StorageReadOnly(f"the database cannot be written: {file.name} is read-only")
    try:
        with TemporaryFile(dir=real.parent) as probe:
            probe.write(bytes(_ENOUGH))
    except OSError as error:
        return _cause(error)
    return None


def _cause(error: OSError) -> StorageFull | None:
    if error.errno in _NO_ROOM:
        return StorageFull("no disk space is left for the queue")
    if error.errno in _FORBIDDEN:
        return StorageReadOnly(f"the database cannot be written: {error.strerror}")
    return None
