"""How tasks, statistics and workers look outside: the field names of the contract, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from functools import partial
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, structs

from whisperd.look import Standing
from whisperd.routes import Services
from whisperd.shown import timestamp
from whisperd.task import FINAL, Audio, Depth, Kind, Problem, Segment, State, Stats, Task, Word
from whisperd.worker_pool import WorkerInfo


class TaskView(Struct, frozen=True, kw_only=True):
    """A task. Times are RFC 3339, UTC."""

    task_id: str
    kind: Kind
    status: State
    priority: int
    position: int | None  # 1 = next to run, as far as that is foretold; only while it stands in line
    progress: float  # 0 to 1
    tenant: str
    model: str
    attempt: int
    max_retries: int
    created_at: str | None
    run_at: str | None
    started_at: str | None
    finished_at: str | None
    audio: Audio
    language: str | None  # ISO 639-1, once known
    language_probability: float | None  # 0 to 1; where the language was detected
    eta_seconds: float | None  # until it is over; null where nothing is known, or while nothing runs
    warnings: tuple[str, ...]
    error: Problem | None
    metadata: dict[str, Any]
    transcript_task_id: str | UnsetType = UNSET  # of risk detection in a transcript: whose it is
    redact: Literal["tag", "mask"] | UnsetType = UNSET  # how its transcript is shown, unless all is asked for
    audio_kept: bool | UnsetType = UNSET  # so it can be heard, and run again; events do not say
    risk_detection: Standing | UnsetType = UNSET  # in its transcript; GET /tasks/{id} alone says


class SegmentView(Struct, frozen=True, kw_only=True):
    """A piece of a task's transcript. Times in seconds from the start of the audio."""

    task_id: str
    start: float
    end: float
    text: str
    speaker: str | UnsetType = UNSET
    words: tuple[Word, ...] | UnsetType = UNSET


class ProgressView(Struct, frozen=True, kw_only=True):
    task_id: str
    progress: float


class Throughput(Struct, frozen=True, kw_only=True):
    """Of the last minute."""

    tasks_per_minute: int
    audio_seconds_per_second: float


class Waits(Struct, frozen=True, kw_only=True):
    """From submission to start, of the tasks that finished last."""

    p50: float | None
    p95: float | None


class StatsView(Struct, frozen=True, kw_only=True):
    """`queued` counts the delayed ones too; `success_rate`: completed of completed and failed.

    `counted_at`: where hosts share a queue, when its tasks were counted; null: those of this host alone were.
    """

    total: int
    queued: int
    processing: int
    completed: int
    failed: int
    cancelled: int
    delayed: int
    success_rate: float | None
    throughput: Throughput
    wait_seconds: Waits
    workers: Sequence[WorkerInfo]
    oldest_queued_seconds: float | None
    paused: bool
    depth: Depth
    counted_at: str | UnsetType | None = UNSET


async def shown(here: Services, task: Task) -> TaskView:
    """The task resource, with its place in line and when it is thought to be over."""
    return (await all_shown(here, [task]))[0]


async def shown_with_looks(here: Services, task: Task) -> TaskView:
    """And whether risk detection has gone through its transcript: one question more, of what is completed."""
    view = await shown(here, task)
    if task.kind is not Kind.TRANSCRIPTION or task.state is not State.COMPLETED:
        return view
    standing = await here.detections.standing(task.id)
    return view if standing is None else structs.replace(view, risk_detection=standing)


async def shown_soon(here: Services, task: Task) -> TaskView:
    """The same of one that was just submitted, hardly waiting for a forecast."""
    (place,) = await here.queue.positions([task])
    foretold = await here.outlook.foretold_soon(task, place)
    return task_view(task, *foretold, *await _kept(here, [task]))


async def all_shown(here: Services, tasks: Sequence[Task]) -> list[TaskView]:
    places = await here.queue.positions(tasks)
    foretold = await here.outlook.foretold(tasks, places)
    kept = await _kept(here, tasks)
    return [
        task_view(task, *known, is_kept) for task, known, is_kept in zip(tasks, foretold, kept, strict=True)
    ]


async def _kept(here: Services, tasks: Sequence[Task]) -> list[bool]:
    """Whether the audio of each is there. What is not over has it: only of the rest the disk is asked.

    All of them on one thread: a disk that hangs, or a page of 500, must not hold up the loop. One alone is
    asked at once: each request asks for the file of the keys so, too.
    """
    heard = [task for task in tasks if task.kind is Kind.TRANSCRIPTION]  # the others have none of their own
    over = [task.id for task in heard if task.state in FINAL]
    asked = partial(_without_audio, here, over)
    gone = await asyncio.to_thread(asked) if len(over) > 1 else asked()
    if gone and here.audio_elsewhere is not None:
        gone -= await here.audio_elsewhere.kept([task for task in heard if task.id in gone])
    kept = {task.id for task in heard} - gone
    return [task.id in kept for task in tasks]


def _without_audio(here: Services, ids: Sequence[str]) -> Set[str]:
    return {task_id for task_id in ids if not here.spool.has_audio(task_id)}


def task_view(
    task: Task,
    position: int | None = None,
    eta_seconds: float | None = None,
    audio_kept: bool | UnsetType = UNSET,
) -> TaskView:
    return TaskView(
        task_id=task.id,
        kind=task.kind,
        status=task.state,
        priority=task.priority,
        position=position,
        progress=round(task.progress, 4),
        tenant=task.tenant,
        model=task.model,
        attempt=task.attempt,
        max_retries=task.max_retries,
        created_at=timestamp(task.created_at),
        run_at=timestamp(task.run_at),
        started_at=timestamp(task.started_at),
        finished_at=timestamp(task.finished_at),
        audio=task.audio,
        language=task.language,
        language_probability=task.language_probability,
        eta_seconds=None if eta_seconds is None else round(eta_seconds, 1),
        warnings=task.warnings,
        error=task.error,
        metadata=task.metadata,
        transcript_task_id=task.transcript or UNSET,
        redact=task.redact or UNSET,
        audio_kept=audio_kept,
    )


def segment_view(task: Task, segment: Segment) -> SegmentView:
    return SegmentView(
        task_id=task.id,
        start=segment.start,
        end=segment.end,
        text=segment.text,
        speaker=segment.speaker or UNSET,
        words=segment.words or UNSET,
    )


def progress_view(task: Task) -> ProgressView:
    return ProgressView(task_id=task.id, progress=round(task.progress, 4))


def stats_view(stats: Stats, workers: Sequence[WorkerInfo], paused: bool, now: float) -> StatsView:
    ended = stats.by_state["completed"] + stats.by_state["failed"]
    oldest = stats.oldest_queued_at
    return StatsView(
        total=sum(stats.by_state.values()),
        **stats.by_state,
        delayed=stats.delayed,
        success_rate=round(stats.by_state["completed"] / ended, 4) if ended else None,
        throughput=Throughput(
            tasks_per_minute=len(stats.finished),
            audio_seconds_per_second=round(sum(seconds for _, seconds in stats.finished) / 60, 3),
        ),
        wait_seconds=Waits(p50=_quantile(stats.waits, 0.5), p95=_quantile(stats.waits, 0.95)),
        workers=workers,
        oldest_queued_seconds=None if oldest is None else round(max(0.0, now - oldest), 3),
        paused=paused,
        depth=stats.depth,
        counted_at=timestamp(stats.counted_at) if stats.is_shared else UNSET,
    )


def _quantile(values: Sequence[float], q: float) -> float | None:
    """Nearest rank."""
    return round(sorted(values)[min(len(values) - 1, int(q * len(values)))], 3) if values else None
