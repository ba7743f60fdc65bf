"""The vocabulary every other module shares: Task, Chunk, their states, the errors, the queue's verbs.

Pure: no I/O, imports nothing of ours. A task's work is a row of chunks. Chunk 0 is the plan (decode the
audio, find the speech, decide the cuts); it yields chunks 1..n, each at most 28 s of speech, each claimed,
run and committed on its own. States and legal moves of a task:

    queued -> processing             the claim of its first chunk
    processing -> completed          its last chunk is finished
    processing -> queued             a chunk failed and waits for its next attempt; the daemon stopped
    processing -> failed             a chunk failed for good
    queued, processing -> cancelled
    failed, cancelled -> queued      retry
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
from msgspec import Struct

SAMPLE_RATE = 16_000  # Hz; of everything past the decoder
PLAN = 0  # the number of the chunk that makes the others
MOST_PEAKS = 2000  # of a waveform, a byte each: as many as a wide screen has columns


class State(StrEnum):
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})


class Kind(StrEnum):
    TRANSCRIPTION = "transcription"
    RISK_DETECTION = "risk_detection"


class Options(Struct, frozen=True, kw_only=True):
    """What decides the transcript, besides the audio and the model. Part of the plan's fingerprint.

    Stored whole: a later version may have other defaults, and a waiting task keeps those of its day.
    """

    language: str = "auto"  # ISO 639-1 code, or "auto"
    translate: bool = False  # into English
    prompt: str | None = None
    temperature: float = 0.0
    beam_size: int = 5  # as whisper.cpp's own command line; 1 = greedy
    word_timestamps: bool = False
    vad: bool = True
    channels: Literal["mix", "split"] = "mix"  # split: one speaker a channel
    detect_only: bool = False  # find out the language, and transcribe nothing


class Audio(Struct, frozen=True, kw_only=True):
    """What was sent. `name` is the sender's own and only data: no file is ever named after it."""

    name: str
    size: int  # bytes
    sha256: str
    duration: float | None = None  # seconds; known once the audio is decoded


class Word(Struct, frozen=True, kw_only=True):
    start: float  # seconds from the start of the audio
    end: float
    word: str
    probability: float  # 0 to 1


