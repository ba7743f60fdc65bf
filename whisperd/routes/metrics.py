"""/metrics; and the reading of the daemon that it shows, for whoever needs one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response

from whisperd import gpu, metrics
from whisperd.metrics import Reading
from whisperd.routes import Services, health, services
from whisperd.routes.call import Answer, Call
from whisperd.task import Depths, Stats, StorageFailed

_VALUES = {"ok": 0, "degraded": 1, "down": 2}


async def show_metrics(request: Request) -> Response:
    """How it goes, for Prometheus."""
    here = services(request)
    return Response(metrics.text(await read(here), here.counts), media_type=metrics.MEDIA_TYPE)


async def read(here: Services) -> Reading:
    """How it goes now. Where the database does not answer, the other numbers matter all the more."""
    stats, depths, webhooks = await _kept(here)
    checks = await health.checks(here)
    return Reading(
        now=here.now(),
        checks={name: _VALUES[check.verdict] for name, check in checks.items()},
        is_ready=health.is_ready(here, checks),
        database_up=stats is not None and await asyncio.to_thread(health.is_writable, here),
        stats=stats,
        depths=depths,
        webhooks=webhooks,
        workers=here.pool.workers(),
        deaths=here.pool.deaths,
        paused=here.pool.paused,
        draining=here.drain.begun,
        share=here.share(),
        last_backup=here.backups.last,
        backed_up_until=here.backups.current_at,
        backups=here.backup_results,
        condition=here.arrival.condition,
        recovered=here.arrival.recovered,
        free_bytes=await asyncio.to_thread(_free_bytes, here),
        spool_bytes=await _spool_bytes(here),
        gpus=await asyncio.to_thread(gpu.memory),
        lag_seconds=here.lag.worst(),
    )


async def _kept(here: Services) -> tuple[Stats | None, Depths | None, Mapping[str, int]]:
    """What the database knows; nothing of it where it does not answer."""
    if not here.database_trouble():
        with suppress(StorageFailed):
            depths = await here.queue.depths(here.config.metrics.tenants)
            webhooks = await here.outbox.undelivered()
            return await here.queue.stats(), depths, webhooks
    return None, None, {}


def _free_bytes(here: Services) -> int | None:
    try:
        return here.spool.free_bytes()
    except OSError:  # /health says so
        return None


async def _spool_bytes(here: Services) -> int | None:
    try:
        return await asyncio.to_thread(here.spool.used_bytes)
    except OSError:
        return None


_METRICS = {200: Answer(about="The metrics.", media_types=(metrics.MEDIA_TYPE,))}

calls = [
    Call(method="GET", path="/metrics", handler=show_metrics, right="oversee", answers=_METRICS),
]
