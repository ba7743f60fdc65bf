"""Whose turn it is: the next job whose tenant may have one more at work, over all hosts.

A tenant has at work what BullMQ's list of active jobs has of it. A host that dies leaves its jobs there until
their locks have run out and somebody has swept them: there is no other lease. The look at that and BullMQ's
own taking are one script, so that two hosts do not both take the last that a tenant may have. What is not to
be taken stays where it is: it is passed over, and nothing is moved to and fro. A worker of Node's passes
nothing over; what it takes of a tenant counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import msgspec

from whisperd.redis_queue.link import Link
from whisperd.redis_queue.room import NOTE
from whisperd.task import Limits

if TYPE_CHECKING:
    from bullmq import Queue

PASSED_OVER = 1000  # jobs, with one question: for so many Redis does nothing else, a few milliseconds
RESTS = 20  # times as long as it took to go through all in vain only the first are looked at
REST_SECONDS = 5.0  # at most
MORE = -1  # what is answered instead of how long to wait: there are more to look at, behind so many

# What is due is brought into line by BullMQ, which takes nothing from a paused queue. It takes first from a
# list of what somebody who died has left, and of what Node adds without a priority: those of a tenant at its
# limit go from there to the front of their priority if they were begun, else to its end, the oldest first.
_TAKE = """
local asked = cjson.decode(ARGV[#ARGV])
local base, queue, known = asked.base, asked.base .. asked.queue .. ':', {}
local wait, waits, meta = queue .. 'wait', queue .. 'prioritized', queue .. 'meta'
local function at_work(tenant)
  local set = base .. 'whisperd:tenant:' .. tenant
  for _, member in ipairs(redis.call('zrangebyscore', set, 2, 2)) do restate(base, tenant, member) end
  return redis.call('zcount', set, 2, 2)
end
local function is_full(id)
  local tenant = redis.call('hget', queue .. id, 'tnt')
  if not tenant then return false end
  if known[tenant] == nil then
    local most = tonumber(redis.call('hget', base .. 'whisperd:concurrent', tenant) or 0)
    known[tenant] = most > 0 and at_work(tenant) >= most
  end
  return known[tenant]
end
local function taken()
  local answer = theirs()
  if type(answer[1]) == 'table' then note(base, asked.queue .. ':' .. answer[2]) end
  return answer
end
local function brought_into_line()
  if redis.call('zcount', queue .. 'delayed', 0, (asked.now + 1) * 4096 - 1) == 0 then return end
  redis.call('hset', meta, 'paused', 1)
  local done, trouble = pcall(theirs)
  redis.call('hdel', meta, 'paused')
  if not done then error(trouble) end
end
local function in_wait()
  for _ = 1, asked.most do
    local id = redis.call('lindex', wait, -1)
    if not id or not is_full(id) then return id, false end
    redis.call('rpop', wait)
    local priority = math.max(1, tonumber(redis.call('hget', queue .. id, 'priority') or 1))
    local nth = redis.call('hexists', queue .. id, 'ats') == 1 and 0 or redis.call('incr', queue .. 'pc')
    redis.call('zadd', waits, priority * 4294967296 + nth % 4294967296, id)
  end
  return nil, true
end
local function first_in_line()
  for from = asked.skip, asked.skip + asked.most - 1, 100 do
    local ids = redis.call('zrange', waits, from, from + 99)
    for _, id in ipairs(ids) do
      if not is_full(id) then return id end
    end
    if #ids < 100 then return nil, false end
  end
  return nil, true
end
if redis.call('exists', base .. 'whisperd:concurrent') == 0 or redis.call('hexists', meta, 'paused') == 1 then
  return taken()
end
brought_into_line()
local id, more = in_wait()
if id then return taken() end
if more then return {0, 0, -1, 0} end
id, more = first_in_line()
if more then return {0, 0, -1, asked.most} end
if not id then
  local due = redis.call('zrange', queue .. 'delayed', 0, 0, 'withscores')
  return {0, 0, 0, due[2] and math.floor(due[2] / 4096) or 0}
end
local score = redis.call('zscore', waits, id)
redis.call('zadd', waits, 0, id)
local answer = taken()
if redis.call('zscore', waits, id) then redis.call('zadd', waits, score, id) end
return answer
"""


class Turn:
    """Of one queue. Every verb raises QueueAway."""

    def __init__(self, link: Link, queue: Queue, prefix: str) -> None:
        self._link = link
        self._queue = queue
        self._base = f"{prefix}:"
        theirs = queue.backend.scripts.commands["moveToActive"].script
        self._take = link.client.register_script(f"{NOTE}local function theirs()\n{theirs}\nend{_TAKE}")
        self._rests_until = 0.0  # on the monotonic clock

    async def take(self, token: str, lock_ms: int) -> tuple[Mapping[str, str], str, float]:
        """What Redis has of the next job, and its id; and when the next delayed one is due, if it is known.

        Nothing of a job: there is none for now. In milliseconds since 1970; 0: not known.
        """
        began, skip = monotonic(), 0
        while True:
            async with self._link.asking():
                fields, job_id, wait, due_ms = await self._asked(token, lock_ms, skip)
            if wait != MORE:
                break
            if due_ms and began < self._rests_until:
                return {}, "", (time() + self._rests_until - monotonic()) * 1000
            skip += due_ms
        if skip and not fields:
            now = monotonic()
            self._rests_until = now + min(REST_SECONDS, RESTS * (now - began))
        return dict(zip(fields[::2], fields[1::2], strict=True)) if fields else {}, job_id, due_ms

    async def _asked(self, token: str, lock_ms: int, skip: int) -> Any:
        scripts, now = self._queue.backend.scripts, round(time() * 1000)
        options = msgspec.msgpack.encode({"token": token, "lockDuration": lock_ms, "limiter": None})
        about = {"base": self._base, "queue": self._queue.name, "now": now, "skip": skip}
        asked = msgspec.json.encode({**about, "most": PASSED_OVER})
        return await self._take(scripts.getKeys(_KEYS.split()), [scripts.keys[""], now, options, asked])

    async def limit(self, limits: Callable[[str, str | None], Limits]) -> None:
        """Tell all hosts how much each tenant, by its plan, may have at work."""
        names = f"{self._base}whisperd:concurrent"
        async with self._link.asking() as client:
            tenants = sorted(map(str, await client.smembers(f"{self._base}whisperd:tenants")))
            if not tenants:
                return
            plans = await client.hmget(f"{self._base}whisperd:plans", tenants)
            known = zip(tenants, plans, strict=True)
            most = [(name, limits(name, str(plan) if plan else None).concurrent) for name, plan in known]
            if limited := [part for of_tenant in most if of_tenant[1] for part in of_tenant]:
                await client.hset(names, items=limited)
            if free := [name for name, n in most if not n]:
                await client.hdel(names, *free)


_KEYS = "wait active prioritized events stalled limiter delayed paused meta pc marker"
