"""What is finished of the tasks of a shared queue, for another host to go on from, and taken from one.

Each public function is one transaction, or a part of one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

import msgspec

from whisperd.job import Checkpoint, Finished
from whisperd.sql.line import move
from whisperd.sql.rows import to_json
from whisperd.task import Cut, Segment, Task


def go_on_from(conn: sqlite3.Connection, seq: int, known: Checkpoint) -> Task:
    """Of a task without chunks. Its plan is made all the same: an equal one keeps these, another does not."""
    for number, cut in enumerate(known.cuts, 1):
        finished = known.chunks.get(number)
        state, segments = ("done", to_json(finished.segments)) if finished else ("waiting", None)
        conn.execute(
            "insert into chunk (task, number, state, cut, samples, segments) values (?, ?, ?, ?, ?, ?)",
            (seq, number, state, to_json(cut), cut.samples, segments),
        )
    change = """
        fingerprint = :fingerprint, warnings = :warnings, (samples, samples_done, progress) = (
          select sum(samples), coalesce(sum(samples) filter (where state = 'done'), 0),
                 coalesce(sum(samples) filter (where state = 'done') * 1.0 / max(sum(samples), 1), 0)
          from chunk where task = :seq and number > 0
        )
    """
    warnings = dict.fromkeys(warning for chunk in known.chunks.values() for warning in chunk.warnings)
    return move(conn, seq, change, {"fingerprint": known.fingerprint, "warnings": to_json(list(warnings))})


def unkept(
    conn: sqlite3.Connection, task_id: str, fingerprint: str | None, kept: Collection[int]
) -> Checkpoint | None:
    """What is finished of a task that is not over, but for the chunks of that plan that are kept already.

    None: there is nothing new.
    """
    task = conn.execute(
        "select seq, fingerprint, warnings from task where id = ? and state in ('queued', 'processing')",
        (task_id,),
    ).fetchone()
    if task is None or task["fingerprint"] is None:
        return None
    numbers = _done(conn, task["seq"]) - set(kept if task["fingerprint"] == fingerprint else ())
    if not numbers:
        return None
    return Checkpoint(
        fingerprint=task["fingerprint"],
        cuts=_cuts(conn, task["seq"]),
        chunks={number: _finished(conn, task, number) for number in sorted(numbers)},
    )


def _done(conn: sqlite3.Connection, seq: int) -> set[int]:
    rows = conn.execute("select number from chunk where task = ? and number > 0 and state = 'done'", (seq,))
    return {row["number"] for row in rows}


def _cuts(conn: sqlite3.Connection, seq: int) -> tuple[Cut, ...]:
    rows = conn.execute("select cut from chunk where task = ? and number > 0 order by number", (seq,))
    return tuple(msgspec.json.decode(row["cut"], type=Cut) for row in rows)


def _finished(conn: sqlite3.Connection, task: sqlite3.Row, number: int) -> Finished:
    sql = "select segments from chunk where task = ? and number = ?"
    (segments,) = conn.execute(sql, (task["seq"], number)).fetchone()
    return Finished(
        msgspec.json.decode(segments, type=tuple[Segment, ...]),
        msgspec.json.decode(task["warnings"], type=tuple[str, ...]),
    )
