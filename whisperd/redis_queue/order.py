"""The newest first within a priority, where `queue.order` says so; BullMQ itself goes by age alone.

What waits at a priority has scores from priority * 2^32 on in BullMQ's set, where BullMQ counts upwards.
What is to go by `queue.order = "lifo"` gets a number when it is added, and its score counts down with it from
the other end. So priorities are never mixed, BullMQ's own counts of them hold, and what BullMQ places goes
first in each, the oldest first: jobs of Node's programs, what was delayed or handed back. What has waited too
long joins them.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from whisperd.redis_queue.link import Link

if TYPE_CHECKING:
    from bullmq import Queue

RAISED_AT_ONCE = 100  # at each priority
LAST = 111  # of the priorities that what is submitted over HTTP has in BullMQ: see formats
PLACE = """
local function number(queue, id)
  redis.call('hset', queue .. id, 'nth', redis.call('incr', queue .. 'whisperd:newest') % 2147483648)
end
local function place(queue, id)
  local job = redis.call('hmget', queue .. id, 'nth', 'priority')
  if not job[1] or not redis.call('zscore', queue .. 'prioritized', id) then return end
  redis.call('zadd', queue .. 'prioritized', (job[2] + 1) * 4294967296 - 1 - job[1], id)
end
"""
# Goes through our priorities, and at each through those with a number, from the oldest on.
_RAISE = """
local queue, before, step = ARGV[1], tonumber(ARGV[2]), 4294967296
local set, raised, behind = queue .. 'prioritized', 0, (ARGV[4] + 1) * step
local first = redis.call('zrange', set, 0, 0, 'withscores')
while first[1] and tonumber(first[2]) < behind do
  local bottom = math.floor(first[2] / step) * step
  local top, middle = string.format('(%.0f', bottom + step), string.format('%.0f', bottom + step / 2)
  for _, id in ipairs(redis.call('zrevrangebyscore', set, top, middle, 'limit', 0, ARGV[3])) do
    if tonumber(redis.call('hget', queue .. id, 'timestamp') or before) >= before then break end
    redis.call('zadd', set, bottom + redis.call('incr', queue .. 'pc') % step, id)
    raised = raised + 1
  end
  first = redis.call('zrangebyscore', set, string.sub(top, 2), '+inf', 'withscores', 'limit', 0, 1)
end
return raised
"""


class Order:
    """Of one queue. Every verb raises QueueAway."""

    def __init__(self, link: Link, queue: Queue) -> None:
        self._link = link
        self._name = queue.toKey("")
        self._place = link.client.register_script(f"{PLACE}place(ARGV[1], ARGV[2])")
        self._raise = link.client.register_script(_RAISE)

    async def place(self, job_id: str) -> None:
        """Where its number and its priority say, if it has one and waits."""
        async with self._link.asking():
            await self._place([self._name], [self._name, job_id])

    async def raise_old(self, seconds: float) -> int:
        """Let what has waited for longer go before what came later. Returns how many had."""
        before = round((time() - seconds) * 1000)
        async with self._link.asking():
            return int(await self._raise([self._name], [self._name, before, RAISED_AT_ONCE, LAST]))
