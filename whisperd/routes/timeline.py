"""/tasks/{id}/timeline: what happened to a task."""

from __future__ import annotations

from typing import TypeVar

from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from whisperd.routes import Json, caller, services, task_of
from whisperd.routes.call import Answer, Call
from whisperd.shown import timestamp
from whisperd.timeline import Happening, Moment

T = TypeVar("T")


class MomentView(Struct, frozen=True, kw_only=True):
    """Something that happened to a task. Times are RFC 3339, UTC."""

    at: str | None
    kind: Happening
    attempt: int | None  # of the chunk; of the task at its end
    chunk: int | None  # 0 is the plan
    worker: int | None
    seconds: float | None  # of work
    message: str | None
    real_time_factor: float | UnsetType = UNSET  # seconds of work a second of audio
    code: str | UnsetType = UNSET  # of the cause
    retry_in_seconds: float | UnsetType = UNSET
    priority: int | UnsetType = UNSET  # its new one; of an overtaking that of the other task
    run_at: str | UnsetType = UNSET  # its new one
    twin_id: str | UnsetType = UNSET  # the equal task
    times: int | UnsetType = UNSET  # it happened so often in a row,
    last_at: str | UnsetType = UNSET  # and last at this time
    stderr: str | UnsetType = UNSET  # the dead worker's last words; to those who may see every tenant


class TimelineView(Struct, frozen=True, kw_only=True):
    """The oldest first. `truncated`: some of the oldest are missing."""

    task_id: str
    events: list[MomentView]
    truncated: bool


async def timeline(request: Request) -> Response:
    """What happened to the task: attempts, chunks, overtakings, deaths of workers, its end."""
    task = await task_of(request)
    found = await services(request).history.timeline(task.id)
    sees_all = caller(request).tenant is None
    events = [_view(moment, sees_all) for moment in found.moments]
    return Json(TimelineView(task_id=task.id, events=events, truncated=found.truncated))


def _view(moment: Moment, sees_all: bool) -> MomentView:
    return MomentView(
        at=timestamp(moment.at),
        kind=moment.kind,
        attempt=moment.attempt,
        chunk=moment.chunk,
        worker=moment.worker,
        seconds=None if moment.seconds is None else round(moment.seconds, 3),
        message=moment.message,
        real_time_factor=_real_time_factor(moment),
        code=_or_unset(moment.code),
        retry_in_seconds=UNSET if moment.retry_seconds is None else round(moment.retry_seconds, 3),
        priority=_or_unset(moment.priority),
        run_at=_or_unset(timestamp(moment.run_at)),
        twin_id=_or_unset(moment.twin),
        times=moment.times if moment.times > 1 else UNSET,
        last_at=_or_unset(timestamp(moment.last_at)),
        stderr=_or_unset(moment.last_words) if sees_all else UNSET,
    )


def _or_unset(value: T | None) -> T | UnsetType:
    return UNSET if value is None else value


def _real_time_factor(moment: Moment) -> float | UnsetType:
    if not moment.audio_seconds or moment.seconds is None:
        return UNSET
    return round(moment.seconds / moment.audio_seconds, 4)


_TIMELINE = {200: Answer(about="What happened.", body=TimelineView)}

calls = [
    Call(
        method="GET",
        path="/tasks/{task_id}/timeline",
        handler=timeline,
        right="read",
        answers=_TIMELINE,
        refusals=(404,),
    )
]
