"""The pulse: looks again and again whether all is well, and tells systemd, which ends who says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf

import structlog

from whisperd.machine import Machine
from whisperd.notify import Notifier
from whisperd.task import State, Stats, StorageBusy, StorageFull, TaskError
from whisperd.worker_pool import WorkerInfo

log = structlog.get_logger(__name__)
PULSE_SECONDS = 5.0  # between two looks, at most


class Pulse:
    """`trouble`: what the last look found wrong with the database."""

    def __init__(self, parts: Machine, notifier: Notifier, rescuing: Callable[[], bool]) -> None:
        """`rescuing`: whether an emergency backup is under way, which keeps the daemon from answering."""
        self._parts = parts
        self._notifier = notifier
        self._rescuing = rescuing
        self.trouble: str | None = None

    async def beat(self) -> None:
        """For ever: tell systemd that all is well, after having looked, and how it goes.

        A look may take a quarter of the watchdog's time, and a failed one is repeated soon: a daemon that
        stalls for less than half of that time is not killed.
        """
        seconds = min(PULSE_SECONDS, (self._notifier.watchdog_seconds or inf) / 4)
        while True:
            stats = await self._look(seconds)
            if stats or self._rescuing():
                self._notifier.watchdog()
            if stats:
                self._notifier.status(_status(stats, self._parts.pool.workers()))
            await asyncio.sleep(seconds if stats else seconds / 5)

    async def _look(self, seconds: float) -> Stats | None:
        """How it goes; None unless database and pool answer in time: that the disk is full, for example."""
        stats, trouble = await self._asked(seconds)
        pool_answers = self._parts.pool.responsive()
        if trouble and trouble != self.trouble:
            log.error("the database is in trouble", reason=trouble)
        if not pool_answers:
            log.error("the worker pool does not answer")
        self.trouble = trouble
        return stats if pool_answers else None

    async def _asked(self, seconds: float) -> tuple[Stats | None, str | None]:
        """What the database says, and why it cannot be read or written at present."""
        stats = None
        try:
            async with asyncio.timeout(seconds):
                stats = await self._parts.queue.stats()
                await self._parts.db.changes()
        except (StorageFull, StorageBusy) as error:
            return stats, str(error)
        except (TaskError, TimeoutError) as error:
            return None, str(error) or "the database does not answer"
        return stats, None


def _status(stats: Stats, workers: Sequence[WorkerInfo]) -> str:
    waiting, running = (stats.by_state[state] for state in (State.QUEUED, State.PROCESSING))
    ready = sum(worker.is_up for worker in workers)
    return f"{waiting} queued, {running} processing, {ready} of {len(workers)} workers ready"
