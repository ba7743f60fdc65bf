"""The vocabulary of risk detection at work: a look through a transcript, what came of it. Pure: no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
from msgspec import Raw, Struct

from whisperd.task import Audio, Detection, Kind, NewTask, Problem, Segment, Task

RULES = "rules"  # where other tasks name their model
NO_TRANSCRIPT = "no_transcript"  # the code of the problem that there is none to look through
MISSING = Problem(NO_TRANSCRIPT, "there is no transcript: its task failed, was cancelled or is gone")
CLOSE = 1.0  # seconds that a place moves at most when its transcript is corrected, where words had times
Standing = Literal["awaited", "completed"]  # of the looks through a transcript


def after(new: NewTask, task_id: str, asked: Detection, rules: str | None = None) -> NewTask:
    """The task that looks through the transcript of this one."""
    return NewTask(
        id=task_id,
        kind=Kind.RISK_DETECTION,
        audio=new.audio,
        model=RULES,
        priority=new.priority,
        tenant=new.tenant,
        max_retries=new.max_retries,
        callback_url=new.callback_url,
        metadata=new.metadata,
        detection=asked,
        transcript=new.id,
        rules=rules,
    )


def text_audio(said: Sequence[Segment]) -> Audio:
    """What stands for the audio of a text."""
    text = " ".join(segment.text for segment in said).encode()
    return Audio(name="text", size=len(text), sha256=hashlib.sha256(text).hexdigest())


class Look(Struct, frozen=True, kw_only=True):
    """A task of risk detection at work, and the proof that the holder still owns it."""

    task: Task
    claims: int  # times it was begun: the fencing token
    wanted: str  # JSON, a Detection: read late, so that a damaged row costs its own task and no other
    rules: str | None  # JSON, that were sent with it

    @property
    def asked(self) -> Detection:
        return msgspec.json.decode(self.wanted, type=Detection)

    def __str__(self) -> str:
        return f"risk detection {self.task.id}"


class Sighting(Struct, frozen=True, kw_only=True):
    """A finding, or what is missing, as it is told of."""

    rule: str
    speaker: str = ""
    begin: float  # seconds: [begin, past); -1 of what is missing, and where there are no times
    past: float
    loud: bool  # severe enough for an alert
    finding: Raw  # JSON

    def is_at(self, begin: float, past: float, slack: float = 0.0) -> bool:
        """Whether it is there, seen again: with more of the transcript a place may have grown."""
        return self.begin == begin or (self.begin < past + slack and begin < self.past + slack)


class Outcome(NamedTuple):
    """What a search has found, and in which correction of the transcript."""

    report: str  # JSON, a whisperd.risk.report.Document
    sightings: tuple[Sighting, ...]
    edit: str | None


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


class Ended(Struct, frozen=True, kw_only=True):
    """A look that came with its transcript or its text and is over, whole: as other hosts are told of it."""

    task: Task
    asked: Detection
    rules: str | None  # SHA-256 of those that were sent with it
    report: str | None  # JSON, a whisperd.risk.report.Document; None: it is not completed
    edit: str | None  # the token of the correction in which


class Seen(NamedTuple):
    """A look through a transcript, as far as it tells what is to be redacted."""

    asked: Detection
    rules: str | None  # SHA-256 of those that were sent with it
    is_first: bool  # submitted with the transcript
    hidden: str | None  # JSON: places and rules_errors of its report; None: not of these words, or not yet