class Segment(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of transcript. Times in seconds from the start of the audio."""

    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = ()
    avg_logprob: float = 0.0  # mean natural-log probability of the text tokens
    no_speech_prob: float = 0.0  # 1 - mean speech probability of the VAD over the segment
    temperature: float = 0.0
    speaker: str | None = None  # "A", "B", … by channel, when channels are split
    words: tuple[Word, ...] = ()


class Piece(Struct, frozen=True, array_like=True):
    """A stretch of audio, in samples at 16 kHz: [start, end)."""

    start: int
    end: int


class Cut(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one chunk covers: stretches of one channel, in order, transcribed as one window."""

    pieces: tuple[Piece, ...]
    channel: int = 0
    channels: int = 1  # of the decoded file, interleaved
    speech: float = 1.0  # mean speech probability over the pieces, 0 to 1
    part: int = 0  # samples before a pause at which an engine may part the window; 0: it stays whole

    @property
    def samples(self) -> int:
        return sum(piece.end - piece.start for piece in self.pieces)


class Plan(Struct, frozen=True, kw_only=True):
    """What chunk 0 yields. Chunks of an earlier plan are reused only when `fingerprint` matches."""

    fingerprint: str  # SHA-256 over audio, model, options and cuts
    cuts: tuple[Cut, ...]
    duration: float  # seconds of audio
    language: str  # ISO 639-1, asked for or detected
    language_probability: float | None = None  # 0 to 1; None where none was detected: asked for, or no speech
    warnings: tuple[str, ...] = ()  # "partial_audio", …
    model_sha256: str = ""  # of the model file that it was made for
    heard_by: str | None = None  # that file and the engine: what its chunks have to be transcribed with
    peaks: bytes = b""  # the waveform: see engine/peaks.py


class Problem(Struct, frozen=True):
    """Why a task failed; safe to show to a user: no path, no stack trace, no secret."""

    code: str
    message: str


class Detection(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What risk detection looks for. What its words mean is known to whisperd.risk alone.

    Stored whole, as Options are.
    """

    packs: tuple[str, ...] | None = None  # None: all that are in force then
    categories: tuple[str, ...] = ()  # none: all
    min_score: float = 0.0
    min_severity: str = "info"
    redact: Literal["none", "tag", "mask"] = "none"
    timed: bool = True  # whether the times of the segments mean anything
    quotes: bool = True  # whether findings may say what was said
    alert_url: str | None = None  # is told of each finding that is so severe, once
    alert_severity: str = "high"

    @property
    def way(self) -> Literal["tag", "mask"] | None:
        """How it redacts."""
        return None if self.redact == "none" else self.redact


class NewTask(Struct, frozen=True, kw_only=True):
    """A submission, checked and complete. The audio lies fsynced in the spool under `id`."""

    id: str
    audio: Audio
    model: str
    options: Options = Options()
    kind: Kind = Kind.TRANSCRIPTION
    priority: int = 0  # -100 to 100, higher runs first
    tenant: str = "default"
    plan: str | None = None  # of the tenant, from now on; None leaves it as it is
    max_retries: int = 3
    run_at: float | None = None  # Unix seconds, UTC; not started before this
    timeout_seconds: float | None = None  # from the start of the first chunk
    callback_url: str | None = None
    result_url: str | None = None  # where the transcript is written to
    metadata: dict[str, Any] = {}
    idempotency_key: str | None = None
    body_sha256: str = ""  # of everything submitted; guards the idempotency key
    trace: str | None = None  # the traceparent of what submitted it, while tracing is on
    model_sha256: str | None = None  # of the model file as it is now; None: not known
    detection: Detection | None = None  # of risk detection, which looks through
    transcript: str | None = None  # the transcript of the task with this id,
    said: tuple[Segment, ...] | None = None  # or this, which may be the transcript of a task elsewhere,
    rules: str | None = None  # also by these, in JSON
    then: NewTask | None = None  # risk detection on its transcript, queued with it

    @property
    def redact(self) -> Literal["tag", "mask"] | None:
        """How its transcript is shown: as the risk detection that comes with it redacts."""
        asked = self.then.detection if self.then else None
        return None if asked is None else asked.way

    @property
    def content(self) -> str | None:
        """The same for all that get the same transcript; None where that is not known."""
        if self.model_sha256 is None or self.kind is not Kind.TRANSCRIPTION:
            return None
        return content_of(self.audio.sha256, self.model_sha256, self.options)


def content_of(audio_sha256: str, model_sha256: str, options: Options) -> str:
    """SHA-256, in hex, over all that decides a transcript: two tasks with the same one need one decode."""
    return hashlib.sha256(msgspec.json.encode((audio_sha256, model_sha256, options))).hexdigest()


class Task(Struct, frozen=True, kw_only=True):
    seq: int  # order of submission
    id: str
    kind: Kind
    state: State
    priority: int
    tenant: str
    model: str
    options: Options
    audio: Audio
    attempt: int  # 1 + the failures of its worst chunk
    max_retries: int
    timeout_seconds: float | None
    created_at: float  # Unix seconds, UTC, as all times here
    run_at: float | None  # None = in line; else it waits until then
    started_at: float | None
    finished_at: float | None
    progress: float  # 0 to 1; never goes back within an attempt
    language: str | None  # of the speech, once planned
    language_probability: float | None  # 0 to 1, where the language was detected
    warnings: tuple[str, ...]
    error: Problem | None
    metadata: dict[str, Any]
    callback_url: str | None
    result_url: str | None
    transcript: str | None = None  # the id of the transcription that risk detection looks through
    redact: Literal["tag", "mask"] | None = None  # how what was said is shown, unless all of it is asked for


class Chunk(Struct, frozen=True, kw_only=True):
    """A claimed chunk: the task it belongs to, and the proof that the holder still owns it."""

    task: Task
    number: int  # PLAN, or 1..n in order of time
    claims: int  # times this chunk was claimed: the fencing token
    failures: int
    claimed_at: float  # Unix seconds, UTC
    cut: Cut | None  # None for the plan
    heard_by: str | None = None  # as its plan says; None: an older one, which does not

    def __str__(self) -> str:
        name = "plan" if self.number == PLAN else f"chunk {self.number}"
        return f"{name} of task {self.task.id}"


class Death(Struct, frozen=True):
    """Of a worker. Its last words, the end of its stderr, may name paths: they are for the operator only."""

    cause: Problem
    last_words: str = ""


class Effort(Struct, frozen=True, kw_only=True):
    """What work on a chunk took, whatever came of it: measured by its holder, from request to last word."""

    worker: int  # its number
    seconds: float
    device: str  # "cpu" or "gpu"
    threads: int
    death: Death | None = None  # that ended it


class Left(Struct, frozen=True):
    """A task that a worker has just done a chunk of, and that is not over."""

    seq: int
    worker: int


class Claimant(Struct, frozen=True, kw_only=True):
    """Who asks for a chunk, and what would suit it. It decides within one tenant and priority alone."""

    left: Left | None = None
    model: str | None = None  # that it has loaded
    stays: bool = False  # with that model, though a task with another is the first in line
    elsewhere: Collection[str] = ()  # what others who ask have loaded


class Mark(Struct, frozen=True, order=True):
    """A place in a transcript: after segment `segment` of chunk `chunk`. Written "12.3" outside."""

    chunk: int = 0
    segment: int = 0

    def __str__(self) -> str:
        return f"{self.chunk}.{self.segment}"


START = Mark()


class PriorityDepth(Struct, frozen=True):
    priority: int
    queued: int


TENANTS = 20  # that are told one by one


class TenantDepth(Struct, frozen=True):
    tenant: str
    queued: int
    processing: int


class OtherDepth(Struct, frozen=True):
    tenants: int = 0
    queued: int = 0
    processing: int = 0


class Depth(Struct, frozen=True, kw_only=True):
    """What is not over: the most urgent first, and the tenants that have most; `others`: all beyond them."""

    by_priority: tuple[PriorityDepth, ...] = ()
    by_tenant: tuple[TenantDepth, ...] = ()
    others: OtherDepth = OtherDepth()


class Stats(Struct, frozen=True, kw_only=True):
    """Depths by state (`queued` counts the delayed ones too) and recent waits, oldest first."""

    by_state: dict[str, int]
    delayed: int
    oldest_queued_at: float | None
    waits: tuple[float, ...]  # seconds from submission to start of the last finished tasks
    finished: tuple[tuple[float, float], ...]  # (finished_at, seconds of audio decoded) of the last minute
    depth: Depth = Depth()
    is_shared: bool = False  # the counts are of a queue of several hosts,
    counted_at: float | None = None  # as of then; None: of this host alone, as the others are not known yet


class Depths(Struct, frozen=True, kw_only=True):
    """How many tasks are not over."""

    lines: tuple[tuple[str, int, int], ...]  # waiting | delayed | processing, at which priority, how many
    tenants: tuple[tuple[str, int], ...]  # those with the most that are queued, and how many


class Limits(Struct, frozen=True, kw_only=True):
    """What one tenant may do; 0 = no limit. Of two that want as much, one of twice the weight gets twice."""

    concurrent: int = 0  # tasks in work at once
    queued: int = 0  # tasks that wait
    per_minute: int = 0  # submissions
    weight: float = 1.0


NO_LIMITS = Limits()


class Rules(Struct, frozen=True, kw_only=True):
    """What the operator decides. `limits(tenant, plan)`: those of a tenant; no weight is above `heaviest`."""

    order: Literal["lifo", "fifo"] = "lifo"
    retry_delay_seconds: float = 1.0
    max_retry_delay_seconds: float = 300.0
    max_queued: int = 1_000_000
    max_wait_seconds: float = 3600.0  # in line; what waited longer goes before what is newer. 0: never
    idempotency_seconds: float = 86_400.0
    cache_seconds: float | None = None  # how old a transcript a twin may get; None: each task is decoded
    limits: Callable[[str, str | None], Limits] = lambda tenant, plan: NO_LIMITS
    heaviest: float = 1.0
    paced: bool = True  # some tenant may submit only so often

    def delay(self, failures: int) -> float:
        """Seconds before the next attempt: exponential, capped, with jitter against returning in step."""
        longest = min(self.max_retry_delay_seconds, self.retry_delay_seconds * 2.0 ** min(failures, 30))
        return longest * random.uniform(0.75, 1.0)


class TaskError(Exception):
    """Base class for what a caller may want to catch."""


class TaskNotFound(TaskError):
    """There is no task with this id."""


class TranscriptElsewhere(TaskNotFound):
    """Another program did the task, and kept its transcript."""


class LostClaim(TaskError):
    """The caller no longer owns the chunk: its task was cancelled or failed, or it was swept."""


class WrongState(TaskError):
    """The verb is not allowed in the task's present state."""


class ModelUnusable(TaskError):
    """The model that was asked for is not installed, or is not what it was."""


class EditedMeanwhile(TaskError):
    """The transcript is not the one any more that its editor saw."""


class AudioGone(WrongState):
    """The task cannot run again: its audio is no longer kept."""


class IdempotencyConflict(TaskError):
    """The idempotency key was used within a day, with another body."""


class StorageFull(TaskError):
    """No disk space is left: nothing was accepted."""


class StorageReadOnly(StorageFull):
    """The database or its disk is read-only: nothing was accepted, a later try may go well."""


class StorageBusy(TaskError):
    """Something else holds the database: nothing was written, a later try may go well."""


class QueueAway(TaskError):
    """The queue that hosts share cannot be asked at present: nothing was accepted, later it may be."""


class TooManyWords(TaskError):
    """More is looked for at once than anybody types."""


class IndexDamaged(TaskError):
    """The index of words is not what was written; no task is lost with it, and it can be made anew."""


class StorageFailed(TaskError):
    """An I/O error: nothing was accepted. After one of the database nothing more is, until a restart."""


class NoRoom(TaskError):
    """One more submission is not accepted now; in about `retry_after` whole seconds, 1 to 120, it may be."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = min(120, max(1, math.ceil(retry_after)))


class QueueFull(NoRoom):
    """As many tasks wait as the configuration allows."""


class TenantQueueFull(NoRoom):
    """As many tasks of this tenant wait as its plan allows."""


class RateLimited(NoRoom):
    """The tenant submits more often than its plan allows."""


class TaskQueue(Protocol):
    """What the pool and the HTTP layer need from a queue. One verb is one transaction."""

    async def submit(self, new: NewTask) -> tuple[Task, bool]: ...  # False: the key's first task
    async def first_of_key(self, new: NewTask) -> Task | None: ...
    async def limits(self, tenant: str, plan: str | None = None) -> Limits: ...
    async def per_minute(self, tenant: str, plan: str | None = None) -> int: ...  # submissions; 0: no limit
    async def check_room(
        self, tenant: str | None = None, plan: str | None = None, kind: Kind = Kind.TRANSCRIPTION
    ) -> Limits: ...
    async def get(self, task_id: str) -> Task: ...
    async def list(self, query: ListQuery) -> Sequence[Task]: ...
    async def search(self, query: ListQuery, matches: bool = True) -> Found: ...
    async def positions(self, tasks: Sequence[Task]) -> Sequence[int | None]: ...
    async def ahead(self, priority: int) -> Mapping[int, int]: ...  # tasks in line, by higher priorities
    async def running(self, tenant: str) -> int: ...
    async def segments(self, task_id: str, after: Mark = START) -> Sequence[tuple[Mark, Segment]]: ...
    async def settled(self, task_id: str) -> float: ...
    async def peaks(self, task_id: str) -> bytes | None: ...
    async def edit(self, task_id: str) -> Edit | None: ...  # instead of `segments`, where there is one
    async def correct(self, task_id: str, segments: Sequence[Segment], seen: str | None) -> None: ...
    async def revert(self, task_id: str, seen: str | None) -> None: ...
    async def stats(self, tenant: str | None = None) -> Stats: ...  # of one, or of all
    async def stats_of_all(self, tenant: str | None = None) -> Stats: ...  # who share it; see Stats
    async def depths(self, tenants: int = 0) -> Depths: ...  # naming so many tenants
    async def change(self, task_id: str, change: Change) -> Task: ...
    async def cancel(self, task_id: str) -> Task: ...
    async def retry(self, task_id: str, plan: str | None = None) -> Task: ...
    async def claim(self, who: Callable[[], Claimant] = Claimant) -> Chunk: ...  # waits; safe to cancel
    async def wanted(self) -> str: ...  # waits; safe to cancel
    async def beat(self, chunk: Chunk) -> None: ...
    async def plan(self, chunk: Chunk, plan: Plan, effort: Effort | None = None) -> Task: ...
    async def finish(
        self,
        chunk: Chunk,
        segments: Sequence[Segment],
        warnings: Sequence[str] = (),
        effort: Effort | None = None,
    ) -> Task: ...
    async def fail(
        self, chunk: Chunk, problem: Problem, *, final: bool = False, effort: Effort | None = None
    ) -> Task: ...
    async def release(self, chunk: Chunk, effort: Effort | None = None) -> Task: ...
    async def write_off(self, chunk: Chunk, effort: Effort) -> None: ...
    async def replan(self, chunk: Chunk) -> Task: ...
    async def sweep(self, older_than: float, held: Sequence[Chunk] = ()) -> Sequence[Task]: ...
    async def clear(
        self, states: Collection[State], finished_before: float, limit: int = 500
    ) -> Sequence[str]: ...  # ids whose audio has no owner any more


class ListQuery(Struct, frozen=True, kw_only=True):
    """Newest first; `before` is the `seq` of the last task of the page before."""

    states: frozenset[State] = frozenset()
    kind: Kind | None = None
    tenant: str | None = None
    text: str | None = None  # words that are said, or in the audio's name; for a search
    created_after: float | None = None  # Unix seconds: submitted then or later,
    created_before: float | None = None  # and before; by the order of submission, whatever clocks were set
    before: int | None = None
    limit: int = 50


class Match(Struct, frozen=True, kw_only=True):
    """Where a transcript says what was looked for. Ranges count as JavaScript does: in UTF-16 code units."""

    snippet: str
    ranges: tuple[tuple[int, int], ...]  # [start, end) of each match in the snippet
    start: float  # seconds: of the segment with the first of them


class Hit(NamedTuple):
    task: Task
    match: Match | None  # None: only the name or the id is what was looked for


class Edit(NamedTuple):
    """A corrected transcript, in order of time."""

    token: str  # of this edit alone
    segments: tuple[Segment, ...]


class Found(NamedTuple):
    """Of a search: some hits, the newest first; the next ones are older than `before`, if there are any."""

    hits: tuple[Hit, ...]
    before: int | None


class Indexed(NamedTuple):
    """A step of the index of words: how many of its entries followed their tasks."""

    entries: int
    unreadable: tuple[int, ...] = ()  # `seq` of tasks that have none, since their rows make no sense


class Change(Struct, frozen=True, kw_only=True):
    """What may be changed while a task is queued; None leaves as it is."""

    priority: int | None = None
    run_at: float | None = None
    metadata: dict[str, Any] | None = None
