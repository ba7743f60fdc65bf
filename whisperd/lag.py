"""How much the event loop lags: a timer is set again and again, and it is looked how late it comes.

What blocks the loop, a handler that computes or a machine that swaps, holds up everybody who waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic

EACH = 1.0  # seconds between two looks
REMEMBERED = 60.0  # seconds


class Lag:
    """Remembers the worst of the last minute. `lagged` is told every one, in seconds."""

    def __init__(
        self, lagged: Callable[[float], None] = lambda seconds: None, now: Callable[[], float] = monotonic
    ) -> None:
        self._lagged = lagged
        self._now = now
        self._seen: deque[tuple[float, float]] = deque()  # when, how much: each less than those before it

    async def follow(self) -> None:
        while True:
            due = self._now() + EACH
            await asyncio.sleep(EACH)
            self.note(max(0.0, self._now() - due))

    def note(self, seconds: float) -> None:
        self._lagged(seconds)
        while self._seen and self._seen[-1][1] <= seconds:
            self._seen.pop()
        self._seen.append((self._now(), seconds))

    def worst(self) -> float:
        """Seconds, of the last minute."""
        while self._seen and self._seen[0][0] < self._now() - REMEMBERED:
            self._seen.popleft()
        return self._seen[0][1] if self._seen else 0.0
