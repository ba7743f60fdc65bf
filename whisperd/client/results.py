"""What the daemon answers, as frozen objects. Names and meanings are those of the HTTP API.

Made for daemons older and newer than this client: fields that are not known here are passed over, and of
those that are known only what a thing cannot be without has to be there.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct

FINAL = ("completed", "failed", "cancelled")


class Audio(Struct, frozen=True, kw_only=True):
    """What was submitted."""

    name: str = ""
    duration: float | None = None  # seconds, once it is decoded
    size: int = 0  # bytes
    sha256: str = ""


class Failure(Struct, frozen=True, kw_only=True):
    """Why a task failed; can be shown to a user as it is."""

    code: str
    message: str


class Task(Struct, frozen=True, kw_only=True):
    """A task at one moment."""

    task_id: str
    kind: str = "transcription"
    status: str  # queued, processing, completed, failed, cancelled
    priority: int = 0
    position: int | None = None  # 1 = next to run; only while queued
    progress: float = 0.0  # 0 to 1
    tenant: str = "default"
    model: str = ""
    attempt: int = 1
    max_retries: int = 0
    created_at: datetime
    run_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    audio: Audio = Audio()
    language: str | None = None  # ISO 639-1, once known
    language_probability: float | None = None  # 0 to 1, where it was found out
    eta_seconds: float | None = None
    warnings: tuple[str, ...] = ()
    error: Failure | None = None
    metadata: dict[str, Any] = {}
    transcript_task_id: str | None = None  # of a risk detection: the transcription it looks through
    redact: str | None = None  # tag or mask: what is shown unless `redacted` is asked to be off
    audio_kept: bool | None = None  # None: not said, as by an event
    risk_detection: str | None = None  # in its transcript: awaited, completed; None in lists and events, too

    @property
    def finished(self) -> bool:
        """Whether nothing more happens to it by itself, however it ended."""
        return self.status in FINAL


class Likely(Struct, frozen=True, kw_only=True):
    """Seconds from now: as work mostly goes, and were all of it as slow as the slowest tenth."""

    p50: float
    p90: float


class Reason(Struct, frozen=True, kw_only=True):
    code: str
    message: str


class Ahead(Struct, frozen=True, kw_only=True):
    """Of a task in line: those before it, and how many of them have a higher priority."""

    tasks: int
    by_priority: dict[str, int] = {}


class TenantNow(Struct, frozen=True, kw_only=True):
    running: int
    limit: int | None = None  # tasks at a time


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a task is where it is. None is what is not known."""

    task_id: str
    status: str
    position: int | None = None
    summary: str = ""
    reasons: tuple[Reason, ...] = ()
    ahead: Ahead | None = None
    tenant: TenantNow | None = None
    starts_in_seconds: Likely | None = None
    eta_seconds: Likely | None = None


class Estimate(Struct, frozen=True, kw_only=True):
    """Of a file that is not sent yet. None is what is not known."""

    accepted: bool
    model: str = ""
    refusal: Reason | None = None
    audio_seconds: float | None = None  # given, or thought of by the bytes
    starts_in_seconds: Likely | None = None
    eta_seconds: Likely | None = None


class Word(Struct, frozen=True, kw_only=True):
    word: str
    start: float  # seconds
    end: float
    probability: float | None = None


class Segment(Struct, frozen=True, kw_only=True):
    """What was said in one breath."""

    start: float  # seconds
    end: float
    text: str
    speaker: str | None = None  # "A", "B", … with channels="split"
    words: tuple[Word, ...] = ()  # with word_timestamps=True


class Transcript(Struct, frozen=True, kw_only=True):
    """The result of a completed task."""

    task_id: str = ""
    text: str
    language: str | None = None  # ISO 639-1
    duration: float = 0.0  # seconds of audio
    segments: tuple[Segment, ...] = ()
    warnings: tuple[str, ...] = ()


class Link(Struct, frozen=True, kw_only=True):
    """A way to the transcript that needs no key."""

    url: str  # whoever has it can GET it; the id of the key that the daemon has for the bucket is in it
    expires_at: datetime


class TaskEvent(Struct, frozen=True):
    """The task came into another state. The last event of a task is one of these."""

    id: str  # pass it as `after` to go on behind it
    task: Task


class SegmentEvent(Struct, frozen=True):
    """A piece of the transcript is there. They come in its order."""

    id: str
    segment: Segment


class ProgressEvent(Struct, frozen=True):
    """The task went on; `progress` is from 0 to 1."""

    id: str
    progress: float


Event = TaskEvent | SegmentEvent | ProgressEvent


class Throughput(Struct, frozen=True, kw_only=True):
    """Of the last minute."""

    tasks_per_minute: float = 0.0
    audio_seconds_per_second: float = 0.0


class Quantiles(Struct, frozen=True, kw_only=True):
    """Seconds; None where there is nothing to go by."""

    p50: float | None = None
    p95: float | None = None


class Restart(Struct, frozen=True, kw_only=True):
    """That a worker's process was replaced."""

    cause: str  # crashed, hung, out_of_memory, model_unusable, memory (its size), cancelled, timeout
    at: datetime


