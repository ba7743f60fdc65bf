"""The rescue: chunks whose holder is gone: its worker fell silent, the daemon stopped or died; clocks set."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from whisperd.sql import damage, looks, outbox
from whisperd.sql.holder import fail, release
from whisperd.sql.line import move
from whisperd.sql.rows import to_chunk
from whisperd.task import Chunk, LostClaim, Problem, Rules, Task

INTERRUPTED = Problem("interrupted", "the daemon stopped unexpectedly while it worked on this task")
SILENT = Problem("worker_lost", "the worker stopped giving signs of life")


def sweep(
    conn: sqlite3.Connection, older_than: float, held: Sequence[Chunk], rules: Rules, now: float
) -> Sequence[Task]:
    alive = {(chunk.task.seq, chunk.number, chunk.claims) for chunk in held}
    chunks, failed = _running(conn, older_than, now)
    swept = list(failed)
    for chunk in chunks:
        if (chunk.task.seq, chunk.number, chunk.claims) in alive:
            continue
        with suppress(LostClaim):  # another chunk has just failed this task for good
            swept += fail(conn, chunk, SILENT, rules.delay(chunk.failures), False, None, now)
    return swept


def recover(conn: sqlite3.Connection, rules: Rules, now: float) -> Sequence[Task]:
    _come_back_to_the_present(conn, rules, now)
    chunks, _ = _running(conn, float("inf"), now)
    for chunk in chunks:
        # A task that takes the daemon down with it must end: an interruption counts, without a delay.
        with suppress(LostClaim):  # another chunk has just failed this task for good
            fail(conn, chunk, INTERRUPTED, 0.0, False, None, now)
    looks.interrupt(conn, INTERRUPTED, now)
    return _back_in_line(conn, now)


def release_all(conn: sqlite3.Connection, now: float) -> Sequence[Task]:
    chunks, failed = _running(conn, float("inf"), now)
    released: dict[int, Task] = {}
    for chunk in chunks:
        with suppress(LostClaim):  # another chunk of its task could not be read
            released[chunk.task.seq] = release(conn, chunk, None, now)
    return [*failed, *released.values(), *_back_in_line(conn, now)]


def _back_in_line(conn: sqlite3.Connection, now: float) -> Sequence[Task]:
    """What was overtaken, and so is in nobody's work, is still called processing."""
    begun = [row["seq"] for row in conn.execute("select seq from task where state = 'processing'")]
    back = partial(move, conn, change="state = 'queued'", args={})
    moved = [damage.read_or_fail(conn, seq, now, partial(back, seq=seq))[0] for seq in begun]
    return [task for task in moved if task is not None]


def _come_back_to_the_present(conn: sqlite3.Connection, rules: Rules, now: float) -> None:
    """A clock that was set back while nobody looked: no wait between attempts may last a day for it."""
    latest = now + rules.max_retry_delay_seconds
    conn.execute("update task set run_at = :at, retry_at = :at where retry_at > :at", {"at": latest})
    conn.execute(f"update task set started_at = :now where {_TIMED} and started_at > :now", {"now": now})
    conn.execute(_LINE_CLOCK_TO_THE_PRESENT, {"now": now})


# None in line is younger than now. A search for each tenant that has anything in it, not for each task.
_LINE_CLOCK_TO_THE_PRESENT = """
    update line_clock set shift = min(shift, :now - coalesce((
      select max((
        select max(lined_at) from task
        where tenant = share.tenant and priority = share.priority and state = at.state
          and waiting > 0 and run_at is null
      ))
      from share, (select 'queued' as state union all select 'processing') as at where offered > 0
    ), 0))
"""


def clock_jumped(conn: sqlite3.Connection, seconds: float) -> None:
    """Move what only means a span of time; what a user chose stays, and so does the time of what happened."""
    moved = {"seconds": seconds}
    waits = "run_at = run_at + :seconds, retry_at = retry_at + :seconds"
    conn.execute(f"update task set {waits} where retry_at is not null", moved)
    conn.execute(f"update task set started_at = started_at + :seconds where {_TIMED}", moved)
    conn.execute("update chunk set beat_at = beat_at + :seconds where state = 'running'", moved)
    outbox.clock_jumped(conn, seconds)
    conn.execute("update line_clock set shift = shift + :seconds", moved)


_TIMED = "timeout_seconds is not null and started_at is not null and finished_at is null"


def _running(
    conn: sqlite3.Connection, older_than: float, now: float
) -> tuple[Sequence[Chunk], Sequence[Task]]:
    """The chunks in work, and the tasks that have failed instead, since they cannot be read."""
    # The + keeps SQLite from walking all chunks ever made in the order it is to give: it sorts the few found.
    numbers = conn.execute(
        "select task, number from chunk where state = 'running' and beat_at < ? order by +task, number",
        (older_than,),
    ).fetchall()
    chunks: list[Chunk] = []
    failed: list[Task] = []
    for seq, number in numbers:
        chunk, ended = damage.read_or_fail(conn, seq, now, partial(_chunk, conn, seq, number))
        chunks += [chunk] if chunk is not None else []
        failed += ended
    return chunks, failed


def _chunk(conn: sqlite3.Connection, seq: int, number: int) -> Chunk:
    task = conn.execute("select * from task where seq = ?", (seq,)).fetchone()
    chunk = conn.execute("select * from chunk where task = ? and number = ?", (seq, number)).fetchone()
    return to_chunk(task, chunk)
