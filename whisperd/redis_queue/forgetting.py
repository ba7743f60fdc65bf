"""Retention of the shared storage: what is older than tasks are kept, and of no task that is known, goes.

One host at a time does it for all. A task is known while the shared queue has its job, whatever its state: so
the audio of one that waits stays, however long it waits. Where Redis may know less than it has acknowledged,
since it has just come back, nothing goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

import structlog

from whisperd.config import Retention
from whisperd.redis_queue.boards import Boards
from whisperd.redis_queue.client import RedisAway
from whisperd.redis_queue.storage import Storage
from whisperd.s3 import S3Error
from whisperd.task import QueueAway

log = structlog.get_logger(__name__)
LOOK_SECONDS = 300.0
SETTLED_SECONDS = 2 * LOOK_SECONDS  # by then every host has told Redis what it knows, and its queues
ROUND_SECONDS = 3600.0  # between two rounds of all hosts together: a list of a bucket has its price
# What is younger stays whatever the settings: its submission may be under way, and its job not be there yet.
YOUNG_SECONDS = 3600.0


class Forgetting:
    def __init__(
        self, board: Boards, storage: Storage, keep: Callable[[], Retention], cautious: Callable[[], float]
    ) -> None:
        """`cautious`: Unix seconds, see Clock."""
        self._board = board
        self._storage = storage
        self._keep = keep
        self._cautious = cautious

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self.look()
            except QueueAway:
                pass  # the link to Redis says so
            except S3Error as error:
                log.warning("the shared storage is tidied later", reason=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """A round, if one is due and no other host does it."""
        await self._board.queues()  # whichever host does it has to know of those of this one
        await self._board.identify()  # one that has just come back empty is not settled
        if self._is_settled and await self._board.first_within("forgetting", ROUND_SECONDS):
            await self.forget()

    async def forget(self) -> None:
        """A round. Raises QueueAway, S3Error: then the next one does the rest."""
        redis, before = await self._redis(), self._kept_since()
        async for some in self._storage.kept():
            if old := [kept for kept in some if kept.at < before]:
                known = await self._board.known({kept.task_id for kept in old})
                # After asking, never before: one that has come back empty knows nothing.
                if await self._redis() != redis:
                    raise RedisAway("the shared queue, on Redis, has come back anew")
                if keys := [kept.key for kept in old if kept.task_id not in known]:
                    await self._storage.remove(keys)
                    log.info("removed objects of no task from the shared storage", objects=len(keys))

    def _kept_since(self) -> float:
        keep = self._keep()
        hours = max(keep.job_hours, keep.failed_job_hours)
        return self._cautious() - max(hours * 3600, YOUNG_SECONDS)

    @property
    def _is_settled(self) -> bool:
        """Not soon after Redis was away: it may have lost what hosts are about to tell it again."""
        return monotonic() - self._board.well_since >= SETTLED_SECONDS

    async def _redis(self) -> tuple[str, float]:
        """Which it is, and since when it answers."""
        return await self._board.identify(), self._board.well_since
