"""How often each tenant may submit: a minute's worth at once, then one after the other at an even pace.

The generic cell rate algorithm (ITU-T I.371), which needs one number a tenant.
Knows neither requests nor plans. Time is the monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Protocol

from whisperd.task import RateLimited

MINUTE = 60.0  # seconds


class Pacing(Protocol):
    """Whoever counts the submissions: this host alone, or all that share a queue."""

    async def count(self, tenant: str, per_minute: int) -> None: ...  # raises RateLimited; 0: no limit


class Pace:
    """Remembers tenants until their minute is full again, and at most `most` of them.

    Beyond `most` those are forgotten that have used least of their minute.
    """

    def __init__(
        self, now: Callable[[], float] = monotonic, most: int = 10_000, of: str = "submissions"
    ) -> None:
        self._now = now
        self._of = of
        self._most = most
        self._full_at: dict[str, float] = {}  # when the tenant may submit a minute's worth at once again

    def take(self, tenant: str, per_minute: int) -> None:
        """Count a submission. Raises RateLimited, and counts nothing, if it comes too early; 0: no limit."""
        if per_minute <= 0:
            return
        self._full_at[tenant] = self._after_one_more(tenant, per_minute)
        if len(self._full_at) > self._most:
            self._forget(self._now())

    async def count(self, tenant: str, per_minute: int) -> None:
        """As `take`."""
        self.take(tenant, per_minute)

    def check(self, tenant: str, per_minute: int) -> None:
        """Raises RateLimited as `take` would now, and counts nothing."""
        self._after_one_more(tenant, per_minute)

    def _after_one_more(self, tenant: str, per_minute: int) -> float:
        now, each = self._now(), MINUTE / per_minute
        full_at = max(now, self._full_at.get(tenant, now)) + each
        if (early := full_at - now - MINUTE) > 1e-6:  # what floats lose
            raise RateLimited(f"at most {per_minute} {self._of} a minute", early)
        return full_at

    def _forget(self, now: float) -> None:
        """Half of them at once, so that a stream of names costs each of them little."""
        busiest = sorted(self._full_at.items(), key=lambda item: item[1])[-self._most // 2 :]
        self._full_at = {tenant: full_at for tenant, full_at in busiest if full_at > now}
