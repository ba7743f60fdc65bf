"""/admin and /metrics: what an operator asks of the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import structlog
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from whisperd import metrics
from whisperd.backup import Backup
from whisperd.routes import Json, Services, services
from whisperd.routes.submission import checked, json_body
from whisperd.routes.view import timestamp
from whisperd.task import State, Stats, StorageFailed

log = structlog.get_logger(__name__)
LONGEST_HOURS = 87_600.0  # ten years


async def back_up(request: Request) -> Response:
    return Json(backup_view(await services(request).back_up()))


async def list_backups(request: Request) -> Response:
    found = await asyncio.to_thread(services(request).backups.list)
    return Json({"backups": [backup_view(backup) for backup in found]})


def backup_view(backup: Backup) -> dict[str, Any]:
    return {
        "name": backup.name,
        "path": str(backup.path),
        "taken_at": timestamp(backup.taken_at),
        "bytes": backup.bytes,
        "tasks": backup.tasks,
        "reason": backup.reason,
        "verified": backup.verified,
        "restored": backup.restored,
        "problem": backup.problem,
        "seconds": backup.seconds and round(backup.seconds, 3),
    }


async def sweep(request: Request) -> Response:
    """Count tasks, not chunks: one that lost several to the sweep may have failed with the last of them."""
    states = {task.id: task.state for task in await services(request).sweep()}
    failed = sum(state == State.FAILED for state in states.values())
    return Json({"requeued": len(states) - failed, "failed": failed})


class Clear(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: Annotated[list[Literal["completed", "failed", "cancelled"]], Meta(min_length=1)]
    older_than_hours: Annotated[float, Meta(ge=0, le=LONGEST_HOURS)]


async def clear(request: Request) -> Response:
    here = services(request)
    wanted = checked(await json_body(request), Clear)
    states = frozenset(State(name) for name in wanted.status)
    hours = wanted.older_than_hours
    # 0 is all of them: also those of a time that is still to come, from before the clock was set back.
    before = here.now() - hours * 3600 if hours else float("inf")
    deleted = 0
    while gone := await here.queue.clear(states, before):
        await asyncio.to_thread(_remove_audio, here, gone)
        deleted += len(gone)
    return Json({"deleted": deleted})


def _remove_audio(here: Services, ids: Sequence[str]) -> None:
    for task_id in ids:
        try:
            here.spool.remove(task_id)
        except OSError as error:  # its task is gone: the next start finds it without an owner
            log.error("a file of the spool cannot be removed", task_id=task_id, error=error.strerror)


async def pause(request: Request) -> Response:
    pool = services(request).pool
    pool.pause()
    return Json({"paused": pool.paused})


async def resume(request: Request) -> Response:
    pool = services(request).pool
    pool.resume()
    return Json({"paused": pool.paused})


async def show_metrics(request: Request) -> Response:
    here = services(request)
    reading = metrics.Reading(
        stats=await _stats(here),
        now=here.now(),
        workers=here.pool.workers(),
        deaths=here.pool.deaths,
        paused=here.pool.paused,
        last_backup=here.backups.last,
        backed_up_until=here.backups.current_at,
        backups=here.backup_results,
        condition=here.arrival.condition,
        recovered=here.arrival.recovered,
        free_bytes=here.spool.free_bytes(),
    )
    return Response(metrics.text(reading), media_type=metrics.MEDIA_TYPE)


async def _stats(here: Services) -> Stats | None:
    """None when the database does not answer: then the other numbers matter all the more."""
    if here.database_trouble():
        return None
    try:
        return await here.queue.stats()
    except StorageFailed:
        return None


routes = [
    Route("/admin/backup", back_up, methods=["POST"]),
    Route("/admin/backups", list_backups),
    Route("/admin/cleanup-stuck-tasks", sweep, methods=["POST"]),
    Route("/admin/clear", clear, methods=["POST"]),
    Route("/admin/pause", pause, methods=["POST"]),
    Route("/admin/resume", resume, methods=["POST"]),
    Route("/metrics", show_metrics),
]
