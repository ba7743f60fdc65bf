"""How much may wait in the queues that hosts share, of all and of each tenant: counted where it is added.

BullMQ knows how many jobs wait, and of no tenant. So each tenant has a sorted set beside BullMQ's keys: its
jobs, as "queue:id", by how they stand. What BullMQ's own scripts do to them is noted when it is heard of,
looked up before anything is refused, and gone through again and again. The question for room and the addition
are one script, so that of two hosts one gets the last place. Jobs of WhisperAPI are of no tenant here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import randrange
from time import time
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from whisperd.redis_queue.idempotency import HELD, Hold, KeyLost
from whisperd.redis_queue.link import Link
from whisperd.redis_queue.order import LAST, PLACE
from whisperd.redis_queue.tally import Line, TenantCount
from whisperd.task import QueueFull, TenantQueueFull

if TYPE_CHECKING:
    from bullmq import Job as BullJob
    from bullmq import Queue

AT_ONCE = 1000  # jobs that are gone through: for so many Redis does nothing else, some 4 ms
LOOKED_AT = 250  # those that are thought to wait, before a tenant is refused
SAMPLED = 100  # tenants, to tell one who is refused how many have work: of more it is an estimate
TENANTS_AT_ONCE = 10  # that are gone through with one sweep

# How a job stands: 0 it waits, 1 it is delayed, 2 it is at work, 3 it is completed, 4 it has failed, 5 it was
# cancelled. Those of nobody are in a set, too: how many were cancelled is asked of all.
NOTE = """
local function standing(base, member)
  local colon = string.find(member, ':', 1, true)
  local queue, id = base .. string.sub(member, 1, colon), string.sub(member, colon + 1)
  local job = redis.call('hmget', queue .. id, 'timestamp', 'finishedOn', 'failedReason')
  if not job[1] then return nil end
  if job[2] then
    if not redis.call('zscore', queue .. 'failed', id) then return 3 end
    return job[3] == 'cancelled' and 5 or 4
  end
  if redis.call('zscore', queue .. 'delayed', id) then return 1 end
  return redis.call('lpos', queue .. 'active', id) and 2 or 0
end
local function restate(base, tenant, member)
  local set, now = base .. 'whisperd:tenant:' .. tenant, standing(base, member)
  if now then return redis.call('zadd', set, now, member) end
  return redis.call('zrem', set, member)
end
local function tenant_of(text)
  local known, data = pcall(cjson.decode, text)
  if not known or type(data) ~= 'table' or type(data.task_id) ~= 'string' then return '' end
  return type(data.tenant) == 'string' and data.tenant or 'default'
end
local function note(base, member)
  local tenant, added = unpack(redis.call('hmget', base .. member, 'tnt', 'timestamp'))
  if not added then return end
  if not tenant then
    tenant = tenant_of(redis.call('hget', base .. member, 'data') or '')
    if tenant ~= '' then redis.call('hset', base .. member, 'tnt', tenant) end
  end
  redis.call('sadd', base .. 'whisperd:tenants', tenant)
  restate(base, tenant, member)
end
"""
_REFUSED = """
local function waiting(base, tenant)
  return redis.call('zcount', base .. 'whisperd:tenant:' .. tenant, 0, 1)
