"""What a job says, in the two formats that there are: ours, and that of the older WhisperAPI. Pure.

Ours: a submission, with audio in the shared storage. Theirs: `{transcriptionId, userId, s3AudioUrl, model,
format}`, answered with `{s3ResultUrl, durationSeconds, completedAt}`. Priorities: ours run higher first,
BullMQ's lower first, and 0 before all; 1 to 10 there are 10 to 1 here.

What looks through the transcript of a submission comes with its job, as a task of an id that is known from
that of the other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from time import time
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from whisperd.job import Submitted
from whisperd.look import MISSING, RULES, after
from whisperd.redis_queue.seen import Seen
from whisperd.shown import timestamp
from whisperd.task import FINAL, Audio, Detection, Kind, NewTask, Options, Problem, State, Task

NAME = "transcription"  # of our jobs
DEFAULT_MODELS = ("", "whisper-1")  # the one of the settings
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # it names files
_TENANT = re.compile(r"[\w.@:+-]{1,100}")
_LOOK = "-risk"  # behind the id of a transcription: that of what looks through it
ANOTHERS = "its transcriptionId is the id of another task"
NOBODY = ""  # no tenant has that name
_HIGHEST, _LOWEST = 10, -100  # of ours; those above the highest are alike in BullMQ


class Malformed(Exception):
    """The job says nothing that could be run. The message is safe to show."""


class SharedAudio(Struct, frozen=True, kw_only=True):
    url: str  # in the shared storage
    sha256: str
    bytes: int
    name: str = "audio"  # the sender's own


class Then(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Risk detection in the transcript, once it is there."""

    detection: Detection
    rules: str | None = None  # JSON, that were sent with it
    callback_url: str | None = None


class LookEnd(Struct, frozen=True, kw_only=True):
    """What became of it, in the value of the job."""

    status: State
    error: Problem | None = None


