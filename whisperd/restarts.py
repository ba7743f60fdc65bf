"""How often worker processes were replaced since the start, why, and how often of late."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from time import monotonic, time

from msgspec import Struct

from whisperd.moment import written

PLANNED = "memory"  # replaced between two chunks for its size, as the operator wants it
# Ended with its task, since it did not stop at once: that was cancelled, or took its time.
CANCELLED, TIMEOUT = "cancelled", "timeout"
BLAMELESS = frozenset({PLANNED, CANCELLED, TIMEOUT})  # says nothing of the worker's health
LATELY = 900.0  # seconds
_REMEMBERED = 1000  # of the latest


class Restart(Struct, frozen=True):
    cause: str
    at: str  # RFC 3339, UTC


class Restarts:
    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._latest: deque[tuple[float, str]] = deque(maxlen=_REMEMBERED)
        self.by_cause: Counter[str] = Counter()
        self.last: Restart | None = None

    def note(self, cause: str) -> None:
        self.by_cause[cause] += 1
        self._latest.append((self._now(), cause))
        self.last = Restart(cause, written(time()))

    def lately(self) -> Counter[str]:
        """Those of the last quarter of an hour that say something of the workers, by cause."""
        since = self._now() - LATELY
        return Counter(cause for at, cause in self._latest if at > since and cause not in BLAMELESS)