end
local function refusal(why, asked, queued)
  local over, tenants = 0, 0
  for _, name in ipairs(asked.queues) do
    over = over + redis.call('zcount', asked.base .. name .. ':completed', asked.now - 60000, asked.now)
  end
  if why == 'tenant' then
    local known = asked.base .. 'whisperd:tenants'
    local some = redis.call('srandmember', known, asked.sample)
    for _, tenant in ipairs(some) do
      if waiting(asked.base, tenant) > 0 then tenants = tenants + 1 end
    end
    tenants = math.ceil(tenants * redis.call('scard', known) / math.max(1, #some))
  end
  return {why, queued, over, tenants}
end
local function refused(asked)
  local base, queued = asked.base, 0
  for _, name in ipairs(asked.queues) do
    local queue = base .. name .. ':'
    queued = queued + redis.call('llen', queue .. 'wait') + redis.call('llen', queue .. 'paused')
      + redis.call('zcard', queue .. 'prioritized') + redis.call('zcard', queue .. 'delayed')
  end
  if queued >= asked.max_queued then return refusal('all', asked, queued) end
  if asked.queued == 0 or not asked.tenant then return nil end
  local n = waiting(base, asked.tenant)
  if n < asked.queued then return nil end
  local first = asked.chance % math.max(1, n - asked.looks + 1)
  local set = base .. 'whisperd:tenant:' .. asked.tenant
  for _, member in ipairs(redis.call('zrange', set, first, first + asked.looks - 1)) do
    restate(base, asked.tenant, member)
  end
  if waiting(base, asked.tenant) >= asked.queued then return refusal('tenant', asked, asked.queued) end
end
"""
# Around one of BullMQ's: a job that is there already takes no place when it is added again.
_ADD = """
local asked = cjson.decode(ARGV[#ARGV])
local queue = asked.base .. asked.queue .. ':'
if asked.hold and lost(asked.hold) then return {'key', 0, 0, 0} end
local there = asked.id and redis.call('exists', queue .. asked.id) == 1
if asked.max_queued and (asked.again or not there) then
  local why = refused(asked)
  if why then return why end
end
local answer = theirs()
local id = asked.id or answer
if asked.again and answer == 1 then redis.call('hdel', queue .. id, 'risk_cancelled') end
if asked.lifo and not there then number(queue, id) end
place(queue, id)
if asked.concurrent == 0 then redis.call('hdel', asked.base .. 'whisperd:concurrent', asked.tenant)
elseif asked.concurrent then
  redis.call('hset', asked.base .. 'whisperd:concurrent', asked.tenant, asked.concurrent)
end
if asked.plan then redis.call('hset', asked.base .. 'whisperd:plans', asked.tenant, asked.plan) end
if asked.hold then keep(asked.hold) end
note(asked.base, asked.queue .. ':' .. id)
return answer
"""
_CHECK = "return refused(cjson.decode(ARGV[1]))"
_RESTATE = "for n = 2, #ARGV do note(ARGV[1], ARGV[n]) end"
_TIDY = """
for n = 3, #ARGV do restate(ARGV[1], ARGV[2], ARGV[n]) end
if redis.call('zcard', ARGV[1] .. 'whisperd:tenant:' .. ARGV[2]) == 0 then
  redis.call('srem', ARGV[1] .. 'whisperd:tenants', ARGV[2])
  redis.call('hdel', ARGV[1] .. 'whisperd:plans', ARGV[2])
  redis.call('hdel', ARGV[1] .. 'whisperd:concurrent', ARGV[2])
end
"""
_COUNT = """
local found = {}
for n = 2, #ARGV do
  local set, counts = ARGV[1] .. 'whisperd:tenant:' .. ARGV[n], {}
  for standing = 0, 5 do counts[standing + 1] = redis.call('zcount', set, standing, standing) end
  found[n - 1] = counts
end
return found
"""
# What waits at each priority, with the age of the oldest of those at both ends: see order. All that Node has
# added behind the last of ours is one line: it may use two million priorities.
_LINES = """
local queue, found, step, last = ARGV[1], {}, 4294967296, tonumber(ARGV[3])
local waits = queue .. 'prioritized'
local function age(id) return tonumber(redis.call('hget', queue .. id, 'timestamp') or ARGV[2]) end
local plain = redis.call('llen', queue .. 'wait') + redis.call('llen', queue .. 'paused')
if plain > 0 then
  local final = redis.call('lindex', queue .. 'wait', -1) or redis.call('lindex', queue .. 'paused', -1)
  found[1] = {0, plain, age(final)}
end
local first = redis.call('zrange', waits, 0, 0, 'withscores')
while first[1] do
  local priority = math.min(math.floor(first[2] / step), last)
  local from, to = string.format('%.0f', priority * step), '+inf'
  if priority < last then to = string.format('(%.0f', (priority + 1) * step) end
  local final = redis.call('zrevrangebyscore', waits, to, from, 'limit', 0, 1)
  local n = redis.call('zcount', waits, from, to)
  found[#found + 1] = {priority, n, math.min(age(first[1]), age(final[1]))}
  if priority == last then break end
  first = redis.call('zrangebyscore', waits, string.sub(to, 2), '+inf', 'withscores', 'limit', 0, 1)
end
return found
"""
# The keys that each of BullMQ's scripts wants, in its order, as BullMQ gives them.
_KEYS = {
    "addStandardJob": "wait paused meta id completed delayed active events marker",
    "addDelayedJob": "marker meta id delayed completed events",
    "addPrioritizedJob": "marker meta id prioritized delayed completed active events pc",
}
_KEYS_OF_RETRY = "events failed wait meta active marker prioritized pc"  # after that of the job


class Asked(Struct, frozen=True, kw_only=True):
    """For what there has to be room: one more job of a tenant, where so many may wait (`queued` 0: any)."""

    tenant: str | None
    plan: str | None = None  # that its submission has named
    queued: int = 0
    max_queued: int = 2**53  # of all queues together
    concurrent: int | None = None  # that may be at work, from now on; 0: any
    queues: tuple[str, ...] = ()
    hold: Hold | None = None  # without which it is not to be added


class Room:
    """The questions and additions to one queue. Every verb raises QueueAway."""

    def __init__(self, link: Link, queue: Queue, prefix: str) -> None:
        self._link = link
        self._queue = queue
        self._base = f"{prefix}:"
        register, commands = link.client.register_script, queue.backend.scripts.commands
        self._guarded = {
            name: register(
                f"{NOTE}{_REFUSED}{PLACE}{HELD}local function theirs()\n{commands[name].script}\nend{_ADD}"
            )
            for name in (*_KEYS, "reprocessJob")
        }
        self._check = register(f"{NOTE}{_REFUSED}{_CHECK}")
        self._restate = register(f"{NOTE}{_RESTATE}")
        self._tidy = register(f"{NOTE}{_TIDY}")
        self._count = register(_COUNT)
        self._lines = register(_LINES)
        self._known = f"{self._base}whisperd:tenants"  # of each script a key is named: Clusters go by that
        self._untidied: list[str] = []  # tenants whose turn comes
        self._cursor = 0  # in the set of the first of them

    async def check(self, asked: Asked) -> None:
        """Raises QueueFull, TenantQueueFull, as an addition would now."""
        async with self._link.asking():
            why = await self._check([self._known], [self._asking(asked)])
        _raise(why)

    async def add(self, job: BullJob, asked: Asked | None) -> None:
        """What asks for no room always has it. Raises QueueFull, TenantQueueFull, KeyLost."""
        scripts, options = self._queue.backend.scripts, job.opts
        kind = "Delayed" if options.get("delay") else "Prioritized" if options.get("priority") else "Standard"
        keys = scripts.getKeys(_KEYS[f"add{kind}Job"].split())
        await self._change(f"add{kind}Job", keys, scripts.addJobArgs(job), job, asked)

    async def retry(self, job: BullJob, asked: Asked) -> bool:
        """One that failed waits again, with all its attempts. False: it is another. Raises as `add`."""
        keys = self._queue.backend.scripts.getKeys(_KEYS_OF_RETRY.split())
        args = [job.id, "LPUSH", "failedReason", "failed", 1, 0]
        key = self._queue.toKey(job.id)
        return bool(await self._change("reprocessJob", [key, *keys], args, job, asked) == 1)

    async def _change(
        self, verb: str, keys: Sequence[str], args: Sequence[Any], job: BullJob, asked: Asked | None
    ) -> object:
        about = {"queue": self._queue.name, "id": job.id, "lifo": bool(job.opts.get("lifo"))}
        asking = self._asking(asked, **about, again=verb == "reprocessJob")
        async with self._link.asking():
            answer = await self._guarded[verb](keys, [*args, asking])
        _raise(answer)
        return answer

    def _asking(self, asked: Asked | None, **about: Any) -> bytes:
        about |= {"base": self._base, "now": round(time() * 1000), "chance": randrange(2**30)}
        about |= msgspec.structs.asdict(asked) if asked else {}
        said = {name: value for name, value in about.items() if value is not None}  # nil, not null
        return msgspec.json.encode({**said, "looks": LOOKED_AT, "sample": SAMPLED})

    async def plan_of(self, tenant: str) -> str | None:
        """The one that its submissions have named last."""
        async with self._link.asking() as client:
            found = await client.hget(f"{self._base}whisperd:plans", tenant)
        return None if found is None else str(found)

    async def note(self, ids: Sequence[str]) -> None:
        """Something may have happened to these jobs, AT_ONCE or so."""
        if ids:
            async with self._link.asking():
                await self._restate([self._known], [self._base, *map(self._member, ids)])

    async def lines(self) -> Sequence[Line]:
        """What waits, by BullMQ's priorities; LAST: at that and behind it."""
        async with self._link.asking():
            now = round(time() * 1000)
            asked = [self._queue.toKey(""), now, LAST]
            return [Line(*line) for line in await self._lines([self._known], asked)]

    async def tenants(self) -> Mapping[str, TenantCount]:
        """How the jobs of all queues stand, by tenant."""
        async with self._link.asking() as client:
            names = [*map(str, await client.smembers(self._known))]
        found: dict[str, TenantCount] = {}
        for first in range(0, len(names), AT_ONCE):
            some = names[first : first + AT_ONCE]
            async with self._link.asking():
                counts = await self._count([self._known], [self._base, *some])
            found |= zip(some, (TenantCount(*count) for count in counts), strict=True)
        return found

    async def tidy(self) -> None:
        """Look at some of the jobs of some tenants, of all queues, for what nobody has heard of."""
        for _ in range(TENANTS_AT_ONCE):
            async with self._link.asking() as client:
                if not self._untidied:
                    self._untidied = [*map(str, await client.smembers(self._known))]
                if not self._untidied:
                    return
                tenant = self._untidied[-1]
                name = f"{self._base}whisperd:tenant:{tenant}"
                self._cursor, rows = await client.zscan(name, self._cursor, count=AT_ONCE)
                await self._tidy([self._known], [self._base, tenant, *(member for member, _ in rows)])
            if not self._cursor:
                self._untidied.pop()
                if not self._untidied:
                    return

    def _member(self, job_id: str) -> str:
        return f"{self._queue.name}:{job_id}"


def _raise(why: Any) -> None:
    """What a refusal says, as of a queue on one box; nothing for another answer."""
    if not isinstance(why, list):
        return
    kind, queued, over, tenants = why
    if kind == "key":
        raise KeyLost
    seconds = 60.0 / max(1, min(1000, over))  # until one of them was over, in the last minute
    if kind == "all":
        raise QueueFull(f"{queued} tasks are waiting already", seconds)
    raise TenantQueueFull(f"{queued} tasks of this tenant may wait, and do", seconds * max(1, tenants))
