"""What a database that comes from a file goes through before it is the daemon's own."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import structlog

from whisperd import durable
from whisperd.db import SCRIPTS, migrate
from whisperd.sqlite_trouble import translation

log = structlog.get_logger(__name__)


def adopt(database: Path, ahead_of: int) -> None:
    """Give it the triggers of its schema and no others, and more commits than `ahead_of`; fsynced.

    For a copy that nobody has open and that is thrown away if this fails. Triggers and views are programs:
    what a file brings along must not run in the daemon. Its commits have to be more than those of every
    backup there is: else a start would take it for an old state of the queue that it takes the place of.
    Raises StorageFull, StorageFailed.
    """
    with translation(database), closing(sqlite3.connect(database, isolation_level=None)) as conn:
        conn.execute("pragma trusted_schema = off")
        conn.execute("pragma journal_mode = off")
        conn.execute("pragma synchronous = off")
        conn.execute("begin")
        _replace_programs(conn)
        _raise_commits(conn, ahead_of)
        conn.execute("commit")
    durable.sync_file(database)


def _replace_programs(conn: sqlite3.Connection) -> None:
    found, ours = _programs(conn), _ours(conn.execute("pragma user_version").fetchone()[0])
    for kind, name, _ in found - ours:
        conn.execute(f"drop {kind} {_quoted(name)}")
    for _, _, sql in ours - found:
        conn.execute(sql)
    if found != ours:
        log.warning("programs_in_a_backup_not_taken_over", names=sorted(name for _, name, _ in found - ours))


def _programs(conn: sqlite3.Connection) -> set[tuple[str, str, str]]:
    return set(conn.execute("select type, name, sql from sqlite_schema where type in ('trigger', 'view')"))


def _ours(schema: int) -> set[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        migrate(conn, SCRIPTS[:schema])
        return _programs(conn)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _raise_commits(conn: sqlite3.Connection, ahead_of: int) -> None:
    if conn.execute("select 1 from pragma_table_info('session') where name = 'commits'").fetchone():
        conn.execute("update session set commits = max(commits, ?) + 1", (ahead_of,))
