"""POST /tasks/risk-detection: look for risk in a text, in segments, in a transcript, or in audio.

Of audio two tasks are made, in one transaction: the transcript is final before it is looked through, and
stays whatever becomes of that.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, structs
from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.responses import Response
from ulid import ULID

from whisperd.look import RULES, text_audio
from whisperd.risk.rules import MOST_BYTES, MOST_RULES, Category, Severity
from whisperd.routes import Json, Services, caller, services, submission, visible_task
from whisperd.routes.admission import admit, check_room
from whisperd.routes.call import Answer, Call, Form
from whisperd.routes.detection import check_detection, check_possible, looking_through
from whisperd.routes.errors import Refusal
from whisperd.routes.reading import json_object
from whisperd.routes.result import MOST_SEGMENTS, Line, check_lines
from whisperd.routes.submission import PackName, Submission
from whisperd.routes.tasks import IDEMPOTENCY_KEY, accepted, with_audio
from whisperd.routes.view import TaskView, shown
from whisperd.spool import Incoming
from whisperd.task import Detection, Kind, NewTask, Options, Segment, State, Task, WrongState

MOST_BODY = 3 * 2**20  # a day of speech, with rules
MOST_TEXT = 2 * 2**20  # characters

_SENT = ("text", "segments", "task_id")  # in place of audio
_OF_AUDIO = (
    *Options.__struct_fields__,
    "model",
    "run_at",
    "timeout_seconds",
    "result_url",
)  # say nothing there


class RiskSubmission(Submission, frozen=True, kw_only=True):
    """One of `text`, `segments`, `task_id` and audio; that with the options of a transcription."""

    text: Annotated[str, Meta(min_length=1, max_length=MOST_TEXT, description="To look through.")] | None = (
        None
    )
    segments: (
        Annotated[list[Line], Meta(min_length=1, max_length=MOST_SEGMENTS, description="In order of time.")]
        | None
    ) = None
    task_id: Annotated[str, Meta(max_length=100, description="Of a transcription: waits for it.")] | None = (
        None
    )
    packs: Annotated[list[PackName], Meta(description="Go by these only; default: all.")] | None = None
    rules: (
        Annotated[
            list[dict[str, Any]],
            Meta(min_length=1, max_length=MOST_RULES, description="More rules, each as in a pack."),
        ]
        | None
    ) = None
    categories: Annotated[tuple[Category, ...], Meta(description="Only these; none: all.")] = ()
    min_score: Annotated[float, Meta(ge=0, le=1, description="Pass over what scores less.")] = 0.0
    min_severity: Annotated[Severity, Meta(description="Pass over what is less.")] = Severity.INFO
    redact: Annotated[
        Literal["none", "tag", "mask"], Meta(description="What stands for personal data: [CARD], or ****.")
    ] = "none"

    def detection(self) -> Detection:
        """What to look for. Raises Refusal."""
        if self.risk:
            raise Refusal(422, "invalid_field", "risk is detected as it is: name packs", "risk")
        if self.detect_only:
            raise Refusal(422, "invalid_field", "makes no transcript to look through", "detect_only")
        if self.packs == [] and self.rules is None:
            raise Refusal(422, "invalid_field", "name a pack, or send rules", "packs")
        return Detection(
            packs=None if self.packs is None else tuple(self.packs),
            categories=self.categories,
            min_score=self.min_score,
            min_severity=self.min_severity,
            redact=self.redact,
            timed=self.text is None,
            alert_url=self.alert_url,
            alert_severity=self.alert_severity,
        )

    def rules_json(self) -> str | None:
        if self.rules is None:
            return None
        text = msgspec.json.encode(self.rules)
        if len(text) > MOST_BYTES:
            raise Refusal(422, "invalid_field", f"at most {MOST_BYTES} bytes", "rules")
        return text.decode()

    def check_sent(self) -> None:
        """Raises Refusal where there is an option that audio alone has: nobody would go by it."""
        default = RiskSubmission()
        for name in _OF_AUDIO:
            if getattr(self, name) != getattr(default, name):
                raise Refusal(422, "invalid_field", "means nothing without audio: leave it out", name)

    @property
    def sent(self) -> int:
        """How many texts it has, in place of audio."""
        return sum(value is not None for value in (self.text, self.segments, self.task_id))


async def submit(request: Request) -> Response:
    """Look for risk in a text, in segments, in the transcript of a task, or in audio.

    JSON names one of `text`, `segments`, `task_id`, `audio_url` and `audio_path`; a form has the file, or
    `audio_url`. Audio makes two tasks: the answer is the one that looks, and names the other. Its result is
    what was found.
    """
    here = services(request)
    check_possible(here)
    task, created = await accepted(request, _received)
    if task.kind is Kind.TRANSCRIPTION:
        task = await here.detections.first(task.id)
    return Json(await shown(here, task), 202 if created else 200, {"Location": f"/tasks/{task.id}"})


async def _received(request: Request, here: Services) -> NewTask:
    kind, _ = parse_options_header(request.headers.get("content-type"))
    if kind != b"application/json":
        return await _of_audio(request, here, None)
    wanted = submission.checked_json(await json_object(request, MOST_BODY), RiskSubmission)
    if wanted.audio_url is None and wanted.audio_path is None:
        return await _of_what_was_sent(request, here, wanted)
    return await _of_audio(request, here, wanted)


async def _of_audio(request: Request, here: Services, wanted: RiskSubmission | None) -> NewTask:
    """`wanted`: what was sent as JSON; None: a form comes."""

    async def receive(incoming: Incoming) -> tuple[RiskSubmission, str]:
        if wanted is None:
            found, name = await submission.receive(request, incoming, here.config, RiskSubmission)
        else:
            found, name = wanted, await submission.named(request, wanted, incoming)
        if found.sent:
            raise _one_of_these()
        return found, name

    _, new = await with_audio(request, here, receive)
    return structs.replace(new, callback_url=None)  # it is told of what was asked for


async def _of_what_was_sent(request: Request, here: Services, wanted: RiskSubmission) -> NewTask:
    if wanted.sent != 1:
        raise _one_of_these()
    wanted.check_sent()
    transcription = None if wanted.task_id is None else await _transcription(request, wanted.task_id)
    new = _new(request, wanted, transcription)
    if await here.queue.first_of_key(new) is None:  # else transcript and packs may be gone: it is no matter
        await check_room(request, Kind.RISK_DETECTION)
        _check_is_made(transcription)
        await check_detection(here, new)
    await admit(request, new)
    return new


def _new(request: Request, wanted: RiskSubmission, transcription: Task | None) -> NewTask:
    """Raises Refusal for what the caller may not do."""
    here, who = services(request), caller(request)
    said, asked = _said(wanted), wanted.detection()
    submission.checked_callback(wanted.alert_url, here.config, "alert_url")
    return NewTask(
        id=str(ULID()),
        kind=Kind.RISK_DETECTION,
        audio=text_audio(said or ()) if transcription is None else transcription.audio,
        model=RULES,
        priority=wanted.priority_for(who, here.config),
        tenant=wanted.tenant_for(who) if transcription is None else transcription.tenant,
        plan=wanted.plan_for(who),
        max_retries=here.config.queue.max_retries if wanted.max_retries is None else wanted.max_retries,
        callback_url=submission.checked_callback(wanted.callback_url, here.config),
        metadata=wanted.metadata,
        idempotency_key=request.headers.get("idempotency-key"),
        body_sha256=hashlib.sha256(msgspec.json.encode(wanted)).hexdigest(),
        detection=asked if transcription is None else looking_through(asked, transcription),
        transcript=wanted.task_id,
        said=said,
        rules=wanted.rules_json(),
    )


def _one_of_these() -> Refusal:
    return Refusal(422, "invalid_field", "give one of text, segments, task_id and audio", "text")


async def _transcription(request: Request, task_id: str) -> Task:
    """Raises TaskNotFound, Refusal."""
    task = await visible_task(request, task_id)
    if task.kind is not Kind.TRANSCRIPTION:
        raise Refusal(422, "invalid_field", "must be a transcription", "task_id")
    return task


def _check_is_made(task: Task | None) -> None:
    """Raises WrongState where there will be no transcript."""
    if task is not None and task.state in (State.FAILED, State.CANCELLED):
        raise WrongState(f"task {task.id} is {task.state}: there is no transcript to look through")


def _said(wanted: RiskSubmission) -> tuple[Segment, ...] | None:
    """None: a transcript, which is there or will be."""
    if wanted.text is not None:
        return (Segment(start=0.0, end=0.0, text=wanted.text),)
    if wanted.segments is None:
        return None
    check_lines(wanted.segments)
    return tuple(
        Segment(start=line.start, end=line.end, text=line.text, speaker=line.speaker)
        for line in wanted.segments
    )


calls = [
    Call(
        method="POST",
        path="/tasks/risk-detection",
        handler=submit,
        right="submit",
        form=Form(
            fields=RiskSubmission,
            or_field="audio_url",
            without=("audio_path", *_SENT),
            or_json=(*_SENT, *submission.NAMES_AUDIO),
        ),
        headers={"Idempotency-Key": IDEMPOTENCY_KEY},
        answers={
            202: Answer(about="It is on the disk.", body=TaskView, headers={"Location": "of the task"}),
            200: Answer(about="The first task of this Idempotency-Key.", body=TaskView),
        },
        refusals=(400, 404, 409, 413, 415, 422, 429, 503, 507),
    )
]
