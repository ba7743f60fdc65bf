"""What becomes of the statistics: a row a minute for a week, for charts that outlive a restart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from time import time
from typing import Any

from whisperd.db import Database
from whisperd.sql import minutes

MINUTE = minutes.MINUTE
KEPT_HOURS = minutes.KEPT_SECONDS // 3600


class Minutes:
    """Every verb is safe to cancel: it is done whole or not at all. They raise what Database does."""

    def __init__(self, db: Database, now: Callable[[], float] = time) -> None:
        self._db = db
        self._now = now

    async def record(self, gauges: Mapping[str, float | None]) -> None:
        """The minute that is over, with busy (0 to 1) and bytes: rss, gpu, free. No idle one is kept."""
        await self._db.write(minutes.record, gauges, self._now())

    async def points(self, hours: float, most: int) -> tuple[int, Sequence[dict[str, Any]]]:
        """Seconds between two, whole minutes, and at most so many points, with none of what was idle."""
        step = MINUTE * max(1, ceil(hours * 3600 / most / MINUTE))
        began = self._now() - hours * 3600
        since = (int(began) // MINUTE + 1) * MINUTE  # so that the last point is as long as the others
        return step, await self._db.read(minutes.points, since, step)
