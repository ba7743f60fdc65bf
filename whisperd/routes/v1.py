"""/api/v1: the calls of the older WhisperAPI, in its envelope, on the same queue.

`jobStatus` speaks as the job queue behind the older system did (BullMQ): waiting, delayed, active, completed,
failed. Everything that goes wrong below this path is written as its envelope, by dialects.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType, structs
from starlette.requests import Request
from starlette.responses import Response

from whisperd.redacting import NotRedactedYet
from whisperd.routes import Json, services, submission, task_named
from whisperd.routes.call import Answer, Call, Form
from whisperd.routes.errors import Refusal
from whisperd.routes.tasks import IDEMPOTENCY_KEY, accepted
from whisperd.shown import timestamp
from whisperd.task import Problem, Segment, State, Task, TaskNotFound, TranscriptElsewhere, Word
from whisperd.transcript import Transcript

_JOB_STATES = {
    State.PROCESSING: "active",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}


class SpokenView(Struct, frozen=True, kw_only=True):
    """A piece of the transcript. Times in seconds from the start of the audio."""

    start: float
    end: float
    text: str
    speaker: str | UnsetType = UNSET
    words: tuple[Word, ...] | UnsetType = UNSET


class ResultView(Struct, frozen=True, kw_only=True):
    text: str
    language: str | None
    duration: float  # seconds of audio
    segments: Sequence[SpokenView]


class TranscriptionView(Struct, frozen=True, kw_only=True, rename="camel"):
    """A transcription: `result` once it is completed, `error` once it has failed."""

    transcription_id: str
    job_id: str
    status: Literal["QUEUED", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED"]
    progress: int  # 0 to 100
    job_status: Literal["waiting", "delayed", "active", "completed", "failed"]
    created_at: str | None
    completed_at: str | None
    cancelled: bool
    result: ResultView | UnsetType = UNSET
    error: Problem | UnsetType = UNSET


class Succeeded(Struct, frozen=True, kw_only=True):
    """The envelope of what went well."""

    success: Literal[True] = True
    data: TranscriptionView


async def transcribe(request: Request) -> Response:
    """Queue audio, as POST /tasks/transcription does."""
    task, created = await accepted(request)
    return _enveloped(task, status=202 if created else 200)


async def status(request: Request) -> Response:
    """The transcription, with its result once it is completed, and is known what of it is to be redacted."""
    task = await _transcription(request)
    if task.state != State.COMPLETED:
        return _enveloped(task)
    hidden = task.redact is not None
    try:
        shown = await services(request).redacting.transcript(task, hidden=hidden, original=True)
    except NotRedactedYet:
        return _enveloped(structs.replace(task, state=State.PROCESSING, finished_at=None))
    except TranscriptElsewhere:  # of a worker of the older system, which tells its own clients
        return _enveloped(task)
    return _enveloped(task, shown)


async def cancel(request: Request) -> Response:
    """Cancel the transcription."""
    task = await _transcription(request)
    return _enveloped(await services(request).queue.cancel(task.id))


async def _transcription(request: Request) -> Task:
    try:
        return await task_named(request, str(request.path_params["transcriptionId"]))
    except TaskNotFound:
        raise Refusal(404, "transcription_not_found", "there is no such transcription") from None


def _enveloped(task: Task, transcript: Transcript | None = None, status: int = 200) -> Response:
    return Json(Succeeded(data=_view(task, transcript)), status)


def _view(task: Task, transcript: Transcript | None) -> TranscriptionView:
    waiting = "delayed" if task.run_at else "waiting"
    return TranscriptionView(
        transcription_id=task.id,
        job_id=task.id,
        status=task.state.upper(),  # type: ignore[arg-type]
        progress=int(task.progress * 100),
        job_status=_JOB_STATES.get(task.state, waiting),  # type: ignore[arg-type]
        created_at=timestamp(task.created_at),
        completed_at=timestamp(task.finished_at),
        cancelled=task.state == State.CANCELLED,
        result=UNSET if transcript is None else _result(transcript),
        error=task.error if task.error and task.state == State.FAILED else UNSET,
    )


def _result(transcript: Transcript) -> ResultView:
    return ResultView(
        text=transcript.text,
        language=transcript.language,
        duration=transcript.duration,
        segments=[_spoken(segment) for segment in transcript.segments],
    )


def _spoken(segment: Segment) -> SpokenView:
    return SpokenView(
        start=segment.start,
        end=segment.end,
        text=segment.text,
        speaker=segment.speaker or UNSET,
        words=segment.words or UNSET,
    )


_TRANSCRIPTION = Answer(about="The transcription.", body=Succeeded)

calls = [
    Call(
        method="POST",
        path="/api/v1/transcribe",
        handler=transcribe,
        right="submit",
        form=Form(
            fields=submission.Submission,
            or_field="audio_url",
            without=("audio_path",),
            or_json=submission.NAMES_AUDIO,
        ),
        headers={"Idempotency-Key": IDEMPOTENCY_KEY},
        answers={
            202: Answer(about="It is on the disk.", body=Succeeded),
            200: Answer(about="The first one of this Idempotency-Key.", body=Succeeded),
        },
        refusals=(400, 413, 415, 422, 429, 507),
    ),
    Call(
        method="GET",
        path="/api/v1/status/{transcriptionId}",
        handler=status,
        right="read",
        answers={200: _TRANSCRIPTION},
        refusals=(409,),
    ),
    Call(
        method="DELETE",
        path="/api/v1/transcribe/{transcriptionId}",
        handler=cancel,
        right="submit",
        answers={200: _TRANSCRIPTION},
        refusals=(409,),
    ),
]
