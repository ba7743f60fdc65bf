"""In what condition a database file is, before anyone opens it; and the seal that shows it unchanged.

Only for files that no connection of this process has open: they are read by path here, and closing what was
opened by path drops SQLite's locks (db.py). Changes nothing: not the file, not whether a -wal lies beside it.
"""

from __future__ import annotations

import hashlib
import math
import os
import sqlite3
import stat
import struct
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from enum import StrEnum
from pathlib import Path
from time import monotonic

import msgspec

from whisperd import durable, wal
from whisperd.connection import open_read_only
from whisperd.db import NEWEST_SCHEMA

_MAGIC = b"SQLite format 3\0"
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}  # primary result codes
_BLOCK = 1 << 20  # bytes


class Condition(StrEnum):
    ABSENT = "absent"
    CLEAN = "clean"  # closed in order and, as far as can be seen, not touched since
    CRASHED = "crashed"  # has its -wal: SQLite brings it up to date when it is opened
    BARE = "bare"  # was open, and its -wal is missing or damaged: what was committed last may be missing
    CHANGED = "changed"  # sound, but not what the daemon left: something else wrote to it
    TORN = "torn"  # damaged, cut short, or no database at all
    FOREIGN = "foreign"  # a sound database, of another program
    TOO_NEW = "too_new"  # a newer whisperd wrote it
    UNREADABLE = "unreadable"  # nothing is known: it cannot be opened


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    condition: Condition
    reason: str  # for a person; names no folder
    schema: int | None = None
    tasks: int | None = None
    commits: int | None = None  # see `commits`; None: not known, or not counted in its schema
    sealed: bool = False  # it is, byte by byte, what the last orderly end left


class _Seal(msgspec.Struct, frozen=True):
    size: int
    sha256: str


def examine(path: Path) -> Finding:
    """Say in what condition the file is. Blocking: reads all of it, once or twice. Never raises.

    Single bits that flipped in it are found only under a seal: SQLite's own checks do not see most of them.
    """
    real = Path(os.path.realpath(path))
    try:
        return _without_what_is_lost(_from_outside(real) or _looked_into(real), real)
    except OSError as error:
        return Finding(condition=Condition.UNREADABLE, reason=f"it cannot be read: {error.strerror}")


def undo(path: Path) -> bool:
    """Let SQLite undo a change that was cut off and left its -journal. False: it is still there.

    For the owner of the database's lock only: this writes, and waits for nobody. A -wal stays as it is.
    """
    real = Path(os.path.realpath(path))
    if not real.is_file() or not _is_cut_off(real):
        return True
    look = "select 1 from sqlite_schema"
    # A -wal is left alone by who may only read, if he closes last.
    with (
        suppress(sqlite3.Error, UnicodeDecodeError),
        closing(open_read_only(real)) as last,
        closing(sqlite3.connect(f"{real.as_uri()}?mode=rw", uri=True, timeout=0)) as conn,
    ):
        conn.execute(look).fetchone()
        last.execute(look).fetchone()
    return not _is_cut_off(real)


def last_change(conn: sqlite3.Connection) -> float | None:
    """The time of the last thing the database is sure to know, in Unix seconds; None: no task. O(log n).

    A lower bound: a finished chunk, a changed priority and a retry leave no time behind.
    """
    row = conn.execute("""
        select max(
          coalesce((select created_at from task order by seq desc limit 1), 0),
          coalesce((select max(finished_at) from task where finished_at is not null), 0),
          coalesce((select max(started_at) from task where state = 'processing'), 0),
          coalesce((select max(beat_at) from chunk where state = 'running'), 0),
          coalesce((select max(created_at) from idempotency), 0)
        )""").fetchone()
    return row[0] or None


def commits(conn: sqlite3.Connection) -> int:
    """How many commits that changed something the database knows; 0 where its schema does not count them.

    Never falls in the life of a database, whatever its clock says: of a file and its backup, the one with
    more knows more.
    """
    return _counted(conn) or 0


def known_tasks(path: Path, ids: Iterable[str]) -> set[str]:
    """Those of `ids` that are tasks, by the -wal too; of a database that can be used."""
    with closing(open_read_only(path)) as conn:
        found = (conn.execute("select id from task where id = ?", (task_id,)).fetchone() for task_id in ids)
        return {row[0] for row in found if row}


