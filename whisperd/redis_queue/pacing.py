"""How often each tenant may submit, to whichever host: the rule of whisperd.pace, with its number in Redis.

Time is Redis's own clock, so that those of the hosts need not agree.
"""

from __future__ import annotations

from whisperd.redis_queue.link import Link
from whisperd.task import RateLimited

# Returns how many seconds too early one more comes, and counts it only if that is none.
_COUNT = """
local clock, minute = redis.call('time'), 60000000
local now = clock[1] * 1000000 + clock[2]
local full_at = math.max(now, tonumber(redis.call('get', KEYS[1]) or 0)) + minute / ARGV[1]
local early = full_at - now - minute
if early > 1 then return string.format('%.6f', early / 1000000) end
redis.call('set', KEYS[1], string.format('%.0f', full_at), 'px', math.ceil((full_at - now) / 1000))
return '0'
"""


class SharedPace:
    def __init__(self, link: Link, prefix: str) -> None:
        self._link = link
        self._prefix = prefix
        self._count = link.client.register_script(_COUNT)

    async def count(self, tenant: str, per_minute: int) -> None:
        """Count a submission; 0: no limit. Raises RateLimited, and counts nothing, if it comes too early.

        Raises QueueAway, and may have counted it then.
        """
        if per_minute <= 0:
            return
        async with self._link.asking():
            early = float(await self._count([f"{self._prefix}:whisperd:pace:{tenant}"], [per_minute]))
        if early > 0:
            raise RateLimited(f"at most {per_minute} submissions a minute", early)
