"""The vocabulary of risk detection at work: a look through a transcript, what came of it. Pure: no I/O."""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec import Struct

from whisperd.task import Detection, Segment, Task


class Look(Struct, frozen=True, kw_only=True):
    """A task of risk detection at work, and the proof that the holder still owns it."""

    task: Task
    claims: int  # times it was begun: the fencing token
    asked: Detection
    rules: str | None  # JSON, that were sent with it

    def __str__(self) -> str:
        return f"risk detection {self.task.id}"


class Said(NamedTuple):
    """What is looked through."""

    transcription: Task | None  # None: the segments were sent
    segments: tuple[Segment, ...]
    edit: str | None = None  # the token of the correction that they are


class Kept(NamedTuple):
    """What a task of risk detection found, as it was written down."""

    task: Task
    report: str  # JSON, a whisperd.risk.report.Document
    edit: str | None  # the token of the correction in which; None: in the original
    way: Literal["tag", "mask"] | None = None  # in which it was asked to redact, where that is asked
