"""Transcripts and audio without what rules want out of them.

What was submitted with `redact` is shown so unless somebody asks for all of it. Where nobody knows what is to
be redacted, since nothing has looked through a transcript or not through the words that it has now, there is
an error: it is never shown as it is for want of something better.

What any look has found is hidden, so that a later one never shows more. What was submitted with `redact`
needs one that has looked for all that was to be looked for then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from whisperd.aside import worked_out
from whisperd.detections import Detections
from whisperd.look import Kept, Seen
from whisperd.risk.detection import Place
from whisperd.risk.redaction import redacted, silent
from whisperd.risk.report import Document, unquoted, wordless
from whisperd.risk.rules import Severity
from whisperd.task import Edit, Piece, Task, TaskError, TaskQueue
from whisperd.transcript import Transcript

_SEVERITIES = [str(severity) for severity in Severity]


class NotRedacted(TaskError):
    """It is not known what is to be redacted."""


class NotRedactedYet(NotRedacted):
    """It will be, once risk detection is over."""


class _Hidden(Struct, frozen=True, array_like=True):
    """What of a report is needed here."""

    places: tuple[Place, ...]
    rules_errors: tuple[str, ...]


class Redacting:
    def __init__(self, queue: TaskQueue, detections: Detections) -> None:
        self._queue = queue
        self._detections = detections

    async def transcript(self, task: Task, *, hidden: bool, original: bool = False) -> Transcript:
        """As it was corrected, or `original`; `hidden`: redacted. Raises NotRedacted."""
        edit = None if original else await self._queue.edit(task.id)
        said = await self._said(task, edit)
        if not hidden:
            return said
        looks = await self._looks(task, edit)
        return await asyncio.to_thread(_without, said, looks)

    async def is_possible(self, task: Task) -> bool:
        """Whether it is known what is to be redacted of its transcript, as it is now, and of its audio."""
        edit = await self._queue.edit(task.id)
        try:
            for version in (None, edit) if edit else (None,):
                await asyncio.to_thread(_places, task, await self._looks(task, version))
        except NotRedacted:
            return False
        return True

    async def silent(self, task: Task) -> tuple[Piece, ...]:
        """The audio in which the findings are heard, whatever its transcript was corrected to since.

        What a correction leaves out is heard all the same: the original has to be looked through, and what is
        found in the correction is silent, too. Raises NotRedacted.
        """
        edit = await self._queue.edit(task.id)
        looks = await self._looks(task, None)
        pieces = await asyncio.to_thread(_silent, await self._said(task, None), looks)
        if edit is not None:
            also = await self._detections.redaction(task, edit.token)
            pieces += await asyncio.to_thread(_silent, await self._said(task, edit), also)
        return tuple(pieces)

    async def unquoted(self, task: Task, kept: Kept) -> Document:
        """What a look through its transcript has found, without what any look wants out of the same words.

        Where it is not known what that is, it quotes nothing.
        """
        looks = await self._detections.redaction(task, kept.edit)
        return await asyncio.to_thread(_unquoted, task, kept, looks)

    async def _looks(self, task: Task, edit: Edit | None) -> Sequence[Seen]:
        """Those that tell what is to be redacted. Raises NotRedacted."""
        looks = await self._detections.redaction(task, edit and edit.token)
        if not _tell(task, looks):
            raise await self._refusal(task)
        return looks

    async def _said(self, task: Task, edit: Edit | None) -> Transcript:
        if edit is not None:
            return Transcript(task=task, segments=edit.segments, edited=True)
        marked = await self._queue.segments(task.id)
        return await worked_out(partial(Transcript.of, task, marked), len(marked))

    async def _refusal(self, task: Task) -> NotRedacted:
        if await self._detections.is_awaited(task.id):
            return NotRedactedYet("it is being looked through for what is to be redacted; ask again soon")
        return NotRedacted(
            "nothing tells what is to be redacted: the transcript, as it is now, was not looked through; "
            "see POST /tasks/risk-detection"
        )


def _without(said: Transcript, looks: Sequence[Seen]) -> Transcript:
    asked = [look.asked.redact for look in looks if look.hidden is not None and look.asked.redact != "none"]
    way = said.task.redact or (asked[-1] if asked else "tag")
    return replace(said, segments=tuple(redacted(said.segments, _places(said.task, looks), way)))


def _unquoted(task: Task, kept: Kept, looks: Sequence[Seen]) -> Document:
    document = msgspec.json.decode(kept.report, type=Document)
    try:
        return unquoted(document, _places(task, looks)) if _tell(task, looks) else wordless(document)
    except NotRedacted:
        return wordless(document)


def _silent(said: Transcript, looks: Sequence[Seen]) -> list[Piece]:
    return silent(said.segments, _places(said.task, looks))


def _needed(task: Task, looks: Sequence[Seen]) -> list[Seen]:
    """What was looked for, all of which has to be known: as it was submitted, or else by all that looked."""
    if task.redact is not None:
        return [look for look in looks if look.is_first]
    return [look for look in looks if look.hidden is not None]


def _tell(task: Task, looks: Sequence[Seen]) -> bool:
    """Whether they tell what is to be redacted."""
    reported = [look for look in looks if look.hidden is not None]
    needed = _needed(task, looks)
    return bool(needed) and all(any(_covers(look, one) for look in reported) for one in needed)


def _places(task: Task, looks: Sequence[Seen]) -> list[Place]:
    """That any of them has found. Raises NotRedacted where rules could not look everywhere."""
    found = [
        (look, msgspec.json.decode(look.hidden, type=_Hidden)) for look in looks if look.hidden is not None
    ]
    for one in _needed(task, looks):
        errors = [hidden.rules_errors for look, hidden in found if _covers(look, one)]
        if errors and all(errors):
            raise NotRedacted(
                "some rules could not look through all of it, so it is not known what is to be redacted"
            )
    return [place for _, hidden in found for place in hidden.places]


def _covers(look: Seen, other: Seen) -> bool:
    """Whether it looked for all that the other one was to look for."""
    mine, others = look.asked, other.asked
    return (
        _includes(mine.packs, others.packs)
        and other.rules in (None, look.rules)
        and _includes(mine.categories or None, others.categories or None)
        and mine.min_score <= others.min_score
        and _SEVERITIES.index(mine.min_severity) <= _SEVERITIES.index(others.min_severity)
    )


def _includes(mine: Sequence[str] | None, others: Sequence[str] | None) -> bool:
    """None: everything."""
    return mine is None or (others is not None and set(others) <= set(mine))
