"""What happens to jobs on other hosts, told to the listeners of this one.

Reads BullMQ's stream of events from the place where it left off. Events are hints: of what was trimmed from
the stream while Redis was away nothing is heard, and whoever must not miss it asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from whisperd.events import Event, Events
from whisperd.redis_queue import formats
from whisperd.redis_queue.board import Board
from whisperd.redis_queue.boards import Boards
from whisperd.redis_queue.ledger import Ledger
from whisperd.task import QueueAway, State, StorageBusy, StorageFailed, StorageFull

AWAY_SECONDS = 1.0


class Follower:
    def __init__(self, boards: Boards, ledger: Ledger, events: Events, holds: Callable[[str], bool]) -> None:
        """`holds`: whether this host runs a task, and so tells of it itself."""
        self._boards = boards.each()
        self._ledger = ledger
        self._events = events
        self._holds = holds

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            for name, board in self._boards.items():
                group.create_task(self._follow(board), name=f"follow {name}")

    async def _follow(self, board: Board) -> None:
        place = "$"
        while True:
            try:
                place, changed, ended = await board.news(place)
                await board.note([*changed, *ended])
                for job_id in changed:
                    await self._tell(board, job_id)
                if ended:
                    await self._forget(board, ended)
            except QueueAway:
                await asyncio.sleep(AWAY_SECONDS)

    async def _forget(self, board: Board, ended: Sequence[str]) -> None:
        """They need not be added again, whatever Redis loses. What cannot be written is found by `recall`."""
        standing = zip(ended, await board.standing(ended), strict=True)
        over = [job_id for job_id, state in standing if state != "open"]  # which was retried since
        with suppress(StorageFull, StorageBusy, StorageFailed):
            await self._ledger.over(over)

    async def _tell(self, board: Board, job_id: str) -> None:
        seen = await board.look(job_id)
        if seen is None:
            return
        *looks, transcription = formats.all_shown(seen)
        if self._holds(transcription.id):
            return
        self._events.publish(Event("task", transcription))
        if transcription.state is not State.PROCESSING:  # while it is at work they wait
            for look in looks:
                self._events.publish(Event("task", look))
