"""/stats, /workers, /health: how it goes."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from whisperd import __version__
from whisperd.routes import Json, Services, services
from whisperd.routes.view import stats_view

Verdict = Literal["ok", "degraded", "down"]
Check = tuple[Verdict, str | None]  # and why
RECOVERY_SECONDS = 86_400.0


async def stats(request: Request) -> Response:
    return Json(await current_stats(services(request)))


async def current_stats(here: Services) -> dict[str, Any]:
    return stats_view(await here.queue.stats(), here.pool.workers(), here.pool.paused, here.now())


async def workers(request: Request) -> Response:
    return Json({"workers": services(request).pool.workers()})


async def health(request: Request) -> Response:
    here = services(request)
    checks = _checks(here)
    status = _worst(checks)
    view = {
        "status": status,
        "uptime_seconds": round(monotonic() - here.started_at, 1),
        "version": __version__,
        "checks": {
            name: {"status": verdict, "message": message} for name, (verdict, message) in checks.items()
        },
    }
    return Json(view, 503 if status == "down" else 200)


async def live(request: Request) -> Response:
    return Json({"status": "ok"})


async def ready(request: Request) -> Response:
    """Whether new work can be taken."""
    here = services(request)
    down = here.draining or _worst(_checks(here)) == "down"
    return Json({"status": "down" if down else "ok"}, 503 if down else 200)


def _checks(here: Services) -> Mapping[str, Check]:
    return {
        "database": _database(here),
        "workers": _workers(here),
        "disk": _disk(here),
        "backup": _backup(here),
        "recovery": _recovery(here),
    }


def _database(here: Services) -> Check:
    trouble = here.database_trouble()
    return ("down", trouble) if trouble else ("ok", None)


def _workers(here: Services) -> Check:
    states = [worker.state for worker in here.pool.workers()]
    at_work = sum(state in ("idle", "busy") for state in states)
    if at_work == len(states):
        paused = "nothing is handed out until somebody resumes: POST /admin/resume, or `whisperd resume`"
        return ("degraded", paused) if here.pool.paused else ("ok", None)
    return ("degraded" if at_work else "down"), f"{at_work} of {len(states)} workers are up"


def _disk(here: Services) -> Check:
    if here.spool.is_read_only():
        return "degraded", "the disk cannot be written: nothing new is accepted"
    free, least = here.spool.free_bytes() // 2**20, here.config.storage.min_free_mb
    return ("ok", None) if free >= least else ("degraded", f"{free} MiB free: nothing new is accepted")


def _backup(here: Services) -> Check:
    """Overdue after three intervals. A daemon that was off for longer has as long to take the first one."""
    if trouble := here.backups.trouble:
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


routes = [
    Route("/stats", stats),
    Route("/workers", workers),
    Route("/health", health),
    Route("/health/live", live),
    Route("/health/ready", ready),
]
