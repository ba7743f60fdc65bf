"""Legacy client: the names of the job queues that whisperd replaces, over the client of today.

    queue = TranscriptionQueue()
    job = queue.add_transcription_job({"audioPath": "talk.mp3", "language": "en", "userId": 7}, priority=5)
    queue.get_job_status(job["id"])["state"]

For programs that are not to be changed; new ones use `whisperd.client`. Jobs are dictionaries as of Bull:

    job                       task
    id                        task_id
    state                     status: queued is "waiting", or "delayed" while its time has not come;
                              processing is "active"; cancelled is "failed": such a queue knows no other end
    progress                  progress, as a percentage
    data                      metadata: what `add_transcription_job` was given
    opts.priority             priority: higher runs first
    attemptsMade              attempt
    timestamp, processedOn,   created_at, started_at, finished_at, in milliseconds since 1970
      finishedOn
    returnvalue               the result, once it is there: text, language, duration, segments, warnings
    failedReason              error.message; "cancelled"
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from whisperd.client import (
    FINAL,
    AsyncClient,
    Client,
    NotFound,
    Stats,
    SubmitOptions,
    Task,
    Transcript,
    WrongState,
)

Job = dict[str, Any]
Data = Mapping[str, Any] | str | os.PathLike[str]

_PATHS = ("audio_path", "audioPath", "file_path", "filePath", "path")
_URLS = ("audio_url", "audioUrl", "url")


class TranscriptionQueue:
    """Over `client`; else over one that finds the daemon and the key in the environment."""

    def __init__(self, client: Client | None = None) -> None:
        self.client = client or Client()

    def add_transcription_job(self, data: Data, priority: int = 0) -> Job:
        """`data`: the path of a file here, which is sent; or a dictionary.

        It has the path ("audio_path", "audioPath", "path", …) or a URL ("audio_url", "audioUrl", "url"), and
        may have options, at its top or in "options". All of it comes back as the job's data. Raises
        ValueError when it names no audio.
        """
        return _job(self.client.submit(**_submission(data, priority)))

    def get_job_status(self, job_id: str) -> Job | None:
        """None when there is no such job."""
        with suppress(NotFound):
            task = self.client.task(job_id)
            return _job(task, self.client.result(job_id) if task.status == "completed" else None)
        return None

    def cancel_job(self, job_id: str) -> bool:
        """Whether it was there to be cancelled."""
        with suppress(NotFound, WrongState):
            self.client.cancel(job_id)
            return True
        return False

    def retry_failed_job(self, job_id: str) -> Job:
        """Raises NotFound, WrongState, AudioGone of whisperd.client."""
        return _job(self.client.retry(job_id))

    def get_queue_stats(self) -> dict[str, Any]:
        """How many jobs are waiting, active, completed, failed, delayed; total; paused."""
        return _counts(self.client.stats())

    def cleanup_old_jobs(self, older_than_hours: float = 24.0, states: Sequence[str] = FINAL) -> int:
        """Deletes jobs that ended so long ago, with their audio and results; how many."""
        return self.client.clear(_ends(states), older_than_hours)


class AsyncTranscriptionQueue:
    """The same, to be awaited."""

    def __init__(self, client: AsyncClient | None = None) -> None:
        self.client = client or AsyncClient()

    async def add_transcription_job(self, data: Data, priority: int = 0) -> Job:
        return _job(await self.client.submit(**_submission(data, priority)))

    async def get_job_status(self, job_id: str) -> Job | None:
        with suppress(NotFound):
            task = await self.client.task(job_id)
            return _job(task, await self.client.result(job_id) if task.status == "completed" else None)
        return None

    async def cancel_job(self, job_id: str) -> bool:
        with suppress(NotFound, WrongState):
            await self.client.cancel(job_id)
            return True
        return False

    async def retry_failed_job(self, job_id: str) -> Job:
        return _job(await self.client.retry(job_id))

    async def get_queue_stats(self) -> dict[str, Any]:
        return _counts(await self.client.stats())

    async def cleanup_old_jobs(self, older_than_hours: float = 24.0, states: Sequence[str] = FINAL) -> int:
        return await self.client.clear(_ends(states), older_than_hours)


def _submission(data: Data, priority: int) -> dict[str, Any]:
    """The arguments of `submit`."""
    given: dict[str, Any] = {"path": os.fspath(data)} if isinstance(data, str | os.PathLike) else dict(data)
    audio: dict[str, Any] = {"audio": Path(path)} if (path := _first(given, _PATHS)) else {}
    if not audio and (url := _first(given, _URLS)):
        audio = {"audio_url": url}
    if not audio:
        raise ValueError(f"the data name no audio: one of {', '.join((*_PATHS, *_URLS))}")
    options = {**given, **given.get("options", {})}
    known = {name: options[name] for name in SubmitOptions.__annotations__.keys() & options.keys()}
    plain = msgspec.to_builtins(given, enc_hook=str)
    return {**known, "metadata": plain, "priority": priority, **audio}


def _first(given: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((given[name] for name in names if given.get(name)), None)


def _job(task: Task, result: Transcript | None = None) -> Job:
    return {
        "id": task.task_id,
        "name": task.kind,
        "state": _state(task),
        "progress": round(task.progress * 100),
        "data": task.metadata,
        "opts": {"priority": task.priority, "attempts": task.max_retries + 1},
        "attemptsMade": task.attempt,
        "timestamp": _milliseconds(task.created_at),
        "processedOn": _milliseconds(task.started_at),
        "finishedOn": _milliseconds(task.finished_at),
        "returnvalue": None if result is None else msgspec.to_builtins(result),
        "failedReason": "cancelled" if task.status == "cancelled" else task.error and task.error.message,
    }


def _state(task: Task) -> str:
    if task.status == "queued":
        return "delayed" if task.run_at and task.run_at > datetime.now(UTC) else "waiting"
    return {"processing": "active", "cancelled": "failed"}.get(task.status, task.status)


def _counts(stats: Stats) -> dict[str, Any]:
    return {
        "waiting": stats.queued - stats.delayed,
        "active": stats.processing,
        "completed": stats.completed,
        "failed": stats.failed + stats.cancelled,
        "delayed": stats.delayed,
        "total": stats.total,
        "paused": stats.paused,
    }


def _ends(states: Sequence[str]) -> Sequence[str]:
    """The statuses of the API: what the queue calls failed may be cancelled."""
    return [*states, "cancelled"] if "failed" in states and "cancelled" not in states else states


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)
