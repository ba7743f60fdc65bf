"""The jobs of a shared queue by the time of their submission, for lists: an order that BullMQ does not keep.

A sorted set beside BullMQ's keys: ids, by microseconds since 1970. BullMQ removes jobs without a word to it,
so it is gone through again and again, and what Redis has forgotten is taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from random import randrange
from typing import Any, NamedTuple

from whisperd.redis_queue.link import Link
from whisperd.task import QueueAway

LOOK_AT = 100  # jobs, with one question
TIDY_AT_ONCE = 1000  # for so many Redis does nothing else, a millisecond or so
# Takes out those that there are no more: asked again, since a job may have come back after it was found gone.
_FORGET = """
for n = 2, #ARGV do
  if redis.call('exists', ARGV[1] .. ARGV[n]) == 0 then redis.call('zrem', KEYS[1], ARGV[n]) end
end
"""


class Row(NamedTuple):
    id: str
    at: int  # when it was submitted, in microseconds
    data: Mapping[str, str]  # the job's hash; empty: Redis has forgotten it


class Index:
    """Every verb but `enter` raises QueueAway."""

    def __init__(self, link: Link, key: Callable[[str], str]) -> None:
        """`key`: of a name in the queue, its name in Redis."""
        self._link = link
        self._key = key
        self._name = key("whisperd:tasks")
        self._forget = link.client.register_script(_FORGET)
        self._cursor = 0  # where tidying goes on

    async def enter(self, job_id: str, added_ms: int) -> None:
        """Where Redis is away just then, it is entered when a host takes the job."""
        at = added_ms * 1000 + 2 * randrange(500)  # two of one millisecond, with a place behind each
        with suppress(QueueAway):
            async with self._link.asking() as client:
                await client.zadd(self._name, {job_id: at}, nx=True)

    async def newest(self, before: int | None) -> Sequence[Row]:
        """The next LOOK_AT; less: there are no more. What Redis has forgotten is in it for the last time."""
        top = "+inf" if before is None else f"({before}"
        async with self._link.asking() as client:
            rows: Any = await client.zrevrangebyscore(self._name, top, "-inf", 0, LOOK_AT, withscores=True)
            pipe = client.pipeline(transaction=False)
            for job_id, _ in rows:
                pipe.hgetall(self._key(job_id))
            hashes = await pipe.execute() if rows else []
            if gone := [row[0] for row, data in zip(rows, hashes, strict=True) if not data]:
                await self._forget([self._name], [self._key(""), *gone])
        return [Row(job_id, int(at), data) for (job_id, at), data in zip(rows, hashes, strict=True)]

    async def tidy(self) -> Sequence[str]:
        """Look at the next TIDY_AT_ONCE, and take out those that Redis has forgotten. Returns all of them."""
        async with self._link.asking() as client:
            self._cursor, rows = await client.zscan(self._name, self._cursor, count=TIDY_AT_ONCE)
            ids = [str(job_id) for job_id, _ in rows]
            await self._forget([self._name], [self._key(""), *ids])
        return ids
