"""What this host knows of the shared queue, told to a Redis that has lost it.

After a restart without its data, or from a backup, or with a replica that took over before it had everything,
Redis knows less than it has acknowledged. That it is another server than the one that acknowledged a job is
what tells a loss from a removal, which is nobody's to undo. Jobs at work here are put back under their lock,
at once; then, once all hosts had the time for that, those that were submitted here and that nobody has done
are added again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from math import inf
from time import monotonic

import structlog

from whisperd.job import Job, Submitted
from whisperd.redis_queue import formats
from whisperd.redis_queue.board import Standing
from whisperd.redis_queue.client import RedisAway
from whisperd.redis_queue.parts import Common, Own
from whisperd.redis_queue.room import Asked
from whisperd.s3 import S3Error
from whisperd.task import QueueAway, StorageBusy, StorageFailed, StorageFull

log = structlog.get_logger(__name__)
LOOK_SECONDS = 0.5  # whether Redis has come back, by what others have noticed
IDENTIFY_SECONDS = 2.0  # whether it has without that anybody noticed
AT_ONCE = 500  # jobs, with one question


class Recall:
    def __init__(
        self, own: Own, common: Common, held: Callable[[], Mapping[str, Job]], lock_seconds: float
    ) -> None:
        """`held`: the jobs that this host is at work on, or owes the end of."""
        self._ledger, self._queue = own.ledger, own.queue
        self._board, self._storage, _ = common
        self._held = held
        self._lock_seconds = lock_seconds

    async def run(self) -> None:
        """For ever: at the start, and whenever Redis has come back."""
        done, identified = inf, monotonic()
        while True:
            with suppress(QueueAway, S3Error, StorageFull, StorageBusy, StorageFailed):
                if monotonic() - identified >= IDENTIFY_SECONDS:
                    identified = monotonic()
                    await self._board.identify()
                if (since := self._board.well_since) not in (inf, done):
                    await self.look()
                    done = since
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Raises QueueAway, S3Error, StorageFull, …: then it is to be done again."""
        server, since = await self._board.identify(), self._board.well_since
        for job in await self._at_work():
            if job.server != server and await self._board.put_back(job):
                log.warning("Redis has lost a job, which was put back", job=job.id)
        await asyncio.sleep(self._lock_seconds)
        last = ""
        while some := await self._ledger.submissions(last, AT_ONCE):
            standing = await self._board.standing([job.id for job in some])
            # After asking, never before: what another Redis does not know was not removed.
            if (await self._board.identify(), self._board.well_since) != (server, since):
                raise RedisAway("Redis has come back anew")
            await self._compare(some, standing, server)
            last = some[-1].id

    async def _at_work(self) -> Collection[Job]:
        """With those of the last start, which at this one the bridge may not have read yet."""
        jobs = (*(await self._ledger.held()).values(), *self._held().values())
        return {job.key: job for job in jobs}.values()

    async def _compare(self, some: Sequence[Submitted], standing: Sequence[Standing], server: str) -> None:
        over: list[str] = []
        for job, state in zip(some, standing, strict=True):
            if state == "over" or (state == "gone" and not await self._wanted(job, server)):
                over.append(job.id)
            elif state == "gone":
                await self._add(job)
                log.warning("Redis has lost a job, which was added again", job=job.id)
        await self._ledger.over(over)
        await self._ledger.acknowledged([job.id for job in some if job.server != server], server)

    async def _add(self, job: Submitted) -> None:
        """There is room for it, whatever waits; but its tenant has its limits."""
        tenant, plan = str(job.data.get("tenant", "default")), job.data.get("plan")
        limits = await self._queue.limits(tenant, plan)
        asked = Asked(tenant=tenant, plan=plan, concurrent=limits.concurrent)
        await self._board.add(job.id, formats.NAME, job.data, asked, **job.options)

    async def _wanted(self, job: Submitted, server: str) -> bool:
        """Whether it was lost and not removed, and nobody has done it."""
        return job.server != server and await self._storage.result(job.id) is None
