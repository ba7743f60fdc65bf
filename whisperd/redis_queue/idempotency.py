"""Idempotency-Keys over all hosts: of the submissions with one key only one becomes a task.

Who comes first has the key for a short while, in which what was sent is stored. With the script that adds the
job it has it for good, unless somebody else has added one by then. So a host that has died holds nobody up
for long, and of two that both believe the key to be theirs only the one adds that has stored first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from msgspec import Struct

from whisperd.redis_queue.link import Link

LEASE_SECONDS = 30  # to store what was sent; who needs longer may find that another was faster
# `lost`: whether somebody else has added a task with the key by now. One who has only leased it, since to
# store took us longer than our lease, is too late: else each repeat would take the key from the one before.
HELD = """
local function lost(hold)
  local value = redis.call('get', hold.key)
  return value and value ~= hold.value and string.sub(value, -7) ~= ' leased'
end
local function keep(hold) redis.call('set', hold.key, hold.value, 'ex', hold.seconds) end
"""
_LEASE = """
local value = redis.call('get', KEYS[1])
if value and value ~= ARGV[3] then return value end
redis.call('set', KEYS[1], ARGV[1], 'ex', ARGV[2])
"""
_GIVE_BACK = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end"


class KeyLost(Exception):
    """Another submission with the key was faster: nothing was added."""


class Hold(Struct, frozen=True, kw_only=True):
    """Of a key for a task, from its addition on for so many seconds."""

    key: str  # its name in Redis
    value: str  # the task's id, and the SHA-256 of what was sent
    seconds: int

    @property
    def leased(self) -> str:
        """Its value until then."""
        return f"{self.value} leased"


class IdempotencyKeys:
    """Every verb raises QueueAway."""

    def __init__(self, link: Link, key: Callable[[str], str]) -> None:
        """`key`: of a name in the queue, its name in Redis."""
        self._link = link
        self._key = key
        self._lease = link.client.register_script(_LEASE)
        self._give_back = link.client.register_script(_GIVE_BACK)

    def hold(self, key: str, value: str, seconds: float) -> Hold:
        """What to ask for; nothing is asked yet."""
        name = self._key(f"whisperd:key:{hashlib.sha256(key.encode()).hexdigest()}")
        return Hold(key=name, value=value, seconds=round(seconds))

    async def lease(self, hold: Hold, instead_of: str = "") -> str | None:
        """Have the key for LEASE_SECONDS, if it is free or has still that value; or return what it has."""
        async with self._link.asking():
            known = await self._lease([hold.key], [hold.leased, LEASE_SECONDS, instead_of])
        return None if known is None else str(known)

    async def give_back(self, hold: Hold) -> None:
        """What was leased; nothing came of it."""
        async with self._link.asking():
            await self._give_back([hold.key], [hold.leased])
