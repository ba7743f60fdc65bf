"""Rows that cannot be read, as after a flipped bit: their task fails, and no other waits for it.

Python's sqlite3 refuses text that is no UTF-8, msgspec JSON that is none. In a column of an index a flipped
bit is worse: SQLite notices at the next write that row and index differ, and that is trouble of the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from whisperd.sql import line
from whisperd.sql.rows import Damaged, TaskRow, named
from whisperd.task import Kind, Options, Problem, State, Task

R = TypeVar("R")
DAMAGED = Problem("damaged", "what was stored of this task cannot be read any more")
# Of what is more than text: how it is read, and what stands in its place when it is lost.
_READ: Mapping[str, tuple[Callable[[str], object], str]] = {
    "kind": (Kind, Kind.TRANSCRIPTION),
    "options": (msgspec.json.Decoder(Options).decode, "{}"),
    "warnings": (msgspec.json.Decoder(list[str]).decode, "[]"),
    "metadata": (msgspec.json.Decoder(dict[str, Any]).decode, "{}"),
}


def read_or_fail(
    conn: sqlite3.Connection, seq: int, now: float, read: Callable[[], R]
) -> tuple[R | None, Sequence[Task]]:
    """What `read` finds in rows of that task; None where it cannot, and the task, which has failed."""
    try:
        with named(seq):
            return read(), ()
    except Damaged:
        return None, fail(conn, seq, now)


def fail(conn: sqlite3.Connection, seq: int, now: float) -> Sequence[Task]:
    """The task has failed; what could not be read of it is as much as can be, or empty."""
    for column in TaskRow._fields:
        text = f"select cast({column} as blob) from task where seq = ? and typeof({column}) = 'text'"
        if (row := conn.execute(text, (seq,)).fetchone()) and (sound := _sound(column, row[0])) is not None:
            conn.execute(f"update task set {column} = ? where seq = ?", (sound, seq))
    return line.end(conn, seq, State.FAILED, DAMAGED, now)


def _sound(column: str, stored: bytes) -> str | None:
    """What can be read in its place; None where it is well."""
    text = stored.decode(errors="replace")
    if column in _READ:
        read, lost = _READ[column]
        try:
            read(text)
        except (msgspec.MsgspecError, ValueError):
            return lost
    return None if text.encode() == stored else text
