"""/stats, /workers: how it goes."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from whisperd.minutes import KEPT_HOURS
from whisperd.routes import Json, caller, services, visible_task
from whisperd.routes.call import Answer, Call
from whisperd.routes.view import StatsView, stats_view
from whisperd.shown import timestamp
from whisperd.task import TaskNotFound
from whisperd.worker_pool import WorkerInfo


async def stats(request: Request) -> Response:
    """How many tasks there are, how long they wait, how fast they go."""
    return Json(await current_stats(request))


async def current_stats(connection: HTTPConnection) -> StatsView:
    """Of the tasks that the caller may see."""
    here, tenant = services(connection), caller(connection).tenant
    return stats_view(
        await here.queue.stats_of_all(tenant),
        await _visible_workers(connection),
        here.pool.paused,
        here.now(),
    )


class Past(Struct, frozen=True, kw_only=True):
    hours: Annotated[float, Meta(gt=0, le=KEPT_HOURS, description="How far back.")] = 24
    points: Annotated[int, Meta(ge=1, le=2000, description="So many at most.")] = 240


class PointView(Struct, frozen=True, kw_only=True):
    """The `step_seconds` from `at` on: what waited and ran on average, what ended, the worst of the rest."""

    at: str | None
    queued: float
    processing: float
    done: int
    failed: int
    tasks_per_minute: float
    audio_seconds_per_second: float
    wait_p50: float | None
    wait_p95: float | None
    real_time_factor: float | None  # compute time ÷ audio time
    busy: float  # of the workers, 0 to 1
    rss_bytes: int | None  # of the daemon and its workers
    gpu_bytes: int | None  # used on all GPUs, by whatever program
    free_bytes: int | None


class HistoryView(Struct, frozen=True, kw_only=True):
    """The oldest first. A time in which nothing waited, ran or ended has no point."""

    step_seconds: int
    points: list[PointView]


async def history(request: Request, past: Past) -> Response:
    """How it went, of all tenants, for up to a week."""
    step, rows = await services(request).minutes.points(past.hours, past.points)
    points = [PointView(**{**row, "at": timestamp(row["at"])}) for row in rows]
    return Json(HistoryView(step_seconds=step, points=points))


class WorkersView(Struct, frozen=True, kw_only=True):
    workers: list[WorkerInfo]


async def workers(request: Request) -> Response:
    """Who works on what."""
    return Json(WorkersView(workers=await _visible_workers(request)))


async def _visible_workers(connection: HTTPConnection) -> list[WorkerInfo]:
    """All of them; of those at work for other tenants not on what."""
    workers = services(connection).pool.workers()
    if caller(connection).tenant is None:
        return workers
    return [await _without_foreign_task(connection, worker) for worker in workers]


async def _without_foreign_task(connection: HTTPConnection, worker: WorkerInfo) -> WorkerInfo:
    if worker.task_id is None:
        return worker
    try:
        await visible_task(connection, worker.task_id)
    except TaskNotFound:
        return msgspec.structs.replace(worker, task_id=None, chunk=None, model=None)
    return worker


_STATS = {200: Answer(about="The numbers.", body=StatsView)}
_HISTORY = {200: Answer(about="The points.", body=HistoryView)}
_WORKERS = {200: Answer(about="The workers.", body=WorkersView)}

calls = [
    Call(method="GET", path="/stats", handler=stats, right="read", answers=_STATS),
    Call(method="GET", path="/stats/history", handler=history, right="oversee", query=Past, answers=_HISTORY),
    Call(method="GET", path="/workers", handler=workers, right="read", answers=_WORKERS),
]
