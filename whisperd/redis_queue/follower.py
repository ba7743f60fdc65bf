"""What happens to jobs on other hosts, told to the listeners of this one.

Reads BullMQ's stream of events from the place where it left off. Events are hints: of what was trimmed from
the stream while Redis was away nothing is heard, and whoever must not miss it asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from whisperd.events import Event, Events
from whisperd.redis_queue import formats
from whisperd.redis_queue.board import Board
from whisperd.task import QueueAway

AWAY_SECONDS = 1.0


class Follower:
    def __init__(self, board: Board, events: Events, holds: Callable[[str], bool]) -> None:
        """`holds`: whether this host runs a task, and so tells of it itself."""
        self._board = board
        self._events = events
        self._holds = holds

    async def run(self) -> None:
        """For ever."""
        place = "$"
        while True:
            try:
                place, ids = await self._board.news(place)
                for job_id in ids:
                    await self._tell(job_id)
            except QueueAway:
                await asyncio.sleep(AWAY_SECONDS)

    async def _tell(self, job_id: str) -> None:
        seen = await self._board.look(job_id)
        if seen is not None and not self._holds((task := formats.shown(seen)).id):
            self._events.publish(Event("task", task))
