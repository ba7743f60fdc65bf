"""Residency: which model a worker has loaded, how long it keeps to it, and when it lets go of it.

To load another costs from a tenth of a second to many; to keep one that nobody asks for costs memory, the
GPU's too. Knows neither the child nor the queue.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic

from whisperd.orders import Model


class Residency:
    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self.name: str | None = None  # of the model that its child has, or is loading
        self.model: Model | None = None  # that its child has
        self._in_turn_at = -inf  # when it last took what was first in line, whatever the model
        self._worked_at = now()
        self.asleep = False  # without a child until there is work
        self.wanted: str | None = None  # the model to wake with
        self._tempted_at = self._looked_at = -inf  # to wake: since when, and lately

    def holds(self, name: str, model: Model) -> None:
        self.name, self.model = name, model

    def loses(self) -> None:
        """Its child is gone."""
        self.model = None

    def stays(self, affinity_seconds: float) -> bool:
        """Whether it may pass over tasks with another model: so long after it last took what was first."""
        return self._now() - self._in_turn_at < affinity_seconds

    def claimed(self, affinity_seconds: float) -> None:
        """A chunk; the first in line if it had to be."""
        if not self.stays(affinity_seconds):
            self._in_turn_at = self._now()

    def worked(self) -> None:
        self._worked_at = self._now()

    def idle_left(self, ttl_seconds: float) -> float:
        """The seconds until it should let go of its model, endless if `ttl_seconds` is 0."""
        return max(0.0, self._worked_at + ttl_seconds - self._now()) if ttl_seconds else inf

    def fall_asleep(self) -> None:
        self.asleep, self.name, self.wanted = True, None, None

    def tempted(self, patience_seconds: float, every: float) -> bool:
        """Whether to wake, asleep, for work that nobody takes: asked anew within `every`, so long."""
        now = self._now()
        if now - self._looked_at > every:
            self._tempted_at = now
        self._looked_at = now
        return now - self._tempted_at >= patience_seconds

    def wake(self, model: str | None) -> None:
        self.asleep, self.wanted = False, model
        self.worked()
