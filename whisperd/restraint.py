"""Which slots rest because memory ran out, for which chunk, and when they work again.

Knows neither children nor the queue. A slot is its number, a chunk a key; time is the monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import monotonic

_REMEMBERED = 1000  # chunks that ran out of memory and were not heard of again


class Restraint:
    """One slot rests each time memory runs out, and one works again after each `calm_seconds` without."""

    def __init__(self, calm_seconds: float, now: Callable[[], float] = monotonic) -> None:
        self.calm_seconds = calm_seconds
        self._now = now
        self._resting: dict[int, Hashable] = {}  # slot: the chunk it rests for; the longest first
        self._suspects: dict[Hashable, int] = {}  # how often memory ran out over it; the latest last
        self._changed_at = 0.0  # when memory ran out, or a slot was woken, last

    def suspect(self, chunk: Hashable) -> int:
        """Note that memory ran out over this chunk; how often it has by now."""
        self._changed_at = self._now()
        times = self._suspects.pop(chunk, 0) + 1
        self._suspects[chunk] = times
        if len(self._suspects) > _REMEMBERED:
            del self._suspects[next(iter(self._suspects))]
        return times

    def acquit(self, chunk: Hashable) -> None:
        """The chunk went well, or ended: it is suspected no more."""
        self._suspects.pop(chunk, None)

    def convict(self, chunk: Hashable) -> None:
        """It was the chunk itself: whoever rests for it need not."""
        self.acquit(chunk)
        for slot in [slot for slot, cause in self._resting.items() if cause == chunk]:
            del self._resting[slot]

    def rest(self, slot: int, chunk: Hashable) -> None:
        self._resting.setdefault(slot, chunk)
        self._changed_at = self._now()

    def forget(self, slot: int) -> None:
        self._resting.pop(slot, None)

    def rests(self, slot: int) -> bool:
        while self._resting and self._now() - self._changed_at >= self.calm_seconds:
            del self._resting[next(iter(self._resting))]
            self._changed_at += self.calm_seconds
        return slot in self._resting

    def seconds_left(self) -> float:
        """Until the next slot is woken, if memory does not run out before."""
        return max(0.0, self._changed_at + self.calm_seconds - self._now())
