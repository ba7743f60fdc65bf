"""/stats, /workers, /health: how it goes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from time import monotonic
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from whisperd import __version__
from whisperd.minutes import KEPT_HOURS
from whisperd.routes import NOBODY, Json, Services, caller, services, visible_task
from whisperd.routes.call import Answer, Call
from whisperd.routes.view import StatsView, stats_view
from whisperd.shown import timestamp
from whisperd.task import TaskNotFound
from whisperd.worker_pool import WorkerInfo

Verdict = Literal["ok", "degraded", "down"]
Check = tuple[Verdict, str | None]  # and why
RECOVERY_SECONDS = 86_400.0
RESTART_SECONDS = 30.0  # without any worker, as long as their restart may take


async def stats(request: Request) -> Response:
    """How many tasks there are, how long they wait, how fast they go."""
    return Json(await current_stats(request))


async def current_stats(connection: HTTPConnection) -> StatsView:
    """Of the tasks that the caller may see."""
    here, tenant = services(connection), caller(connection).tenant
    return stats_view(
        await here.queue.stats(tenant), await _visible_workers(connection), here.pool.paused, here.now()
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
    gpu_bytes: int | None
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


class CheckView(Struct, frozen=True, kw_only=True):
    status: Verdict
    message: str | None


class HealthView(Struct, frozen=True, kw_only=True):
    status: Verdict
    uptime_seconds: float
    version: str
    checks: dict[str, CheckView]


async def health(request: Request) -> Response:
    """What the daemon says of itself; why, to those with a key where keys are asked for."""
    here, tells = services(request), caller(request) != NOBODY
    found = checks(here)
    status = _worst(found)
    view = HealthView(
        status=status,
        uptime_seconds=round(monotonic() - here.started_at, 1),
        version=__version__,
        checks={
            name: CheckView(status=verdict, message=why if tells else None)
            for name, (verdict, why) in found.items()
        },
    )
    return Json(view, 503 if status == "down" else 200)


class ReadyView(Struct, frozen=True, kw_only=True):
    status: Verdict


async def live(request: Request) -> Response:
    """Whether the process answers."""
    return Json(ReadyView(status="ok"))


async def ready(request: Request) -> Response:
    """Whether new work is taken, and done. A daemon that was paused takes it all the same."""
    here = services(request)
    down = not is_ready(here, checks(here))
    return Json(ReadyView(status="down" if down else "ok"), 503 if down else 200)


def is_ready(here: Services, found: Mapping[str, Check]) -> bool:
    taken = not here.draining and found["database"][0] == found["disk"][0] == "ok"
    return taken and _worst(found) != "down"


def checks(here: Services) -> Mapping[str, Check]:
    return {
        "database": _database(here),
        "workers": _workers(here),
        "disk": _disk(here),
        "backup": _backup(here),
        "recovery": _recovery(here),
        "keys": ("down", here.keys.trouble) if here.keys.trouble else ("ok", None),
        "redis": ("ok", "not configured"),
    }


def is_writable(here: Services) -> bool:
    """Whether the database could be written at the last look at it."""
    with suppress(OSError):  # no spool: that is told of the disk
        if here.spool.is_read_only():
            return False
    return _database(here)[0] == "ok"


def _database(here: Services) -> Check:
    """Down once it failed, until a restart; degraded as long as it does not answer: that may pass."""
    if trouble := here.database_trouble():
        return "down", trouble
    trouble = here.pulse_trouble()
    return ("degraded", trouble) if trouble else ("ok", None)


def _workers(here: Services) -> Check:
    states = [worker.state for worker in here.pool.workers()]
    at_work = sum(state in ("idle", "busy") for state in states)
    here.none_up_since = (here.none_up_since or monotonic()) if states and not at_work else None
    if at_work == len(states):
        paused = "nothing is handed out until somebody resumes: POST /admin/resume, or `whisperd resume`"
        return ("degraded", paused) if here.pool.paused else ("ok", None)
    lives_on = at_work or _is_restarting(here, states)
    return ("degraded" if lives_on else "down"), f"{at_work} of {len(states)} workers are up"


def _is_restarting(here: Services, states: Collection[str]) -> bool:
    """Whether none is up for a moment only: after a crash, or replaced for its size.

    Known only from one look to the next: a first look may come late, and then gives it all of the time.
    """
    began = here.none_up_since
    soon = began is not None and monotonic() - began <= RESTART_SECONDS
    return soon and here.pool.ready.is_set() and "starting" in states


def _disk(here: Services) -> Check:
    least = here.config.storage.min_free_mb
    try:
        read_only, free = here.spool.is_read_only(), here.spool.free_bytes() // 2**20
    except OSError as error:
        return "down", f"the spool, below storage.data_dir, cannot be looked at: {error.strerror}"
    if read_only:
        return "degraded", "the disk cannot be written: nothing new is accepted"
    return ("ok", None) if free >= least else ("degraded", f"{free} MiB free: nothing new is accepted")


def _backup(here: Services) -> Check:
    """Overdue after three intervals. A daemon that was off for longer has as long to take the first one."""
    if trouble := here.backups.trouble or here.offsite_trouble():
        return "degraded", trouble
    current_at, up = here.backups.current_at, monotonic() - here.started_at
    age = up if current_at is None else min(up, here.now() - current_at)
    if age <= 3 * here.config.backup.interval_seconds:
        return "ok", None
    return "degraded", f"the last backup is {age / 60:.0f} min old" if current_at else "there is no backup"


def _recovery(here: Services) -> Check:
    """Said for a day, or until the next start: whoever looks after the daemon has to hear of it once."""
    told = here.arrival.recovered and monotonic() - here.started_at < RECOVERY_SECONDS
    return ("degraded", here.arrival.message) if told else ("ok", None)


def _worst(checks: Mapping[str, Check]) -> Verdict:
    verdicts = {verdict for verdict, _ in checks.values()}
    return "down" if "down" in verdicts else "degraded" if "degraded" in verdicts else "ok"


_HEALTH = {
    200: Answer(about="All that matters is well.", body=HealthView),
    503: Answer(about="It is down.", body=HealthView),
}
_READY = {200: Answer(about="Yes.", body=ReadyView), 503: Answer(about="No.", body=ReadyView)}
_STATS = {200: Answer(about="The numbers.", body=StatsView)}
_HISTORY = {200: Answer(about="The points.", body=HistoryView)}
_WORKERS = {200: Answer(about="The workers.", body=WorkersView)}

calls = [
    Call(method="GET", path="/stats", handler=stats, right="read", answers=_STATS),
    Call(method="GET", path="/stats/history", handler=history, right="oversee", query=Past, answers=_HISTORY),
    Call(method="GET", path="/workers", handler=workers, right="read", answers=_WORKERS),
    Call(method="GET", path="/health", handler=health, right="public", answers=_HEALTH),
    Call(method="GET", path="/health/live", handler=live, right="public", answers={200: _READY[200]}),
    Call(method="GET", path="/health/ready", handler=ready, right="public", answers=_READY),
]
