"""Edits: a corrected transcript beside the original of a completed task."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from secrets import token_hex

import msgspec

from whisperd.sql.questions import get
from whisperd.sql.rows import to_json
from whisperd.task import Edit, EditedMeanwhile, Segment, State, Task, WrongState


def find(conn: sqlite3.Connection, task_id: str) -> Edit | None:
    row = conn.execute(
        "select token, segments from edit where task = (select seq from task where id = ?)", (task_id,)
    ).fetchone()
    return row and Edit(row["token"], msgspec.json.decode(row["segments"], type=tuple[Segment, ...]))


def write(conn: sqlite3.Connection, task_id: str, segments: Sequence[Segment], seen: str | None) -> None:
    task = _unless_edited(conn, task_id, seen)
    edit = (task.seq, token_hex(8), to_json(segments))
    conn.execute("insert or replace into edit values (?, ?, ?)", edit)


def drop(conn: sqlite3.Connection, task_id: str, seen: str | None) -> None:
    task = _unless_edited(conn, task_id, seen)
    conn.execute("delete from edit where task = ?", (task.seq,))


def _unless_edited(conn: sqlite3.Connection, task_id: str, seen: str | None) -> Task:
    """The task, if it is completed and its edit is still the one that was `seen`; None: there was none."""
    task = get(conn, task_id)
    if task.state is not State.COMPLETED:
        raise WrongState(f"task {task_id} is {task.state}: there is no transcript to correct")
    row = conn.execute("select token from edit where task = ?", (task.seq,)).fetchone()
    if (row and row["token"]) != seen:
        raise EditedMeanwhile("somebody else has changed this transcript: read it again")
    return task
