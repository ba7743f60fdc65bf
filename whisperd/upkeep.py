"""What a running daemon does by the clock: sweeps, retention, backups, and each second a look at its files.

Owns the scheduler. Every job survives being cut off: what it has begun is done whole or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from whisperd import gpu
from whisperd.archive import BackupError, Reason
from whisperd.engine.memory import own_bytes
from whisperd.housekeeping import clean_spool
from whisperd.machine import Machine, prune_all
from whisperd.minutes import MINUTE, Minutes
from whisperd.task import StorageBusy, StorageFailed, StorageFull, Task

log = structlog.get_logger(__name__)
WATCH_SECONDS = 1.0
SWEEP_SECONDS = 30.0
RECORD_SECONDS = float(MINUTE)
PRUNE_SECONDS = 300.0
TEND_SECONDS = 300.0
MEASURED_SECONDS = 60.0
CLEAN_SECONDS = 900.0  # a file of no task stays at most twice as long
_TROUBLES = (StorageFull, StorageBusy, StorageFailed, BackupError, OSError)


class Upkeep:
    def __init__(self, parts: Machine) -> None:
        self._parts = parts
        self._minutes = Minutes(parts.db, parts.clock.now)
        self._suspects: set[str] = set()  # files of no task, seen once
        self._backed_up: int | None = None  # changes to the database that the newest backup holds
        self.rescuing = False  # an emergency backup is under way
        self._scheduler = AsyncIOScheduler(
            timezone="UTC",  # its job store stays in memory: others pickle
            job_defaults={"coalesce": True, "misfire_grace_time": None},  # late is better than not at all
        )

    @contextmanager
    def scheduled(self) -> Iterator[None]:
        """The jobs run within the block; one that runs at its end is cancelled."""
        for name, (job, seconds) in self._jobs().items():
            self._scheduler.add_job(_patiently, "interval", args=(name, job), seconds=seconds, id=name)
        if self._parts.arrival.recovered:  # what was used for that is no longer there for a second time
            self._scheduler.modify_job("backup", next_run_time=datetime.now(UTC))
        self._scheduler.start()
        try:
            yield
        finally:
            self._scheduler.shutdown(wait=False)

    def reload(self) -> None:
        """Let those intervals begin anew that have changed, no others: else frequent reloads starve a job."""
        for name, (_, seconds) in self._jobs().items():
            job = self._scheduler.get_job(name)
            if job is not None and job.trigger.interval != timedelta(seconds=seconds):
                job.reschedule("interval", seconds=seconds)

    def _shift(self, seconds: float) -> None:
        """APScheduler waits for times of day: after the clock was set, what was due in a minute still is."""
        for job in self._scheduler.get_jobs():
            job.modify(next_run_time=job.next_run_time + timedelta(seconds=seconds))

    def _jobs(self) -> dict[str, tuple[Callable[[], Awaitable[object]], float]]:
        return {
            "sweep": (self.sweep, SWEEP_SECONDS),
            "prune": (self._prune, PRUNE_SECONDS),
            "clean": (self._clean, CLEAN_SECONDS),
            "tend": (self._parts.db.tend, TEND_SECONDS),
            "record": (self._record, RECORD_SECONDS),
            "measured": (self._parts.queue.keep_measured, MEASURED_SECONDS),
            "backup": (self._back_up, self._parts.config.backup.interval_seconds),
        }

    async def sweep(self) -> Sequence[Task]:
        """Take the chunks that no worker holds: their tasks are queued again, or have failed."""
        parts = self._parts
        lease_seconds = 2 * parts.config.workers.silence_seconds
        swept = await parts.queue.sweep(parts.clock.now() - lease_seconds, parts.pool.held())
        if swept:
            log.warning("took chunks that no worker holds", tasks=len(swept))
        return swept

    async def follow_the_clock(self) -> None:
        """What waits for a span of time goes on waiting for the rest of it when the clock is set."""

        async def jumped(seconds: float) -> None:
            await self._parts.queue.clock_jumped(seconds)
            self._shift(seconds)

        await self._parts.clock.follow(jumped)

    async def watch_the_files(self) -> None:
        """Notice a database that is lost while it is open; what it still holds goes into a backup, once."""
        while not self._parts.db.check_files():  # noqa: ASYNC110  # a removed file tells nobody
            await asyncio.sleep(WATCH_SECONDS)
        log.critical("the database is lost: nothing more is accepted", reason=self._parts.db.broken)
        self.rescuing = True
        await _patiently("emergency backup", lambda: self._parts.back_up("emergency"))
        self.rescuing = False

    async def back_up(self, reason: Reason, seconds: float | None = None) -> None:
        """Back up what has changed since the last one; an idle daemon does not wear out its disk."""
        changes = None if self._parts.db.broken else await self._parts.db.changes()
        if changes is not None and changes == self._backed_up and self._parts.backups.confirm():
            return
        await self._parts.back_up(reason, seconds)
        self._backed_up = changes

    async def _record(self) -> None:
        workers = self._parts.pool.workers()
        sizes = [worker.rss_bytes for worker in workers if worker.rss_bytes]
        gauges = {
            "busy": sum(worker.state == "busy" for worker in workers) / max(1, len(workers)),
            "rss_bytes": sum(sizes) + own_bytes(),
            "gpu_bytes": await asyncio.to_thread(_gpu_bytes),
            "free_bytes": self._parts.spool.free_bytes(),
        }
        await self._minutes.record(gauges)

    async def _prune(self) -> None:
        await prune_all(self._parts)

    async def _clean(self) -> None:
        self._suspects = await clean_spool(self._parts.queue, self._parts.spool, self._suspects.__contains__)

    async def _back_up(self) -> None:
        await self.back_up("interval")


def _gpu_bytes() -> int | None:
    """Used on all GPUs, by whatever program; None where there is none. Blocks."""
    found = gpu.memory()
    return sum(one.used for one in found) if found else None


async def _patiently(name: str, job: Callable[[], Awaitable[object]]) -> None:
    """Run a job; what it cannot do now it does the next time. No lambda: APScheduler would not await it."""
    try:
        await job()
    except _TROUBLES as error:
        log.warning("a job could not be done", job=name, error=str(error))
