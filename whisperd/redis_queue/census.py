"""How the queues that hosts share stand, looked at now and then.

/health, /metrics and /stats wait for no Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from whisperd.job import Depth
from whisperd.redis_queue.boards import Boards
from whisperd.redis_queue.tally import Tally
from whisperd.task import QueueAway

LOOK_SECONDS = 5.0


class Census:
    def __init__(self, boards: Boards) -> None:
        self._boards = boards
        self.depths: Mapping[str, Depth] = {}  # by queue, as it was at the last look that had an answer
        self.tally: Tally | None = None  # as it was then; None: there was no answer yet

    async def run(self) -> None:
        """For ever."""
        while True:
            with suppress(QueueAway):
                self.depths = await self._boards.depths()
                self.tally = await self._boards.tally()
            await asyncio.sleep(LOOK_SECONDS)
