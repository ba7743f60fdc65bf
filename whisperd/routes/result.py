"""/tasks/{id}/result: the transcript in every format, and what a person has corrected of it.

The original is kept: an edit stands beside it, and is shown in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from math import inf
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs
from starlette.requests import Request
from starlette.responses import Response

from whisperd.aside import LITTLE, worked_out
from whisperd.routes import Services, findings, services, task_of
from whisperd.routes.call import STILL, TAGGED, Answer, Call, Header
from whisperd.routes.errors import Refusal
from whisperd.routes.hiding import Redacted, is_hidden
from whisperd.routes.tags import tag_of, unless_known
from whisperd.task import (
    FINAL,
    EditedMeanwhile,
    Kind,
    Segment,
    State,
    Task,
    TaskNotFound,
    WrongState,
)
from whisperd.transcript import FORMATS, Transcript, render

MOST_SEGMENTS = 20_000  # more than are said in a day
MOST_EDIT_BYTES = 2 * 2**20  # twelve hours of speech
LATE_SECONDS = 1.0  # behind the end of the audio, which its last words may seem to be


class Written(Struct, frozen=True, kw_only=True):
    format: Literal["json", "text", "srt", "vtt", "tsv", "verbose_json"] = "json"
    partial: Annotated[bool, Meta(description="Of a task that is not over, as far as it has come.")] = False
    original: Annotated[bool, Meta(description="As it was before anybody corrected it.")] = False
    redacted: Redacted | None = None


async def result(request: Request, query: Written) -> Response:
    """The transcript of a completed task, as it was corrected; with `partial`, what is certain of it so far.

    What a partial one says stays: the next one goes on behind it. Of risk detection: what was found, in JSON.
    """
    here = services(request)
    task = await task_of(request)
    if task.kind is Kind.RISK_DETECTION:
        return await _found(request, task, query)
    partial = query.partial and task.state not in FINAL
    if not partial:
        check_result(task)
    hidden = is_hidden(request, task, query.redacted)
    if partial and hidden:
        raise Refusal(
            409, "not_finished", "what is to be redacted is known once all is said: wait for its end"
        )
    if partial:
        transcript = await _so_far(here, task)
    else:
        transcript = await here.redacting.transcript(task, hidden=hidden, original=query.original)
    return await _answer(request, transcript, query.format, {"Whisperd-Partial": "true"} if partial else {})


async def _found(request: Request, task: Task, query: Written) -> Response:
    if query.format != "json":
        raise Refusal(422, "invalid_field", "what risk detection found is JSON", "format")
    check_result(task)
    kept = await services(request).detections.kept(task.id)
    if kept is None:  # it was removed just now
        raise TaskNotFound(f"there is no task {task.id}")
    return await findings.answer(request, kept, query.redacted)


async def _answer(
    request: Request, transcript: Transcript, format: str, headers: dict[str, str] | None = None
) -> Response:
    """With an ETag, so that who asks again and again for subtitles is sent them when there are more."""
    body, media_type, tag = await worked_out(partial(_written, transcript, format), _pieces(transcript))
    return unless_known(request, Response(body, media_type=media_type, headers=headers), tag)


def _pieces(transcript: Transcript) -> int:
    """To write: a word takes a 25th of what a short segment does."""
    segments = transcript.segments
    if len(segments) > LITTLE:
        return len(segments)
    return sum(1 + len(one.words) // 25 + len(one.text) // 500 for one in segments)


def _written(transcript: Transcript, format: str) -> tuple[bytes, str, str]:
    """Its bytes, what they are, and their ETag. Half a day of speech takes 300 ms: not for the loop."""
    text, media_type = render(transcript, format)
    body = text.encode()
    return body, media_type, tag_of(body)


async def _so_far(here: Services, task: Task) -> Transcript:
    """What no chunk still to come can change, nor come before."""
    settled = await here.queue.settled(task.id)  # before the segments: what is finished later comes later
    marked = await here.queue.segments(task.id)
    return await asyncio.to_thread(
        lambda: Transcript.of(task, (one for one in marked if one[1].start < settled))
    )


def check_result(task: Task) -> None:
    """Raises Refusal where there is nothing to show."""
    if task.state not in FINAL:
        raise Refusal(
            409, "not_finished", f"the task is {task.state}; wait with GET /tasks/{task.id}?wait=30"
        )
    if task.state != State.COMPLETED:
        message = task.error.message if task.error else f"the task was {task.state}"
        raise Refusal(410, task.state, message)


# --- corrections ---


class Line(Struct, frozen=True, kw_only=True):
    """A segment as it should be. What else one of `format=json` has may come along, and is passed over."""

    start: Annotated[float, Meta(ge=0)]
    end: Annotated[float, Meta(ge=0)]
    text: Annotated[str, Meta(min_length=1, max_length=10_000)]
    speaker: Annotated[str, Meta(min_length=1, max_length=100)] | None = None


class Correction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    segments: Annotated[list[Line], Meta(max_length=MOST_SEGMENTS)]


async def correct(request: Request, wanted: Correction) -> Response:
    """Correct the transcript of a completed task; the original is kept, and can be gone back to.

    `If-Match` is the ETag of the transcript that was corrected, in whatever format. All of the transcript is
    sent, in order of time. Words keep their times where the text and the start of a segment are as they were.
    """
    here, task = services(request), await task_of(request)
    _check_lines(wanted.segments, task)
    edit = await here.queue.edit(task.id)
    await _check_seen(request, task)
    marked = await here.queue.segments(task.id)
    segments = await asyncio.to_thread(corrected, [segment for _, segment in marked], wanted.segments)
    await here.queue.correct(task.id, segments, edit and edit.token)
    transcript = Transcript(task=task, segments=tuple(segments), edited=True)
    return await _answer(request, transcript, "json")


async def revert(request: Request) -> Response:
    """Go back to the original transcript; what was corrected is gone.

    `If-Match` is the ETag of the correction. Where there is none, nothing is to be done.
    """
    here, task = services(request), await task_of(request)
    edit = await here.queue.edit(task.id)
    if edit is not None or "if-match" in request.headers:
        await _check_seen(request, task)
    await here.queue.revert(task.id, edit and edit.token)
    return Response(status_code=204)


def _check_lines(lines: Sequence[Line], task: Task) -> None:
    """Raises WrongState, Refusal."""
    if task.state is not State.COMPLETED:
        raise WrongState(f"task {task.id} is {task.state}: there is no transcript to correct")
    check_lines(lines, (task.audio.duration or 0.0) + LATE_SECONDS)


def check_lines(lines: Sequence[Line], most: float = inf) -> None:
    """Of audio of at most so many seconds. Raises Refusal."""
    last = 0.0
    for number, line in enumerate(lines):
        if not line.text.strip():
            raise _wrong(number, "its text says nothing: leave it out")
        if line.end < line.start:
            raise _wrong(number, "it ends before it starts")
        if line.start < last:
            raise _wrong(number, "it starts before the one in front of it: they have to be in order of time")
        if line.end > most:
            raise _wrong(number, "it ends behind the end of the audio")
        last = line.start


def _wrong(number: int, why: str) -> Refusal:
    return Refusal(422, "invalid_field", f"segment {number}: {why}", "segments")


async def _check_seen(request: Request, task: Task) -> None:
    """Refuse what was made of another transcript than the present one."""
    seen = request.headers.get("if-match")
    if seen is None:
        message = "send If-Match with the ETag of the transcript that you mean"
        raise Refusal(428, "if_match_required", message, "If-Match")
    named = {tag.strip().removeprefix("W/") for tag in seen.split(",")}  # a proxy that compresses weakens it
    current = await services(request).redacting.transcript(task, hidden=False)
    if "*" not in named and not await asyncio.to_thread(_is_named, current, named):
        raise EditedMeanwhile("this is not the transcript any more that you mean: read it again")


def _is_named(transcript: Transcript, named: set[str]) -> bool:
    return any(_written(transcript, format)[2] in named for format in FORMATS)


def corrected(original: Sequence[Segment], lines: Sequence[Line]) -> list[Segment]:
    """The lines as segments. One whose text and start are as they were keeps what is known of it.

    Its words, too, unless it ends before they do: their times and probabilities are those of the old text.
    """
    known = {(segment.text, round(segment.start, 3)): segment for segment in original}
    return [_corrected(known.get((line.text.strip(), round(line.start, 3))), line) for line in lines]


def _corrected(known: Segment | None, line: Line) -> Segment:
    if known is None:
        return Segment(start=line.start, end=line.end, text=line.text.strip(), speaker=line.speaker)
    fits = all(word.end <= line.end + 0.001 for word in known.words)
    return structs.replace(known, end=line.end, speaker=line.speaker, words=known.words if fits else ())


_WRITTEN = (
    *("application/json", "text/plain; charset=utf-8", "text/vtt; charset=utf-8"),
    "text/tab-separated-values; charset=utf-8",
)

calls = [
    Call(
        method="GET",
        path="/tasks/{task_id}/result",
        handler=result,
        right="read",
        query=Written,
        headers=TAGGED,
        answers={
            200: Answer(
                about="The transcript, as `format` asks.",
                media_types=_WRITTEN,
                headers={"ETag": "of this text", "Whisperd-Partial": "true while there is more to come"},
            ),
            304: STILL,
        },
        refusals=(409, 410),
    ),
    Call(
        method="PUT",
        path="/tasks/{task_id}/result",
        handler=correct,
        right="submit",
        body=Correction,
        body_bytes=MOST_EDIT_BYTES,
        headers={"If-Match": Header(about="The ETag of the transcript that was corrected. Required.")},
        answers={
            200: Answer(
                about="The transcript, as with `format=json`.",
                media_types=("application/json",),
                headers={"ETag": "of this text"},
            )
        },
        refusals=(409, 412, 428),
    ),
    Call(
        method="DELETE",
        path="/tasks/{task_id}/result",
        handler=revert,
        right="submit",
        headers={"If-Match": Header(about="The ETag of the correction. Required where there is one.")},
        answers={204: Answer(about="It is the original, now or before.")},
        refusals=(409, 412, 428),
    ),
]
