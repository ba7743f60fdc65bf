"""Transcripts and audio without what rules want out of them.

What was submitted with `redact` is shown so unless somebody asks for all of it. Where nobody knows what is to
be redacted, since nothing has looked through a transcript or not through the words that it has now, there is
an error: it is never shown as it is for want of something better.
"""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from whisperd.detections import Detections
from whisperd.look import Kept
from whisperd.risk.detection import Place
from whisperd.risk.redaction import redacted, silent
from whisperd.task import Edit, Piece, Task, TaskError, TaskQueue
from whisperd.transcript import Transcript


class NotRedacted(TaskError):
    """It is not known what is to be redacted."""


class NotRedactedYet(NotRedacted):
    """It will be, once risk detection is over."""


class _Hidden(Struct, frozen=True, kw_only=True):
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
        kept = await self._found(task, edit)
        return await asyncio.to_thread(_without, said, kept)

    async def silent(self, task: Task) -> tuple[Piece, ...]:
        """The audio in which the findings are heard, whatever its transcript was corrected to since.

        Raises NotRedacted.
        """
        edit = await self._queue.edit(task.id)
        found = [
            (version, kept)
            for version in ((None, edit) if edit else (None,))
            if (kept := await self._detections.redaction(task.id, version and version.token))
        ]
        if not found:
            raise await self._refusal(task)
        pieces: list[Piece] = []
        for version, kept in found:
            said = await self._said(task, version)
            pieces += await asyncio.to_thread(_silent, said, kept)
        return tuple(pieces)

    async def _said(self, task: Task, edit: Edit | None) -> Transcript:
        if edit is not None:
            return Transcript(task=task, segments=edit.segments, edited=True)
        return await asyncio.to_thread(Transcript.of, task, await self._queue.segments(task.id))

    async def _found(self, task: Task, edit: Edit | None) -> Kept:
        """What is to be redacted by. Raises NotRedacted."""
        kept = await self._detections.redaction(task.id, edit and edit.token)
        if kept is None:
            raise await self._refusal(task)
        return kept

    async def _refusal(self, task: Task) -> NotRedacted:
        if await self._detections.is_awaited(task.id):
            return NotRedactedYet("it is being looked through for what is to be redacted; ask again soon")
        return NotRedacted(
            "nothing tells what is to be redacted: the transcript, as it is now, was not looked through; "
            "see POST /tasks/risk-detection"
        )


def _without(said: Transcript, kept: Kept) -> Transcript:
    places = _hidden(kept).places
    way = said.task.redact or kept.way or "tag"
    return replace(said, segments=tuple(redacted(said.segments, places, way)))


def _silent(said: Transcript, kept: Kept) -> list[Piece]:
    return silent(said.segments, _hidden(kept).places)


def _hidden(kept: Kept) -> _Hidden:
    """Raises NotRedacted where rules could not look everywhere."""
    hidden = msgspec.json.decode(kept.report, type=_Hidden)
    if hidden.rules_errors:
        raise NotRedacted(
            "some rules could not look through all of it, so it is not known what is to be redacted"
        )
    return hidden
