"""Risk detection, as far as other tasks have to do with it: what is noted, and what lets it begin.

Its tasks have no chunks, stand in no line of the workers, and are never delayed. Those that look through a
transcript are `ready` once its task is over, however it ended. The moves of who looks are in looks.py.
"""

from __future__ import annotations

import hashlib
import sqlite3
from functools import lru_cache

from whisperd.sql.rows import to_json
from whisperd.task import Detection, NewTask, Task


def is_ready(conn: sqlite3.Connection, transcript: str | None) -> int:
    """Whether nothing need be waited for: that of a task which is gone never comes."""
    waits = "select 1 from task where id = ? and state in ('queued', 'processing')"
    return int(transcript is None or conn.execute(waits, (transcript,)).fetchone() is None)


def note(conn: sqlite3.Connection, seq: int, new: NewTask, asked: Detection) -> None:
    """What the task of this `seq` is to look for, and in what."""
    name = None
    if new.rules is not None:
        name = _sha256(new.rules)
        conn.execute("insert or ignore into rules values (?, ?)", (name, new.rules))
    said = None if new.said is None else to_json(new.said)
    conn.execute(
        "insert into detection (task, asked, rules, segments) values (?, ?, ?, ?)",
        (seq, to_json(asked), name, said),
    )


@lru_cache(maxsize=1)  # a rescan notes the same ones for each of its tasks, half a megabyte at most
def _sha256(rules: str) -> str:
    return hashlib.sha256(rules.encode()).hexdigest()


def let_go(conn: sqlite3.Connection, transcription: Task) -> None:
    """It is over: whatever waits for its transcript may look, and be it that there is none."""
    conn.execute("update task set ready = 1 where transcript = ? and ready = 0", (transcription.id,))
