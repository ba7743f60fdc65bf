"""The claim: which chunk of which task is next."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from whisperd.sql import line
from whisperd.sql.rows import to_chunk, to_json
from whisperd.task import FINAL, Chunk, Rules, Task

CLOCK_CHECK = 60.0  # seconds; a claim looks at least this often, since clocks may be set


def take(conn: sqlite3.Connection, rules: Rules, now: float) -> tuple[Chunk | float, Sequence[Task]]:
    """What `claim` finds once all that is due has come into line; and the tasks that this completed."""
    entered = _promote(conn, rules, now)
    return claim(conn, rules, now), [task for task in entered if task.state in FINAL]


def claim(conn: sqlite3.Connection, rules: Rules, now: float) -> Chunk | float:
    """The next chunk of the most urgent task; or the seconds until there may be one."""
    seq = _most_urgent(conn, rules)
    if seq is None:
        (next_at,) = conn.execute("select min(run_at) from task where run_at is not null").fetchone()
        return CLOCK_CHECK if next_at is None else min(CLOCK_CHECK, next_at - now)
    # Who follows a twin stands in line for it.
    (seq,) = conn.execute("select coalesce(leader, seq) from task where seq = ?", (seq,)).fetchone()
    chunk = conn.execute(
        """
        update chunk set state = 'running', claims = claims + 1, beat_at = :now
        where task = :seq
          and number = (select min(number) from chunk where task = :seq and state = 'waiting')
        returning *
        """,
        {"seq": seq, "now": now},
    ).fetchone()
    task = conn.execute(
        """
        update task set
          state = 'processing', waiting = waiting - 1, running = running + 1,
          started_at = coalesce(started_at, :now)
        where seq = :seq returning *
        """,
        {"seq": seq, "now": now},
    ).fetchone()
    return to_chunk(task, chunk)


def _promote(conn: sqlite3.Connection, rules: Rules, now: float) -> Sequence[Task]:
    """Put into line what was delayed until now; returns those that may be twins of others."""
    conn.execute(
        """
        update task set run_at = null, retry_at = null
        where run_at is not null and run_at <= ? and (content is null or retry_at is not null)
        """,
        (now,),
    )
    due = conn.execute(
        "select seq from task where run_at is not null and run_at <= ? order by run_at", (now,)
    ).fetchall()
    return [line.enter(conn, row["seq"], rules, now)[0] for row in due]


_NEXT = {"lifo": "seq desc", "fifo": "seq"}  # within one priority; both walk the same index


def _most_urgent(conn: sqlite3.Connection, rules: Rules) -> int | None:
    blocked = _tenants_at_limit(conn, rules)
    row = _urgent_of_others(conn, rules, blocked) if blocked else _urgent_of_all(conn, rules)
    return row and int(row[0])


def _tenants_at_limit(conn: sqlite3.Connection, rules: Rules) -> Sequence[str]:
    busy = conn.execute("select tenant, sum(n) from tally where state = 'processing' group by tenant")
    return [tenant for tenant, n in busy if 0 < rules.tenant_limit(tenant) <= n]


def _urgent_of_all(conn: sqlite3.Connection, rules: Rules) -> Any:
    return conn.execute(
        f"""
        select seq from task
        where waiting > 0 and run_at is null
          and priority = (select max(priority) from task where waiting > 0 and run_at is null)
        order by {_NEXT[rules.order]} limit 1
        """
    ).fetchone()


def _urgent_of_others(conn: sqlite3.Connection, rules: Rules, blocked: Sequence[str]) -> Any:
    """The best of what is started, which may go on, and of what each tenant under its limit has in line.

    Costs an index search per tenant that waits, where a walk past all the blocked tasks could cost a
    million steps.
    """
    best, order = ("max", "desc") if rules.order == "lifo" else ("min", "asc")
    # By name: for max(priority) SQLite would rather go through all that is started.
    started = (
        "task indexed by task_started_line where state = 'processing' and waiting > 0 and run_at is null"
    )
    return conn.execute(
        f"""
        with free (tenant, priority) as (
          select tenant, max(priority) from tally
          where state = 'queued' and delayed = 0 and n > 0
            and tenant not in (select value from json_each(:blocked))
          group by tenant
        )
        select seq from (
          select (
            select {best}(seq) from task
            where state = 'queued' and waiting > 0 and run_at is null
              and tenant = free.tenant and priority = free.priority
          ) as seq, priority from free
          union all
          select * from (
            select seq, priority from {started} and priority = (select max(priority) from {started})
            order by seq {order} limit 1
          )
        )
        order by priority desc, seq {order} limit 1
        """,
        {"blocked": to_json(list(blocked))},
    ).fetchone()
