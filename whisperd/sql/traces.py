"""To which trace a task belongs."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from whisperd.sql.rows import to_task
from whisperd.task import Task


def note(conn: sqlite3.Connection, seq: int, parent: str) -> None:
    conn.execute("insert into trace values (?, ?)", (seq, parent))


def parent(conn: sqlite3.Connection, seq: int) -> str | None:
    row = conn.execute("select parent from trace where task = ?", (seq,)).fetchone()
    return None if row is None else str(row[0])


def over(conn: sqlite3.Connection) -> Sequence[Task]:
    """The tasks that are over and whose spans were not sent. Walks over all that are traced."""
    rows = conn.execute("""
        select task.* from trace join task on task.seq = trace.task
        where task.state in ('completed', 'failed', 'cancelled')
        """)
    return [to_task(row) for row in rows.fetchall()]


def forget(conn: sqlite3.Connection, seq: int) -> None:
    conn.execute("delete from trace where task = ?", (seq,))