class Worker(Struct, frozen=True, kw_only=True):
    id: int
    state: str  # starting, idle, busy, asleep, resting, stopped
    pid: int | None = None
    model: str | None = None
    task_id: str | None = None
    chunk: int | None = None
    rss_bytes: int | None = None
    tasks_done: int = 0
    chunks_done: int = 0
    real_time_factor: float | None = None  # seconds of work a second of audio
    restarts: int = 0
    restarts_by_cause: dict[str, int] = {}
    last_restart: Restart | None = None
    silent_seconds: float | None = None  # at a chunk: since its last sign of life
    canary_seconds: float | None = None  # that a second of sound took when it had nothing else to do


class PriorityDepth(Struct, frozen=True, kw_only=True):
    priority: int = 0
    queued: int = 0


class TenantDepth(Struct, frozen=True, kw_only=True):
    tenant: str = ""
    queued: int = 0
    processing: int = 0


class OtherDepth(Struct, frozen=True, kw_only=True):
    tenants: int = 0
    queued: int = 0
    processing: int = 0


class Depth(Struct, frozen=True, kw_only=True):
    """The most urgent first, and the tenants that have most; `others`: those beyond them."""

    by_priority: tuple[PriorityDepth, ...] = ()
    by_tenant: tuple[TenantDepth, ...] = ()
    others: OtherDepth = OtherDepth()


class Stats(Struct, frozen=True, kw_only=True):
    total: int = 0
    queued: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    delayed: int = 0  # of the queued: those that wait for their time
    success_rate: float | None = None  # 0 to 1
    throughput: Throughput = Throughput()
    wait_seconds: Quantiles = Quantiles()
    workers: tuple[Worker, ...] = ()
    oldest_queued_seconds: float | None = None
    paused: bool = False
    depth: Depth = Depth()
    counted_at: str | None = None  # the tasks, where hosts share a queue


class Check(Struct, frozen=True, kw_only=True):
    status: str  # ok, degraded, down
    message: str | None = None


class Health(Struct, frozen=True, kw_only=True):
    """What the daemon says of itself."""

    status: str  # ok, degraded, down
    uptime_seconds: float = 0.0
    version: str = ""
    checks: dict[str, Check] = {}


class Draining(Struct, frozen=True, kw_only=True):
    """How far a daemon is that is emptied."""

    draining: bool
    drained: bool  # and nothing is left that could run there, but later
    paused: bool = False  # what is left is not gone on with until somebody resumes
    queued: int = 0  # here, but for what is to run later
    processing: int = 0
    held: int = 0  # of a queue that hosts share
    seconds_left: float | None = None  # until what runs is handed back


class Backup(Struct, frozen=True, kw_only=True):
    name: str
    path: str  # on the daemon's machine
    taken_at: datetime | None = None
    bytes: int = 0
    tasks: int | None = None  # None: it is broken
    reason: str | None = None  # what it was taken for
    verified: bool = False
    restored: bool = False  # it has been used by a restore
    problem: str | None = None  # why it is not verified
    seconds: float | None = None  # that it took, from `backup`


class Delivery(Struct, frozen=True, kw_only=True):
    """What one address is told of the end of one task."""

    id: str  # the webhook-id
    event: str  # task.completed, task.failed, task.cancelled
    task_id: str
    to: str  # scheme, host and port; the rest is often a secret
    state: str  # waiting, delivered, dead
    kind: str = "webhook"
    tenant: str = "default"
    attempts: int = 0
    created_at: datetime | None = None  # when the task ended
    next_attempt_at: datetime | None = None  # while it waits
    ended_at: datetime | None = None  # when it was taken, or given up
    answer: int | None = None  # the HTTP status of the last attempt, if anything answered
    problem: str | None = None  # of the last attempt


class Moment(Struct, frozen=True, kw_only=True):
    """Something that happened to a task."""

    at: datetime
    kind: str  # submitted, started, planned, chunk, overtaken, worker_died, released, completed, …
    attempt: int | None = None
    chunk: int | None = None  # 0 is the plan
    worker: int | None = None
    seconds: float | None = None  # of work
    message: str | None = None
    real_time_factor: float | None = None  # seconds of work a second of audio
    code: str | None = None  # of the cause
    retry_in_seconds: float | None = None
    priority: int | None = None  # its new one; of an overtaking that of the other task
    run_at: datetime | None = None  # its new one
    twin_id: str | None = None  # the equal task
    times: int = 1  # it happened so often in a row,
    last_at: datetime | None = None  # and last at this time
    stderr: str | None = None  # the dead worker's last words, for those who may see every tenant


class Timeline(Struct, frozen=True, kw_only=True):
    """What happened to a task, the oldest first."""

    task_id: str
    events: tuple[Moment, ...] = ()
    truncated: bool = False  # some of the oldest are missing


class UsageSums(Struct, frozen=True, kw_only=True):
    """What tasks that are over came to."""

    audio_seconds: float = 0.0  # of completed tasks
    compute_seconds: float = 0.0  # of workers on all of them, failed attempts included
    completed: int = 0
    failed: int = 0
    cancelled: int = 0


class UsageRow(UsageSums, frozen=True, kw_only=True):
    """Of a day, tenant or model, or of some of these together."""

    day: str | None = None  # "2026-11-28", UTC: when the tasks ended
    tenant: str | None = None
    model: str | None = None


class Usage(Struct, frozen=True, kw_only=True, rename={"first": "from", "last": "to", "rows": "usage"}):
    first: str  # day
    last: str
    rows: tuple[UsageRow, ...] = ()
    total: UsageSums = UsageSums()
    truncated: bool = False  # there are more rows


class Swept(Struct, frozen=True, kw_only=True):
    """Tasks that a sweep found without a worker."""

    requeued: int
    failed: int
