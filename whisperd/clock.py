"""The daemon's time: the wall clock, read in a way that a clock which is set cannot surprise.

Between two looks time goes on as the steady clock does; only a look (`jump`) lets the wall clock's new time
in. So there is one moment at which everything changes from the old time to the new, and whoever looks can
move at that moment what was written in the old one. Knows nothing of tasks but how storage can fail.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from whisperd.task import StorageBusy, StorageFailed, StorageFull

log = structlog.get_logger(__name__)
LOOK_SECONDS = 1.0
JUMP_SECONDS = 2.0  # less than this is a clock that is slewed or a leap second: it is followed without a word
BELIEVED_SECONDS = 86_400.0  # a clock that stays so long where it was set to is right


class Clock:
    """Unix time that moves with the steady clock, and jumps only inside `jump`.

    Weakness: until the next look `now` is late by as much as the wall clock was set. Time in which the
    machine sleeps does not pass on the steady clock: waking up is a jump forward.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._ahead = 0.0  # seconds that the wall clock was set forward, in sum
        self._jumped_at = steady()

    def now(self) -> float:
        """Unix seconds, UTC, by the wall clock as it was at the last look."""
        return self._steady() + self._offset

    def jump(self) -> float:
        """Look: the seconds that the wall clock was set by since the last look; 0.0 below JUMP_SECONDS."""
        moved = self._wall() - self._steady() - self._offset
        self._offset += moved
        if abs(moved) < JUMP_SECONDS:
            return 0.0
        self._ahead += moved
        self._jumped_at = self._steady()
        return moved

    def cautious(self) -> float:
        """`now`, but never ahead of the seconds that have really passed since the start.

        For what may be deleted: a clock that is set forward by a day makes nothing a day older. Once it has
        stayed there for a day it is believed: else a machine that boots in 1970 would keep everything.
        """
        believed = self._steady() - self._jumped_at >= BELIEVED_SECONDS
        return self.now() - (0.0 if believed else max(0.0, self._ahead))

    async def follow(self, jumped: Callable[[float], Awaitable[None]]) -> None:
        """Look once a second, for ever; `jumped(seconds)` is told of each jump until it could write it down.

        `jumped` must give what it writes to the database before it first waits: then no other verb comes
        between the old time and the new.
        """
        owed = 0.0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            owed = await self._tell(jumped, owed + self._look())

    def _look(self) -> float:
        moved = self.jump()
        if moved:
            log.warning("the clock was set", seconds=round(moved, 1))
        return moved

    async def _tell(self, jumped: Callable[[float], Awaitable[None]], seconds: float) -> float:
        """What is still owed after an attempt."""
        with suppress(StorageFull, StorageBusy, StorageFailed):
            if seconds:
                await jumped(seconds)
            return 0.0
        return seconds