def seal(path: Path, within: float = math.inf) -> bool:
    """Write down what the file is, so that `examine` need not check it and sees any change. Blocking.

    To be called after the database was closed and while it is still owned. False, and no seal, where it was
    not closed in order, or where reading it took more than `within` seconds: 1 GB takes one or two.
    Raises OSError where the seal cannot be written.
    """
    real = Path(os.path.realpath(path))
    unseal(real)
    if _wal_size(real) is not None or not _is_marked_clean(real):
        return False
    deadline = monotonic() + within
    content = _content(real, lambda: monotonic() > deadline)
    if content is None:
        return False
    with durable.whole(_seal_of(real)) as part, durable.new_file(part) as file:
        file.write(msgspec.json.encode(content))
        file.flush()
        os.fsync(file.fileno())
    return True


def unseal(path: Path) -> None:
    """Take the seal away: before the database is opened, since from then on it will change.

    Not fsynced: SQLite syncs the folder when it makes the -wal, and nothing is written to the file before.
    """
    _seal_of(Path(os.path.realpath(path))).unlink(missing_ok=True)


def _from_outside(real: Path) -> Finding | None:
    try:
        found = real.stat()
    except FileNotFoundError:
        left = " though its -wal is" if _wal_size(real) else ""
        return Finding(condition=Condition.ABSENT, reason=f"it is not there{left}")
    if not stat.S_ISREG(found.st_mode):
        return Finding(condition=Condition.UNREADABLE, reason="it is not a file")
    if damage := _damage_of_header(real, found.st_size):
        return Finding(condition=Condition.TORN, reason=damage)
    if _is_cut_off(real):
        return Finding(condition=Condition.CRASHED, reason="a change was cut off; SQLite will undo it")
    return None


def _is_cut_off(real: Path) -> bool:
    """Whether SQLite would undo something when it opens the file. An empty one has nothing to undo."""
    try:
        with Path(f"{real}-journal").open("rb") as journal:
            return real.stat().st_size > 0 and journal.read(1) not in (b"", b"\0")
    except FileNotFoundError:
        return False


def _damage_of_header(real: Path, size: int) -> str | None:
    with real.open("rb") as file:
        header = file.read(100)
    if size == 0:
        return "it is empty"
    if len(header) < 100 or not header.startswith(_MAGIC):
        return "it is not a database"
    page_size, pages = struct.unpack(">H10xI", header[16:32])  # 1 stands for 65,536
    whole = (65_536 if page_size == 1 else page_size) * pages
    if _wal_size(real) is None and size < whole:  # with a -wal the file may rightly lag behind
        return f"it is cut short: {size:,} of {whole:,} bytes"
    return None


def _looked_into(real: Path) -> Finding:
    try:
        return _from_inside(real)
    except UnicodeDecodeError:  # Python's, at a message that quotes the schema
        return Finding(condition=Condition.TORN, reason="its schema is damaged")
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # none: a name is no text
        if code == sqlite3.SQLITE_ERROR:
            return _strange(real, Condition.UNREADABLE, str(error))
        damaged = code in _DAMAGED
        return Finding(condition=Condition.TORN if damaged else Condition.UNREADABLE, reason=f"{error}")


def _from_inside(real: Path) -> Finding:
    with closing(open_read_only(real)) as conn:
        conn.execute("pragma trusted_schema = off")
        conn.execute("pragma cell_size_check = on")
        schema = conn.execute("pragma user_version").fetchone()[0]
        tables = {row[0] for row in conn.execute("select name from sqlite_schema where type = 'table'")}
        if (tables or schema) and not {"task", "chunk"} <= tables:
            return _strange(real, Condition.FOREIGN, "it is a database of another program")
        if schema > NEWEST_SCHEMA:
            reason = f"a newer whisperd wrote it: schema {schema}, this one knows {NEWEST_SCHEMA}"
            return _strange(real, Condition.TOO_NEW, reason, schema)
        found = _judged(conn, real, "session" in tables)
        if found.condition == Condition.TORN:
            return msgspec.structs.replace(found, schema=schema)
        tasks = conn.execute("select count(*) from task").fetchone()[0] if tables else 0
        count = _counted(conn) if tables else 0
    return msgspec.structs.replace(found, schema=schema, tasks=tasks, commits=count)


