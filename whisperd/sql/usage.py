"""The usage: what tasks came to, by tenant, day and model."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from whisperd.sql import plans
from whisperd.usage import PARTS, Usage, UsageQuery

_COUNT = """
    insert into usage
    select tenant, date(finished_at, 'unixepoch'), model,
      iif(state = 'completed', coalesce(audio_seconds, 0.0), 0.0), compute_seconds,
      state = 'completed', state = 'failed', state = 'cancelled'
    from task where seq = ?
    on conflict do update set
      audio_seconds = audio_seconds + excluded.audio_seconds,
      compute_seconds = compute_seconds + excluded.compute_seconds,
      completed = completed + excluded.completed,
      failed = failed + excluded.failed,
      cancelled = cancelled + excluded.cancelled
"""


def count(conn: sqlite3.Connection, seq: int) -> None:
    """The task is over. The work on it counts from nothing once it is run again."""
    conn.execute(_COUNT, (seq,))


_ADD = """
    insert into usage values (:tenant, date(:at, 'unixepoch'), :model, 0.0, :seconds, 0, 0, 0)
    on conflict do update set compute_seconds = compute_seconds + excluded.compute_seconds
"""


def add(conn: sqlite3.Connection, tenant: str, model: str, seconds: float, at: float) -> None:
    """Work on a task that is counted already."""
    conn.execute(_ADD, {"tenant": tenant, "model": model, "seconds": seconds, "at": at})


_SUMS = """
    coalesce(sum(audio_seconds), 0.0) as audio_seconds,
    coalesce(sum(compute_seconds), 0.0) as compute_seconds,
    coalesce(sum(completed), 0) as completed, coalesce(sum(failed), 0) as failed,
    coalesce(sum(cancelled), 0) as cancelled
"""


def sums(conn: sqlite3.Connection, query: UsageQuery) -> Sequence[Usage]:
    """In the order of what they are of, and at most `limit`; of nothing in particular, one."""
    by = ", ".join(part for part in PARTS if part in query.by)
    mine = "" if query.tenant is None else " and tenant = :tenant"
    grouped = f"group by {by} order by {by} limit :limit" if by else ""
    rows = conn.execute(
        f"select {by and by + ', '}{_SUMS} from usage where day between :first and :last{mine} {grouped}",
        msgspec.structs.asdict(query),
    )
    return [msgspec.convert(dict(row), Usage) for row in rows]


def forget(conn: sqlite3.Connection, before: str) -> int:
    """Delete the oldest day that is before that one; returns how many rows it had, 0 when there is none."""
    oldest = "select min(day) from usage where day < ?"
    gone = conn.execute(f"delete from usage where day = ({oldest}) returning tenant", (before,)).fetchall()
    plans.forget(conn, (row["tenant"] for row in gone))
    return len(gone)
