"""Duplicate work: tasks of one tenant whose transcript must be the same, of which one is decoded.

Finds twins and passes on what is finished. Who leads and who follows is decided in line.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from whisperd.sql.rows import Damaged, named, to_task
from whisperd.task import Task

MOST_FOLLOWERS = 100  # of a task: they are completed with it, in one transaction that others wait for

_LEADER = """
    select seq, state, waiting, run_at from task
    where tenant = :tenant and content = :content and leader is null and finished_at is null
      and run_at is retry_at
"""
# By name: SQLite would rather go through all that were completed in that time.
_COMPLETED = """
    select seq, state, waiting, run_at from task indexed by task_done
    where tenant = :tenant and content = :content and state = 'completed'
      and finished_at > :after and finished_at <= :now
    order by finished_at desc limit 1
"""


def find(conn: sqlite3.Connection, tenant: str, content: str, after: float, now: float) -> sqlite3.Row | None:
    """The newest that was completed after that time, of those that were decoded; else the one that leads.

    A copy is not found: it has no content.
    """
    row: sqlite3.Row | None = conn.execute(
        f"select * from (select * from ({_COMPLETED}) union all {_LEADER}) limit 1",
        {"tenant": tenant, "content": content, "after": after, "now": now},
    ).fetchone()
    return row


def leader(conn: sqlite3.Connection, tenant: str, content: str) -> sqlite3.Row | None:
    """The one that leads: there is at most one."""
    row: sqlite3.Row | None = conn.execute(_LEADER, {"tenant": tenant, "content": content}).fetchone()
    return row


def followers(conn: sqlite3.Connection, seq: int) -> Sequence[int]:
    """The oldest first.

    One whose row cannot be read follows no more: it is in line for itself, and fails at its own turn.
    """
    rows = conn.execute("select seq from task where leader = ? order by seq", (seq,)).fetchall()
    sound = [row["seq"] for row in rows if _can_be_read(conn, row["seq"])]
    alone = "update task set leader = null, content = null, waiting = 1 where seq = ?"
    conn.executemany(alone, [(row["seq"],) for row in rows if row["seq"] not in sound])
    return sound


def _can_be_read(conn: sqlite3.Connection, seq: int) -> bool:
    try:
        with named(seq):
            to_task(conn.execute("select * from task where seq = ?", (seq,)).fetchone())
    except Damaged:
        return False
    return True


def is_followed_by_most(conn: sqlite3.Connection, seq: int) -> bool:
    last = "select 1 from task where leader = ? limit 1 offset ?"
    return conn.execute(last, (seq, MOST_FOLLOWERS - 1)).fetchone() is not None


def go_on(conn: sqlite3.Connection, seq: int, progress: float) -> Sequence[Task]:
    """Let the followers of a task be as far as it is; returns them."""
    if not followers(conn, seq):  # nearly always
        return []
    rows = conn.execute(
        "update task set progress = max(progress, ?) where leader = ? returning *", (progress, seq)
    )
    return [to_task(row) for row in rows.fetchall()]


def take_over(conn: sqlite3.Connection, seq: int, source: int) -> None:
    """Give the task `seq` the plan of another, and what is finished of it.

    The claims go on from its own: what its holders once owned must never fit a new chunk.
    """
    conn.execute(
        """
        update task set (
          audio_seconds, language, language_probability, warnings, fingerprint, samples, samples_done
        ) = (
          select audio_seconds, language, language_probability, warnings, fingerprint, samples, samples_done
          from task where seq = :source
        ) where seq = :seq
        """,
        {"seq": seq, "source": source},
    )
    (claims,) = conn.execute(
        "select coalesce(max(claims), 0) from chunk where task = ? and number > 0", (seq,)
    ).fetchone()
    conn.execute("delete from chunk where task = ? and number > 0", (seq,))
    conn.execute(
        """
        insert into chunk (task, number, state, claims, cut, samples, segments)
        select :seq, number, iif(state = 'done', 'done', 'waiting'), :claims, cut, samples, segments
        from chunk where task = :source and number > 0
        """,
        {"seq": seq, "source": source, "claims": claims},
    )
    conn.execute(
        "insert or replace into waveform select ?, peaks from waveform where task = ?", (seq, source)
    )