def _strange(real: Path, condition: Condition, reason: str, schema: int | None = None) -> Finding:
    """What is not ours to open; unless there is a seal: then it was, and a bit of its header has flipped."""
    if (sealed := _read_seal(real)) and not _fits(sealed, real):
        return Finding(condition=Condition.TORN, reason=f"it is not what was sealed: {reason}", schema=schema)
    return Finding(condition=condition, reason=reason, schema=schema)


def _judged(conn: sqlite3.Connection, real: Path, has_mark: bool) -> Finding:
    size, sealed = _wal_size(real), _seal_of(real).exists()
    if sealed and not size and (known := _read_seal(real)) and _fits(known, real):
        return Finding(condition=Condition.CLEAN, reason="it is as it was left", sealed=True)
    bare = size is None and (_is_bare(conn) if has_mark else not _has_tables(conn))
    # What was copied or changed by others may be damaged in ways that only the slower check finds.
    check = "integrity_check" if bare or sealed else "quick_check"
    if damage := _first_damage(conn, check):
        return Finding(condition=Condition.TORN, reason=damage)
    if bare:
        reason = "it was in use and its -wal is missing: what was committed last may be lost"
        return Finding(condition=Condition.BARE, reason=reason)
    if sealed:
        reason = "something changed it while no daemon had it open"
        return Finding(condition=Condition.CHANGED, reason=reason)
    if size is None:
        return Finding(condition=Condition.CLEAN, reason="it was closed in order")
    return Finding(condition=Condition.CRASHED, reason="it was not closed in order; its -wal is there")


def _without_what_is_lost(found: Finding, real: Path) -> Finding:
    """Look behind the damage in a -wal, once no connection of ours has it open any more."""
    if found.condition != Condition.CRASHED or (lost := wal.commits_behind_damage(real)) < 2:
        return found
    reason = f"it was in use and its -wal is damaged: {lost} commits in it cannot be read"
    return msgspec.structs.replace(found, condition=Condition.BARE, reason=reason)


def _wal_size(real: Path) -> int | None:
    with suppress(FileNotFoundError):
        return Path(f"{real}-wal").stat().st_size
    return None


def _has_tables(conn: sqlite3.Connection) -> bool:
    return conn.execute("select 1 from sqlite_schema").fetchone() is not None


def _counts(conn: sqlite3.Connection) -> bool:
    named = "select 1 from pragma_table_info('session') where name = 'commits'"
    return conn.execute(named).fetchone() is not None


def _counted(conn: sqlite3.Connection) -> int | None:
    if not _counts(conn):
        return None
    row = conn.execute("select commits from session").fetchone()
    return row[0] if row else 0


def _is_bare(conn: sqlite3.Connection) -> bool:
    return bool(conn.execute("select clean from session").fetchone() == (0,))


def _first_damage(conn: sqlite3.Connection, check: str) -> str | None:
    found: str = conn.execute(f"pragma {check}(1)").fetchone()[0]
    return None if found == "ok" else found


def _is_marked_clean(real: Path) -> bool:
    with closing(open_read_only(real)) as conn:
        return bool(conn.execute("select clean from session").fetchone() == (1,))


def _seal_of(real: Path) -> Path:
    return real.with_name(f"{real.name}.seal")


def _read_seal(real: Path) -> _Seal | None:
    """None where there is none, and where it is damaged: then it proves nothing."""
    try:
        return msgspec.json.decode(_seal_of(real).read_bytes(), type=_Seal)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _fits(sealed: _Seal, real: Path) -> bool:
    return sealed.size == real.stat().st_size and sealed == _content(real, lambda: False)


def _content(real: Path, late: Callable[[], bool]) -> _Seal | None:
    size, digest = 0, hashlib.sha256()
    with real.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            if late():
                return None
            size += len(block)
            digest.update(block)
    return _Seal(size, digest.hexdigest())
