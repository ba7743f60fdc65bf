"""The vocabulary of the timeline: what happened to a task, and when. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

Happening = Literal[
    "submitted",
    "follows",  # an equal task, whose transcript it gets
    "leads",  # the equal task that it followed has ended without a transcript: it is decoded itself
    "copied",  # it got the transcript of an equal task
    "started",
    "resumed",  # a worker took it up again
    "planned",
    "chunk",  # one is finished
    "overtaken",  # its worker went to a task whose turn it was
    "worker_died",
    "attempt_failed",
    "released",  # a chunk was handed back, without blame
    "replanned",  # its decoded audio was gone: the plan is made again
    "changed",  # by hand, as the next
    "retried",
    "completed",
    "failed",
    "cancelled",
]


class Moment(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened to a task. What does not belong to its kind is None."""

    at: float = 0.0  # Unix seconds, UTC
    kind: Happening
    attempt: int | None = None  # of the chunk; of the task at its end
    chunk: int | None = None  # 0 is the plan
    worker: int | None = None
    seconds: float | None = None  # of work
    audio_seconds: float | None = None  # of the chunk
    code: str | None = None  # the cause; safe to show, as is the message
    message: str | None = None
    retry_seconds: float | None = None  # until the next attempt
    priority: int | None = None  # its own, new one; of an overtaking that of the other task
    run_at: float | None = None  # its new one
    twin: str | None = None  # the id of the equal task
    times: int = 1  # it happened so often in a row,
    last_at: float | None = None  # and last at this time
    last_words: str | None = None  # of the dead worker, on its stderr: for the operator only


class Timeline(Struct, frozen=True):
    moments: Sequence[Moment]  # the oldest first
    truncated: bool  # some, of the oldest, are missing
