"""Emptying this host, so that it can be stopped or moved: nothing new is taken, and what runs is finished.

Where hosts share a queue, the work that nobody has begun goes back to it, and others have it. A host with a
queue of its own finishes all that it has accepted, and accepts nothing meanwhile. Not kept over a restart.
"""

from __future__ import annotations

from collections.abc import Sized
from time import monotonic
from typing import Protocol

from msgspec import Struct

from whisperd.task import State, Stats

LONGEST_SECONDS = 31_536_000.0  # a year: without an end, for a drain


class Queue(Protocol):
    async def stats(self) -> Stats: ...


class Pool(Protocol):
    @property
    def paused(self) -> bool: ...
    def held(self) -> Sized: ...  # the chunks in work


class Held(Protocol):
    """What this host has taken of the queue that several share."""

    def held(self) -> Sized: ...  # what it is at work on, or owes the end of
    def leave(self, seconds: float) -> None: ...
    def take_again(self) -> None: ...


class Draining(Struct, frozen=True, kw_only=True):
    draining: bool
    drained: bool  # and nothing is left that could run here, but later
    paused: bool  # what is left is not gone on with until somebody resumes
    queued: int  # here, but for what is to run later
    processing: int
    held: int  # of the shared queue, what is still to be told to it too
    seconds_left: float | None  # until what runs is handed back; null where there is nobody to have it


class Drain:
    def __init__(self, queue: Queue, pool: Pool, shared: Held | None = None, *, runs: bool = True) -> None:
        """`shared`: None where this host has a queue of its own. `runs`: whether it has workers at all."""
        self._queue = queue
        self._pool = pool
        self._shared = shared
        self._runs = runs
        self._ends_at = 0.0  # monotonic
        self.begun = False

    @property
    def refuses(self) -> bool:
        """Whether nothing is accepted. What goes to a shared queue is: others do it."""
        return self.begun and self._shared is None

    def begin(self, seconds: float = LONGEST_SECONDS) -> None:
        """Begun again, it goes by the new time."""
        self.begun, self._ends_at = True, monotonic() + seconds
        if self._shared is not None:
            self._shared.leave(seconds)

    def end(self) -> None:
        self.begun = False
        if self._shared is not None:
            self._shared.take_again()

    async def state(self) -> Draining:
        rests = self._pool.paused and not self._pool.held()  # asked first: then the queue knows of all ends
        stats, held = await self._queue.stats(), len(self._shared.held()) if self._shared else 0
        queued = stats.by_state[State.QUEUED] - stats.delayed
        processing = stats.by_state[State.PROCESSING]
        left = held + (queued + processing if self._runs else 0)
        ends = self.begun and self._shared is not None
        return Draining(
            draining=self.begun,
            drained=self.begun and not left,
            paused=bool(left) and not held and rests,
            queued=queued,
            processing=processing,
            held=held,
            seconds_left=max(0.0, round(self._ends_at - monotonic(), 1)) if ends else None,
        )