class OurJob(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A submission."""

    task_id: Annotated[str, Meta(pattern=rf"^{_ID.pattern}\Z")]
    audio: SharedAudio
    model: str
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    tenant: str = "default"
    plan: str | None = None
    options: Options = Options()
    kind: Kind = Kind.TRANSCRIPTION
    max_retries: int = 3
    timeout_seconds: float | None = None
    callback_url: str | None = None
    result_url: str | None = None
    metadata: dict[str, Any] = {}
    trace: str | None = None
    detection: Detection | None = None  # of a job that is nothing but a look: its audio is text, as segments
    rules: str | None = None  # JSON, that were sent with that
    transcript: str | None = None  # or the transcript of the task of this id
    then: Then | None = None

    @property
    def audio_url(self) -> str:
        return self.audio.url

    @property
    def audio_sha256(self) -> str | None:
        return self.audio.sha256

    @property
    def audio_name(self) -> str:
        return self.audio.name


class TheirJob(Struct, frozen=True, kw_only=True, rename="camel"):
    """A transcription of WhisperAPI; what else it says is passed over."""

    transcription_id: Annotated[str, Meta(min_length=1, max_length=500)]
    s3_audio_url: Annotated[str, Meta(min_length=1)] = msgspec.field(name="s3AudioUrl")
    user_id: str | int | None = None
    model: str | None = None
    format: Literal["json", "text", "txt", "srt", "vtt", "tsv"] = "json"

    @property
    def audio_url(self) -> str:
        return self.s3_audio_url

    @property
    def audio_sha256(self) -> str | None:
        return None

    @property
    def audio_name(self) -> str:
        """The last part of its path; what stands behind a ? is nobody's business."""
        return re.split(r"[?#]", self.s3_audio_url)[0].rpartition("/")[2][:200] or "audio"

    @property
    def task_id(self) -> str:
        """Theirs, where it can be one of ours."""
        if _ID.fullmatch(self.transcription_id):
            return self.transcription_id
        return hashlib.sha256(self.transcription_id.encode()).hexdigest()[:32]

    @property
    def tenant(self) -> str:
        user = str(self.user_id)
        return user if self.user_id is not None and _TENANT.fullmatch(user) else "default"


def read(data: Mapping[str, Any]) -> OurJob | TheirJob:
    """Raises Malformed."""
    kind: type[OurJob | TheirJob] = TheirJob if "transcriptionId" in data else OurJob
    try:
        job = msgspec.convert(data, kind)
    except msgspec.ValidationError as error:  # which names the field, and none of its values
        raise Malformed(f"the job cannot be read: {error}") from None
    if isinstance(job, OurJob) and not _is_whole(job):
        raise Malformed("the job cannot be read: what risk detection looks for is said of that, and must be")
    return job


def _is_whole(job: OurJob) -> bool:
    if job.kind is Kind.RISK_DETECTION:
        return job.detection is not None and job.then is None
    return job.detection is None and job.transcript is None


def is_of(job: TheirJob, task: Task) -> bool:
    """Whether the task of its id may be its own, and not one that was submitted under the same id."""
    return task.tenant == job.tenant and task.redact is None


def to_job(new: NewTask, url: str) -> dict[str, Any]:
    """The data of a job for a submission whose audio, or what was sent in its place, lies at `url`."""
    audio = SharedAudio(url=url, sha256=new.audio.sha256, bytes=new.audio.size, name=new.audio.name)
    shared = {name: getattr(new, name) for name in _SHARED} | {"then": _then(new)}
    said: dict[str, Any] = msgspec.to_builtins(OurJob(task_id=new.id, audio=audio, **shared))
    return said


_SHARED = sorted(set(OurJob.__struct_fields__) & set(NewTask.__struct_fields__) - {"audio", "then"})


def _then(new: NewTask) -> Then | None:
    look = new.then
    if look is None or look.detection is None:
        return None
    return Then(detection=look.detection, rules=look.rules, callback_url=look.callback_url)


def look_of(task_id: str) -> str:
    """The id of what looks through the transcript of a task."""
    return task_id + _LOOK


def transcription_of(task_id: str) -> str | None:
    """The id of the task whose transcript the one of this id may look through."""
    return task_id.removesuffix(_LOOK) if task_id.endswith(_LOOK) else None


def to_task(job: OurJob | TheirJob, audio: Audio, default_model: str, bullmq_priority: int) -> NewTask:
    """The local task of a job."""
    if isinstance(job, OurJob):
        shared = {name: getattr(job, name) for name in _SHARED}
        shared["priority"] = _priority(job, bullmq_priority)
        return _with_look(job, NewTask(id=job.task_id, audio=audio, **shared))
    return NewTask(
        id=job.task_id,
        audio=audio,
        model=default_model if (job.model or "") in DEFAULT_MODELS else str(job.model),
        priority=to_priority(bullmq_priority),
        tenant=job.tenant,
    )


def _with_look(job: OurJob, new: NewTask) -> NewTask:
    if (then := job.then) is None:
        return new
    look = after(new, look_of(new.id), then.detection, then.rules)
    return replace(new, then=replace(look, callback_url=then.callback_url))


def to_bullmq(priority: int) -> int:
    """1 to 111."""
    return max(1, _HIGHEST + 1 - priority)


def to_priority(bullmq: int) -> int:
    """Of a job that was not made by us."""
    return max(_LOWEST, _HIGHEST + 1 - bullmq) if bullmq > 0 else 100


def _priority(job: OurJob | TheirJob | None, bullmq: int) -> int:
    """What it says itself is finer; unless it was changed in BullMQ, from a dashboard."""
    if isinstance(job, OurJob) and to_bullmq(job.priority) == bullmq:
        return job.priority
    return to_priority(bullmq)


def to_options(new: NewTask, lifo: bool = False) -> dict[str, Any]:
    """BullMQ's, of a submission. What fails has been tried again by its host: there is one attempt.

    `lifo`: for the order of what was submitted by one who wants that, see order.
    """
    delay = {"delay": max(0, round((new.run_at - time()) * 1000))} if new.run_at else {}
    added = {"timestamp": round(time() * 1000)}  # a job that is added again is as old, and due, as it was
    order = {"lifo": True} if lifo else {}
    return {"priority": to_bullmq(new.priority), "attempts": 1, **added, **delay, **order}


def submitted_again(seen: Seen, server: str, lifo: bool = False) -> Submitted | None:
    """A submission over HTTP that is retried, as its host remembered it until it was over; None: no such."""
    if not isinstance(_read_or_none(seen.data), OurJob):
        return None
    options = {"priority": seen.priority, "attempts": 1, "timestamp": seen.added_at}
    options |= {"lifo": True} if lifo else {}
    return Submitted(id=seen.id, data=dict(seen.data), options=options, server=server)


def our_value(url: str, sha256: str, task: Task, words: int, look: Task | None) -> dict[str, Any]:
    """`look`: what has looked through the transcript, and is over."""
    return {
        "result_url": url,
        "sha256": sha256,
        "seconds": task.audio.duration,
        "words": words,
        "language": task.language,
        **({"risk": msgspec.to_builtins(LookEnd(status=look.state, error=look.error))} if look else {}),
    }


def their_value(url: str, task: Task) -> dict[str, Any]:
    return {
        "s3ResultUrl": url,
        "durationSeconds": task.audio.duration,
        "completedAt": timestamp(task.finished_at),
    }


def shown(seen: Seen, at: int | None = None) -> Task:
    """A job as a task, for whoever asks a host that does not run it. `at`: its place in a list."""
    asked, state = _read_or_none(seen.data), _state(seen)
    ours = asked if isinstance(asked, OurJob) else None
    return Task(
        seq=seen.added_at * 1000 if at is None else at,
        id=asked.task_id if asked else seen.id,
        state=state,
        priority=_priority(ours, seen.priority),
        tenant=asked.tenant if asked else _tenant(seen.data),
        model=(asked.model if asked else None) or "",
        audio=_audio(asked, seen),
        attempt=max(1, seen.attempts),
        created_at=seen.added_at / 1000,
        run_at=(seen.added_at + seen.delay) / 1000 if seen.state == "delayed" else None,
        started_at=_seconds(seen.begun_at),
        finished_at=_seconds(seen.ended_at) if state in FINAL else None,
        progress=1.0 if state is State.COMPLETED else min(1.0, max(0.0, seen.progress / 100)),
        language=seen.value.get("language"),
        error=_problem(seen.failure) if state is State.FAILED else None,
        redact=_way(asked, seen.data),
        **_unsaid(ours),
    )


def _state(seen: Seen) -> State:
    state = _STATES.get(seen.state, State.QUEUED)
    return State.CANCELLED if seen.cancelled and state is not State.COMPLETED else state


def _unsaid(ours: OurJob | None) -> Mapping[str, Any]:
    """What only a submission says, and what no job does."""
    return {
        "kind": ours.kind if ours else Kind.TRANSCRIPTION,
        "options": ours.options if ours else Options(),
        "max_retries": ours.max_retries if ours else 0,
        "timeout_seconds": ours.timeout_seconds if ours else None,
        "metadata": ours.metadata if ours else {},
        "callback_url": ours.callback_url if ours else None,
        "result_url": ours.result_url if ours else None,
        "transcript": ours.transcript if ours else None,
        "language_probability": None,
        "warnings": (),
    }


def audio_url(seen: Seen) -> str:
    """Where a job says that its audio lies; "": it says nothing."""
    asked = _read_or_none(seen.data)
    return asked.audio_url if asked else ""


def all_shown(seen: Seen, at: int | None = None) -> Sequence[Task]:
    """A job as the tasks that it is, the newest first: what looks through its transcript, and that."""
    transcription = shown(seen, at)
    asked = _read_or_none(seen.data)
    if not isinstance(asked, OurJob) or asked.then is None:
        return [transcription]
    return [_look_shown(asked.then, seen, transcription), transcription]


def _look_shown(then: Then, seen: Seen, transcription: Task) -> Task:
    state, error = _look_end(seen, transcription)
    over = state in FINAL
    return replace(
        transcription,
        seq=transcription.seq + 1,  # as where both are in one database
        id=look_of(transcription.id),
        kind=Kind.RISK_DETECTION,
        state=state,
        model=RULES,
        options=Options(),
        audio=replace(transcription.audio, duration=None),
        attempt=1,
        timeout_seconds=None,
        run_at=None,
        started_at=transcription.finished_at if over else None,
        finished_at=transcription.finished_at if over else None,
        progress=1.0 if state is State.COMPLETED else 0.0,
        language=None,
        error=error,
        callback_url=then.callback_url,
        result_url=None,
        transcript=transcription.id,
        redact=None,
    )


def _look_end(seen: Seen, transcription: Task) -> tuple[State, Problem | None]:
    try:
        end = msgspec.convert(seen.value.get("risk"), LookEnd)
        return end.status, end.error
    except msgspec.ValidationError:  # it is not over, or what did the job knows nothing of risk
        pass
    if seen.look_cancelled:
        return State.CANCELLED, None
    return (State.FAILED, MISSING) if transcription.state in FINAL else (State.QUEUED, None)


_STATES = {"active": State.PROCESSING, "completed": State.COMPLETED, "failed": State.FAILED}


def _read_or_none(data: Mapping[str, Any]) -> OurJob | TheirJob | None:
    try:
        return read(data)
    except Malformed:
        return None


def _tenant(data: Mapping[str, Any]) -> str:
    """Of a job that cannot be read: as it says, or nobody's."""
    if "task_id" not in data:
        return "default" if "transcriptionId" in data else NOBODY
    tenant = data.get("tenant", "default")
    return tenant if isinstance(tenant, str) else NOBODY


def _way(asked: OurJob | TheirJob | None, data: Mapping[str, Any]) -> Literal["tag", "mask"] | None:
    """How its transcript is shown: where a job cannot be read, as it is if nothing else was asked for."""
    if asked is not None:
        return asked.then.detection.way if isinstance(asked, OurJob) and asked.then else None
    if "task_id" in data and not {"then", "detection"} & data.keys():
        return None
    try:
        return msgspec.convert(data.get("then"), Then).detection.way
    except msgspec.ValidationError:  # of a newer version, or edited by hand
        return "tag"


def _audio(asked: OurJob | TheirJob | None, seen: Seen) -> Audio:
    duration = seen.value.get("seconds", seen.value.get("durationSeconds"))
    if isinstance(asked, OurJob):
        audio = asked.audio
        return Audio(name=audio.name, size=audio.bytes, sha256=audio.sha256, duration=duration)
    return Audio(name=asked.audio_name if asked else "", size=0, sha256="", duration=duration)


def _problem(failure: str | None) -> Problem:
    code, colon, message = (failure or "").partition(": ")
    if colon and re.fullmatch(r"[a-z_]+", code):
        return Problem(code, message)
    return Problem("failed", "the job failed on another worker")  # whose words may name a path


def _seconds(milliseconds: int) -> float | None:
    return milliseconds / 1000 if milliseconds else None
