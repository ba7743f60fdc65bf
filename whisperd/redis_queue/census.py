"""How the queues that hosts share stand, looked at now and then: /health and /metrics wait for no Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from whisperd.job import Depth
from whisperd.redis_queue.boards import Boards
from whisperd.task import QueueAway

LOOK_SECONDS = 5.0


class Census:
    def __init__(self, boards: Boards) -> None:
        self._boards = boards
        self.depths: Mapping[str, Depth] = {}  # by queue, as it was at the last look that had an answer

    async def run(self) -> None:
        """For ever."""
        while True:
            with suppress(QueueAway):
                self.depths = await self._boards.depths()
            await asyncio.sleep(LOOK_SECONDS)
