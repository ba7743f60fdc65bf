"""The line of tasks: how one leaves it for good.

Every task that is over came through `end`, whatever ended it: what has to happen at that moment, in that
transaction, belongs there and nowhere else.
"""

from __future__ import annotations

import sqlite3
from typing import Literal

from whisperd.sql import outbox
from whisperd.sql.rows import to_task
from whisperd.task import Problem, State, Task


def end(
    conn: sqlite3.Connection,
    seq: int,
    state: Literal[State.COMPLETED, State.FAILED, State.CANCELLED],
    problem: Problem | None,
    now: float,
) -> Task:
    """The task is over. Whoever holds a chunk of it has lost it; finished chunks stay, also for a retry."""
    conn.execute(
        "update chunk set state = 'waiting', beat_at = null where task = ? and state = 'running'", (seq,)
    )
    change = """
        state = :state, waiting = 0, running = 0, run_at = null, retry_at = null, finished_at = :now,
        progress = iif(:state = 'completed', 1.0, progress), error_code = :code, error_message = :message
    """
    code, message = (problem.code, problem.message) if problem else (None, None)
    task = move(conn, seq, change, {"state": state, "now": now, "code": code, "message": message})
    outbox.tell(conn, task)
    return task


def move(conn: sqlite3.Connection, seq: int, change: str, args: dict[str, object]) -> Task:
    row = conn.execute(
        f"update task set {change} where seq = :seq returning *", {"seq": seq, **args}
    ).fetchone()
    return to_task(row)
