"""The timeline: what happened to a task. Only rare things are written; the rest is read off its rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Literal

import msgspec
from msgspec.structs import replace

from whisperd.sql.rows import to_json
from whisperd.task import SAMPLE_RATE, TaskNotFound
from whisperd.timeline import Moment, Timeline

MOST_ROWS = 100  # of a task: what fails for ever must not grow for ever
MOST_CHUNKS = 400  # of a timeline; three hours have about as many
_REPEATED = frozenset({"overtaken", "released", "replanned", "changed"})  # in a row they are one


def note(conn: sqlite3.Connection, seq: int, now: float, moment: Moment) -> None:
    """Write down what happened to the task, and forget what is too old for its timeline."""
    last = conn.execute(
        "select n, at, detail from task_event where task = ? order by n desc limit 1", (seq,)
    ).fetchone()
    if last is not None and moment.kind in _REPEATED and (before := _moment(last)).kind == moment.kind:
        again = replace(moment, times=before.times + 1, last_at=now)
        conn.execute(
            "update task_event set detail = ? where task = ? and n = ?", (to_json(again), seq, last["n"])
        )
        return
    n = 1 if last is None else last["n"] + 1
    conn.execute("insert into task_event values (?, ?, ?, ?)", (seq, n, now, to_json(moment)))
    if n > MOST_ROWS:
        conn.execute("delete from task_event where task = ? and n <= ?", (seq, n - MOST_ROWS))


def note_twin(conn: sqlite3.Connection, seq: int, now: float, moment: Moment, twin: int) -> None:
    (task_id,) = conn.execute("select id from task where seq = ?", (twin,)).fetchone()
    note(conn, seq, now, replace(moment, twin=task_id))


def note_run(conn: sqlite3.Connection, seq: int) -> None:
    """Write down what a run by hand is about to overwrite: when the last one began, and how it ended."""
    task = _task(conn, seq)
    for moment in [*_began(task), *_plan(conn, seq), *_end(task)]:
        note(conn, seq, moment.at, replace(moment, at=0.0))


def note_plan(conn: sqlite3.Connection, seq: int) -> None:
    """The same of a plan that is made again."""
    for moment in _plan(conn, seq):
        note(conn, seq, moment.at, replace(moment, at=0.0))


def timeline(conn: sqlite3.Connection, task_id: str) -> Timeline:
    """Raises TaskNotFound."""
    row = conn.execute("select * from task where id = ?", (task_id,)).fetchone()
    if row is None:
        raise TaskNotFound(f"there is no task {task_id}")
    noted = conn.execute(
        "select n, at, detail from task_event where task = ? order by n", (row["seq"],)
    ).fetchall()
    chunks = _chunks(conn, row["seq"])
    moments = [
        Moment(at=row["created_at"], kind="submitted"),
        *_began(row),
        *_plan(conn, row["seq"]),
        *map(_moment, noted),
        *reversed(chunks[:MOST_CHUNKS]),
        *_end(row),
    ]
    forgotten = bool(noted and noted[0]["n"] > 1) or len(chunks) > MOST_CHUNKS
    return Timeline(sorted(moments, key=attrgetter("at")), forgotten)  # which keeps the order within a moment


def _task(conn: sqlite3.Connection, seq: int) -> sqlite3.Row:
    row: sqlite3.Row = conn.execute("select * from task where seq = ?", (seq,)).fetchone()
    return row


def _began(task: sqlite3.Row) -> Iterator[Moment]:
    if task["started_at"] is not None:
        yield Moment(at=task["started_at"], kind="started")


def _end(task: sqlite3.Row) -> Iterator[Moment]:
    if task["finished_at"] is not None:
        yield Moment(
            at=task["finished_at"],
            kind=task["state"],
            attempt=task["attempt"],
            seconds=task["compute_seconds"],
            audio_seconds=task["audio_seconds"],
            code=task["error_code"],
            message=task["error_message"],
        )


def _plan(conn: sqlite3.Connection, seq: int) -> Sequence[Moment]:
    rows = conn.execute(f"{_DONE} and number = 0", (seq,)).fetchall()
    return [_finished("planned", row) for row in rows]


def _chunks(conn: sqlite3.Connection, seq: int) -> Sequence[Moment]:
    """The newest first, and one more than are shown."""
    sql = f"{_DONE} and number > 0 order by finished_at desc, number desc limit ?"
    rows = conn.execute(sql, (seq, MOST_CHUNKS + 1)).fetchall()
    return [_finished("chunk", row) for row in rows]


_DONE = """
    select number, failures, finished_at, worker, seconds, samples from chunk
    where task = ? and state = 'done' and finished_at is not null
"""


def _finished(kind: Literal["planned", "chunk"], row: sqlite3.Row) -> Moment:
    return Moment(
        at=row["finished_at"],
        kind=kind,
        attempt=row["failures"] + 1,
        chunk=row["number"],
        worker=row["worker"],
        seconds=row["seconds"],
        audio_seconds=row["samples"] / SAMPLE_RATE if row["number"] else None,
    )


def _moment(row: sqlite3.Row) -> Moment:
    return replace(msgspec.json.decode(row["detail"], type=Moment), at=row["at"])
