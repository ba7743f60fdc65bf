"""To which trace a task belongs."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from whisperd.sql.rows import to_task
from whisperd.task import Task

MOST = 100  # tasks at a time


def note(conn: sqlite3.Connection, seq: int, parent: str) -> None:
    conn.execute("insert into trace values (?, ?)", (seq, parent))


def parent(conn: sqlite3.Connection, seq: int) -> str | None:
    row = conn.execute("select parent from trace where task = ?", (seq,)).fetchone()
    return None if row is None else str(row[0])


def over(conn: sqlite3.Connection, after: int) -> Sequence[Task]:
    """The next tasks behind this one that are over, and whose spans were not sent."""
    # By trace, whatever the statistics say: of the tasks that are over, hardly any has one.
    sql = """
        select * from task
        where seq in (select task from trace where task > ?)
        and +state in ('completed', 'failed', 'cancelled')
        order by seq
        limit ?
        """
    rows = conn.execute(sql, (after, MOST))
    return [to_task(row) for row in rows.fetchall()]


def forget(conn: sqlite3.Connection, seq: int) -> None:
    conn.execute("delete from trace where task = ?", (seq,))
