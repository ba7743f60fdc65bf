"""How tasks, statistics and workers look outside: the field names of the contract, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whisperd.shown import timestamp
from whisperd.task import Segment, Stats, Task, TaskQueue
from whisperd.worker_pool import WorkerInfo


async def shown(queue: TaskQueue, task: Task) -> dict[str, Any]:
    """The task resource, its place in line included."""
    return (await all_shown(queue, [task]))[0]


async def all_shown(queue: TaskQueue, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    places = await queue.positions(tasks)
    return [task_view(task, place) for task, place in zip(tasks, places, strict=True)]


def task_view(task: Task, position: int | None = None) -> dict[str, Any]:
    return {
        "task_id": task.id,
        "kind": task.kind,
        "status": task.state,
        "priority": task.priority,
        "position": position,
        "progress": round(task.progress, 4),
        "tenant": task.tenant,
        "model": task.model,
        "attempt": task.attempt,
        "max_retries": task.max_retries,
        "created_at": timestamp(task.created_at),
        "run_at": timestamp(task.run_at),
        "started_at": timestamp(task.started_at),
        "finished_at": timestamp(task.finished_at),
        "audio": task.audio,
        "language": task.language,
        "eta_seconds": None,
        "warnings": task.warnings,
        "error": task.error,
        "metadata": task.metadata,
    }


def segment_view(task: Task, segment: Segment) -> dict[str, Any]:
    view: dict[str, Any] = {
        "task_id": task.id,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
    }
    if segment.speaker:
        view["speaker"] = segment.speaker
    if segment.words:
        view["words"] = segment.words
    return view


def progress_view(task: Task) -> dict[str, Any]:
    return {"task_id": task.id, "progress": round(task.progress, 4)}


def stats_view(stats: Stats, workers: Sequence[WorkerInfo], paused: bool, now: float) -> dict[str, Any]:
    ended = stats.by_state["completed"] + stats.by_state["failed"]
    oldest = stats.oldest_queued_at
    return {
        "total": sum(stats.by_state.values()),
        **stats.by_state,
        "delayed": stats.delayed,
        "success_rate": round(stats.by_state["completed"] / ended, 4) if ended else None,
        "throughput": {
            "tasks_per_minute": len(stats.finished),
            "audio_seconds_per_second": round(sum(seconds for _, seconds in stats.finished) / 60, 3),
        },
        "wait_seconds": {"p50": _quantile(stats.waits, 0.5), "p95": _quantile(stats.waits, 0.95)},
        "workers": workers,
        "oldest_queued_seconds": None if oldest is None else round(max(0.0, now - oldest), 3),
        "paused": paused,
    }


def _quantile(values: Sequence[float], q: float) -> float | None:
    """Nearest rank."""
    return round(sorted(values)[min(len(values) - 1, int(q * len(values)))], 3) if values else None
