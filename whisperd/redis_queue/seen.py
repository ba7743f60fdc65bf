"""A job as anyone may see it: what BullMQ has written of it, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from bullmq import Job as BullJob
    from bullmq import Queue

LOOK_CANCELLED = "risk_cancelled"  # the field of one whose transcript is not to be looked through
CANCELLED = "cancelled"  # why a job failed that was cancelled, and the field of one that is to be stopped


class Seen(NamedTuple):
    """Times in milliseconds, as BullMQ has them; 0: not yet."""

    id: str
    queue: str
    state: str  # "waiting", "prioritized", "delayed", "active", "completed", "failed", …
    data: Mapping[str, Any]
    priority: int
    progress: float  # 0 to 100
    delay: int
    added_at: int
    begun_at: int
    ended_at: int
    attempts: int
    failure: str | None
    value: Mapping[str, Any]
    cancelled: bool  # or to be cancelled, as soon as its holder has heard of it
    look_cancelled: bool = False  # the same of what looks through its transcript


class Listed(NamedTuple):
    at: int  # when it was submitted, in microseconds: its place in lists
    seen: Seen


def seen(queue: Queue, job_id: str, data: Mapping[str, str], state: str) -> Seen:
    """What its hash says."""
    job = job_of(queue, data, job_id)
    value = job.returnvalue if isinstance(job.returnvalue, dict) else {}
    return Seen(
        id=job.id,
        queue=job.queue.name,
        state=state,
        data=job.data if isinstance(job.data, dict) else {},
        priority=job.priority,
        progress=float(job.progress) if isinstance(job.progress, int | float) else 0.0,
        delay=job.delay,
        added_at=job.timestamp,
        begun_at=job.processedOn or 0,
        ended_at=job.finishedOn or 0,
        attempts=job.attemptsMade,
        failure=job.failedReason,
        value=value,
        cancelled=CANCELLED in data or job.failedReason == CANCELLED,
        look_cancelled=LOOK_CANCELLED in data,
    )


def state_of(data: Mapping[str, str]) -> str:
    """As its hash has it: good enough for a list."""
    if data.get("finishedOn"):
        return "failed" if data.get("failedReason") else "completed"
    return "active" if data.get("processedOn") and data.get("delay", "0") == "0" else "waiting"


def job_of(queue: Queue, data: Mapping[str, str], job_id: str) -> BullJob:
    from bullmq import Job as BullJob

    return BullJob.fromJSON(queue, data, job_id)
