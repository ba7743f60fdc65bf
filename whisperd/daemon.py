"""The composition root: the only place where the parts are made and joined, started and stopped.

Order of a stop: streams end, HTTP ends, the pool finishes its chunks, the database closes last.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import time

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from whisperd import logs, models
from whisperd.config import Config
from whisperd.db import DatabaseInUse, DatabaseTooNew
from whisperd.housekeeping import clean_spool, prune, tidy
from whisperd.listening import announce, bind, http_server
from whisperd.machine import Machine, machine
from whisperd.routes import Services
from whisperd.task import ModelUnusable, StorageBusy, StorageFailed, StorageFull
from whisperd.worker_pool import PoolFailed

log = structlog.get_logger(__name__)
SWEEP_SECONDS = 30
PRUNE_SECONDS = 300

# Why a start can fail that is for the operator to read, without a traceback.
_REASONS = (DatabaseInUse, DatabaseTooNew, PoolFailed, ModelUnusable, models.ModelError, OSError)


async def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; a second signal ends at once. Returns the exit status."""
    os.umask(0o077)
    logs.configure(config.log)
    stop, now = _stop_on_signal()
    reasons: list[BaseException] = []
    try:
        async with machine(config) as parts:
            await _serve(parts, stop, now)
    except* _REASONS as group:
        reasons += _leaves(group)
    for reason in reasons:
        print(f"whisperd: {reason}", file=sys.stderr)
    return 1 if reasons else 0


async def _serve(parts: Machine, stop: asyncio.Event, now: asyncio.Event) -> None:
    services, listening = _services(parts), bind(parts.config.http)
    server = http_server(services)
    async with asyncio.TaskGroup() as group:
        pooling = group.create_task(parts.pool.run(), name="pool")
        serving = group.create_task(server.serve([listening]), name="http")
        tidying = group.create_task(tidy(parts.events, parts.spool), name="tidy")
        await _first(parts.pool.ready.wait(), stop.wait(), pooling)
        if not stop.is_set():
            announce(listening)
        with _schedule(parts):
            await _first(stop.wait(), pooling)
        log.info("stopping", grace_seconds=parts.config.shutdown.grace_seconds)
        services.draining = True
        parts.pool.drain()
        parts.events.close()  # open streams end: they would keep the server from stopping
        server.should_exit = True
        await _wind_down(pooling, now, parts.config.shutdown.grace_seconds)
        server.force_exit = now.is_set()
        await asyncio.wait([serving])
        tidying.cancel()
    await _leave_in_order(parts)


async def _wind_down(pooling: asyncio.Task[None], now: asyncio.Event, grace_seconds: float) -> None:
    """Let the pool finish its chunks for the grace; then, or at a second signal, have them handed back."""
    with suppress(TimeoutError):
        async with asyncio.timeout(grace_seconds):
            await _first(pooling, now.wait())
    pooling.cancel()
    await asyncio.wait([pooling])


async def _leave_in_order(parts: Machine) -> None:
    """What was begun waits in line, in the file as in the next start; which does the same if this fails."""
    with suppress(StorageFull, StorageBusy, StorageFailed):
        await parts.queue.recover()
        await clean_spool(parts.queue, parts.spool)


async def _first(*waits: object) -> None:
    """Return when one of them is done; waits that are ours alone are cancelled, tasks are left alone."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, wait in zip(tasks, waits, strict=True):
            if task is not wait:
                task.cancel()


def _stop_on_signal() -> tuple[asyncio.Event, asyncio.Event]:
    """The first signal sets the first event, a second one both."""
    stop, now = asyncio.Event(), asyncio.Event()

    def heard() -> None:
        (now if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, heard)
    return stop, now


@contextmanager
def _schedule(parts: Machine) -> Iterator[None]:
    scheduler = AsyncIOScheduler(timezone="UTC")  # its job store stays in memory: others pickle

    # Coroutine functions: APScheduler never awaits what a lambda returns.
    async def sweep() -> None:
        lease_seconds = 2 * parts.config.workers.silence_seconds
        swept = await parts.queue.sweep(time() - lease_seconds, parts.pool.held())
        if swept:
            log.warning("took chunks that no worker holds", tasks=len(swept))

    async def forget() -> None:
        await prune(parts.queue, parts.spool, parts.config.retention)

    scheduler.add_job(sweep, "interval", seconds=SWEEP_SECONDS, id="sweep")
    scheduler.add_job(forget, "interval", seconds=PRUNE_SECONDS, id="prune")
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown(wait=False)


def _services(parts: Machine) -> Services:
    return Services(
        queue=parts.queue,
        events=parts.events,
        spool=parts.spool,
        pool=parts.pool,
        config=parts.config,
        check_model=parts.models.multilingual,
        database_trouble=lambda: parts.db.broken,
    )


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
