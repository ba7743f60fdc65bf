"""Rows to vocabulary and back."""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import msgspec

from whisperd.task import Audio, Chunk, Cut, Kind, Options, Problem, State, Task

# The columns of a task in the order in which the migrations made them. By place: sqlite3.Row looks for each
# name among all of them, which took as long as all the rest.
TaskRow = namedtuple(
    "TaskRow",
    """
    seq id kind state priority tenant model options audio_name audio_size audio_sha256 audio_seconds
    waiting running samples samples_done progress attempt max_retries timeout_seconds
    created_at run_at started_at finished_at fingerprint language warnings error_code error_message
    metadata callback_url retry_at language_probability content leader lined_at result_url compute_seconds
    transcript ready redact heard_by
    """,
)
_COLUMNS = len(TaskRow._fields)
_HEARD_BY = TaskRow._fields.index("heard_by")


UNREADABLE = (msgspec.MsgspecError, ValueError, sqlite3.OperationalError)


class Damaged(Exception):
    """What stands in the rows of a task makes no sense."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"the rows of task {seq} cannot be read")
        self.seq = seq


@contextmanager
def named(seq: int) -> Iterator[None]:
    """Around what reads rows of that task: raises Damaged where that is not possible."""
    try:
        yield
    except UNREADABLE as error:
        blame(seq, error)


def blame(seq: int, error: Exception) -> NoReturn:
    """The same behind an `except UNREADABLE`, for what is done at each claim: `named` takes some µs."""
    if getattr(error, "sqlite_errorcode", None) is not None:  # else it is Python's, over text
        raise error
    raise Damaged(seq) from error


def to_task(columns: sqlite3.Row) -> Task:
    """Of a row that begins with all columns of `task`."""
    row = TaskRow._make(columns[:_COLUMNS])
    return Task(
        seq=row.seq,
        id=row.id,
        kind=Kind(row.kind),
        state=State(row.state),
        priority=row.priority,
        tenant=row.tenant,
        model=row.model,
        options=msgspec.json.decode(row.options, type=Options),
        audio=Audio(
            name=row.audio_name,
            size=row.audio_size,
            sha256=row.audio_sha256,
            duration=row.audio_seconds,
        ),
        attempt=row.attempt,
        max_retries=row.max_retries,
        timeout_seconds=row.timeout_seconds,
        created_at=row.created_at,
        run_at=row.run_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        progress=row.progress,
        language=row.language,
        language_probability=row.language_probability,
        warnings=tuple(msgspec.json.decode(row.warnings)),
        error=Problem(row.error_code, row.error_message) if row.error_code else None,
        metadata=msgspec.json.decode(row.metadata),
        callback_url=row.callback_url,
        result_url=row.result_url,
        transcript=row.transcript,
        redact=row.redact,
    )


def to_chunk(task: sqlite3.Row, row: sqlite3.Row) -> Chunk:
    return Chunk(
        task=to_task(task),
        number=row["number"],
        claims=row["claims"],
        failures=row["failures"],
        claimed_at=row["beat_at"],
        cut=msgspec.json.decode(row["cut"], type=Cut) if row["cut"] else None,
        heard_by=task[_HEARD_BY],
    )


def to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()
