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


async def stats(request: Request) -> Response:
    return Json(await current_stats(services(request)))


async def current_stats(here: Services) -> dict[str, Any]:
    return stats_view(await here.queue.stats(), here.pool.workers(), here.now())


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


def _checks(here: Services) -> Mapping[str, tuple[Verdict, str | None]]:
    return {"database": _database(here), "workers": _workers(here), "disk": _disk(here)}


def _database(here: Services) -> tuple[Verdict, str | None]:
    trouble = here.database_trouble()
    return ("down", trouble) if trouble else ("ok", None)


def _workers(here: Services) -> tuple[Verdict, str | None]:
    states = [worker.state for worker in here.pool.workers()]
    at_work = sum(state in ("idle", "busy") for state in states)
    if at_work == len(states):
        return "ok", None
    return ("degraded" if at_work else "down"), f"{at_work} of {len(states)} workers are up"


def _disk(here: Services) -> tuple[Verdict, str | None]:
    free, least = here.spool.free_bytes() // 2**20, here.config.storage.min_free_mb
    return ("ok", None) if free >= least else ("degraded", f"{free} MiB free: nothing new is accepted")


def _worst(checks: Mapping[str, tuple[Verdict, str | None]]) -> Verdict:
    verdicts = {verdict for verdict, _ in checks.values()}
    return "down" if "down" in verdicts else "degraded" if "degraded" in verdicts else "ok"


routes = [
    Route("/stats", stats),
    Route("/workers", workers),
    Route("/health", health),
    Route("/health/live", live),
    Route("/health/ready", ready),
]
