"""The minutes that were: one row is written for each, and read for charts."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from whisperd.sql import questions

MINUTE = 60  # seconds
KEPT_SECONDS = 7 * 86_400


def record(conn: sqlite3.Connection, gauges: Mapping[str, float | None], now: float) -> None:
    """Of the last minute: what the database says, and the gauges that are columns, too."""
    row = {**_counted(conn, now), **gauges, "at": int(now) // MINUTE * MINUTE}
    if _is_worth_a_row(conn, row):
        conn.execute(_INSERT, row)
        conn.execute("delete from history where at < ?", (now - KEPT_SECONDS,))


def _counted(conn: sqlite3.Connection, now: float) -> dict[str, Any]:
    stats = questions.stats(conn, now)
    ended = "finished_at > ? and finished_at <= ?"
    failed = f"select count(*) from task where state = 'failed' and {ended}"
    compute = f"select coalesce(sum(compute_seconds), 0.0) from task where state = 'completed' and {ended}"
    waits = sorted(stats.waits) if stats.finished else []
    return {
        "queued": stats.by_state["queued"],
        "processing": stats.by_state["processing"],
        "completed": len(stats.finished),
        "failed": conn.execute(failed, (now - MINUTE, now)).fetchone()[0],
        "audio_seconds": sum(seconds for _, seconds in stats.finished),
        "compute_seconds": conn.execute(compute, (now - MINUTE, now)).fetchone()[0],
        "wait_p50": waits[len(waits) // 2] if waits else None,
        "wait_p95": waits[int(0.95 * len(waits))] if waits else None,
    }


def _is_worth_a_row(conn: sqlite3.Connection, row: Mapping[str, Any]) -> bool:
    """Also the first idle minute after others: it brings the charts down."""
    if row["queued"] or row["processing"] or row["completed"] or row["failed"]:
        return True
    before = "select 1 from history where at >= ? and (queued or processing or completed or failed)"
    return conn.execute(before, (row["at"] - 2 * MINUTE,)).fetchone() is not None


_INSERT = """
    insert or replace into history values (
      :at, :queued, :processing, :completed, :failed, :audio_seconds, :compute_seconds, :busy,
      :wait_p50, :wait_p95, :rss_bytes, :gpu_bytes, :free_bytes
    )
"""


def points(conn: sqlite3.Connection, since: int, step: int) -> Sequence[dict[str, Any]]:
    """One for each `step` seconds from `since` on in which there was something, the oldest first."""
    return [dict(row) for row in conn.execute(_POINTS, {"since": since, "step": step})]


_POINTS = """
    select
      :since + (at - :since) / :step * :step as at, avg(queued) as queued, avg(processing) as processing,
      sum(completed) as done, sum(failed) as failed,
      sum(completed) * 60.0 / :step as tasks_per_minute,
      sum(audio_seconds) / :step as audio_seconds_per_second,
      avg(wait_p50) as wait_p50, max(wait_p95) as wait_p95,
      sum(compute_seconds) / nullif(sum(audio_seconds), 0) as real_time_factor, avg(busy) as busy,
      max(rss_bytes) as rss_bytes, max(gpu_bytes) as gpu_bytes, min(free_bytes) as free_bytes
    from history where at >= :since
    group by (at - :since) / :step order by (at - :since) / :step
"""
