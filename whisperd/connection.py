"""How connections to the database are opened and set, what they are asked for besides queries, and whether
the files that they have open still have their names."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import aiosqlite

from whisperd import __version__


def connect(path: Path) -> aiosqlite.Connection:
    return aiosqlite.connect(path, isolation_level=None, cached_statements=256)


def connect_read_only(path: Path) -> aiosqlite.Connection:
    """To a database that another connection of ours has open. Its -wal stays when this one closes last."""
    return aiosqlite.connect(_uri(path, "mode=ro"), uri=True, isolation_level=None)


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that changes neither the file nor whether a -wal lies beside it.

    `mode=ro` reads a -wal and cannot lock the file for itself, so that its close does not tidy the -wal away.
    Where there is none it would make an empty one, and a copy that lacks its -wal would look whole after it:
    there it is `immutable=1`, which looks at the file alone. All seen with SQLite 3.40.1.
    """
    has_wal = Path(f"{os.path.realpath(path)}-wal").exists()
    return sqlite3.connect(
        _uri(path, "mode=ro" if has_wal else "immutable=1"), uri=True, isolation_level=None
    )


def _uri(path: Path, how: str) -> str:
    return f"{path.absolute().as_uri()}?{how}"


def set_writing(conn: sqlite3.Connection) -> None:
    _configure(conn)
    conn.execute("pragma journal_mode = wal")
    conn.execute("pragma synchronous = full")  # normal loses acknowledged tasks at a power cut
    conn.execute("pragma journal_size_limit = 67108864")
    # What a savepoint would undo is copied page by page: without this into a file, one for each transaction.
    conn.execute("pragma temp_store = memory")
    conn.execute("pragma analysis_limit = 400")  # rows an index: what `optimize` may look at


def set_reading(conn: sqlite3.Connection) -> None:
    """Before 3.51.3 two connections that checkpoint at once can lose writes: this one never does."""
    _configure(conn)
    conn.execute("pragma wal_autocheckpoint = 0")
    conn.execute("pragma query_only = on")
    conn.execute("select 1 from sqlite_schema").fetchone()  # opens the -wal now, while it has its name


def _configure(conn: sqlite3.Connection) -> None:
    conn.row_factory = sqlite3.Row
    for pragma in (
        "busy_timeout = 5000",
        "foreign_keys = on",
        "trusted_schema = off",
        "cell_size_check = on",
        "cache_size = -1000",  # KiB; four connections: more is the system's page cache's to hold
    ):
        conn.execute(f"pragma {pragma}")


def mark(conn: sqlite3.Connection, *, clean: bool) -> None:
    """Say in the file whether a daemon has it open; in the file itself only after a merge."""
    conn.execute(
        "insert into session (id, clean, version) values (1, ?, ?) "
        "on conflict do update set clean = excluded.clean, version = excluded.version",
        (clean, __version__),
    )


def count_commit(conn: sqlite3.Connection) -> None:
    """Let the file know how much has happened in it: times do not tell, since clocks are set back."""
    conn.execute("update session set commits = commits + 1")


def merge(conn: sqlite3.Connection) -> bool:
    """Move all of the -wal into the file and empty it. Does not wait: False when a reader is in the way."""
    patience = conn.execute("pragma busy_timeout").fetchone()[0]
    conn.execute("pragma busy_timeout = 0")
    try:
        busy = conn.execute("pragma wal_checkpoint(truncate)").fetchone()[0]
    finally:
        conn.execute(f"pragma busy_timeout = {patience}")
    return not busy


def tend(conn: sqlite3.Connection) -> None:
    """Refresh statistics that have gone stale, and move into the file what no reader needs in the -wal."""
    conn.execute("pragma optimize")
    conn.execute("pragma wal_checkpoint(passive)").fetchone()


class Files:
    """The database's files as they were when it was opened, to see whether they still are."""

    def __init__(self, path: Path) -> None:
        real = os.path.realpath(path)
        self._names = [real, f"{real}-wal", f"{real}-shm"]
        self._were = [_identity(name) for name in self._names]

    def trouble(self) -> str | None:
        for name, was in zip(self._names, self._were, strict=True):
            try:
                is_now = _identity(name)
            except OSError as error:
                return f"{os.path.basename(name)} is gone ({error.strerror}): something removed it in mid-run"
            if is_now != was:
                return f"{os.path.basename(name)} is another file now: something replaced it in mid-run"
        return None


def _identity(name: str) -> tuple[int, int]:
    found = os.stat(name)
    return found.st_dev, found.st_ino
