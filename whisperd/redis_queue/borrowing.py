"""Audio of tasks that other hosts have done, to be heard here: fetched from the shared storage on demand.

It lies in the spool under an id of its own, of no task: so nothing that works on the task meets it, and the
spool's tidying removes it by and by.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from whisperd.redis_queue.client import RedisAway
from whisperd.redis_queue.storage import Storage
from whisperd.s3 import S3Error, S3NotFound
from whisperd.spool import Spool
from whisperd.task import Task

_BORROWED = "-borrowed"  # behind the id of the task


class _NotThat(Exception):
    """It is other audio than the task's."""


class Borrowing:
    def __init__(self, spool: Spool, storage: Storage) -> None:
        self._spool = spool
        self._storage = storage
        self._fetching: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def audio_id(self, task: Task) -> str:
        """Under which the spool has its audio, or would have it: what is nowhere is not there either.

        Raises RedisAway, StorageFull, TooLarge.
        """
        if await asyncio.to_thread(self._spool.has_audio, task.id):
            return task.id
        borrowed = f"{task.id}{_BORROWED}"
        async with self._fetching.setdefault(borrowed, asyncio.Lock()):
            if await asyncio.to_thread(self._spool.has_audio, borrowed):
                return borrowed
            try:
                await self._fetch(task, borrowed)
            except (S3NotFound, _NotThat):
                return task.id
            except S3Error as error:
                raise RedisAway(str(error)) from error
        return borrowed

    async def _fetch(self, task: Task, borrowed: str) -> None:
        async with self._spool.receive(borrowed, task.audio.size) as incoming:
            async for piece in self._storage.pieces(self._storage.audio_key(task.id)):
                await incoming.write(piece)
            if incoming.sha256 != task.audio.sha256:
                raise _NotThat
