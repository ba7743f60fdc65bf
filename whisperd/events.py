"""In-process fan-out. Publishing never waits: a subscriber that falls behind is dropped.

Events are hints; the tables are the truth. Whoever must not miss anything looks there after a hint.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Literal

from msgspec import Raw, Struct, field

from whisperd.task import FINAL, Segment, Task

BACKLOG = 256  # events a subscriber may be behind
FEW = 100  # tasks that a subscriber is found by; one who named more is asked at each publication


class Event(Struct, frozen=True):
    """`task`: its state changed. `progress`: it went on. `segment`: chunk `number` brought these.

    `finding`: risk detection found these. `left`: another host has the task, which was as it is told; who
    waits for it asks the queue.
    """

    kind: Literal["task", "progress", "segment", "finding", "left"]
    task: Task
    number: int = 0
    segments: Sequence[Segment] = ()
    findings: Sequence[Raw] = ()  # JSON
    words: list[str] = field(default_factory=list)  # as the first listener put it, for all others to repeat


def tells_an_end(event: Event) -> bool:
    """Of what is told with the last chunk of a task, one event alone does."""
    return event.kind == "task" and event.task.state in FINAL


class Subscription:
    """An endless iteration over events, until `end`, or until its reader has fallen too far behind."""

    def __init__(self, task_id: str | None, wants: Callable[[Event], bool]) -> None:
        self.task_id = task_id
        self.found_by: Collection[str] = () if task_id is None else (task_id,)  # ids of tasks; none: by all
        self._wants = wants
        self.fell_behind = False
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def offer(self, event: Event) -> bool:
        """Take the event, if it is wanted, and return True; or, when too far behind, end and return False."""
        if self.task_id not in (None, event.task.id) or not self._wants(event):
            return True
        if self._queue.qsize() < BACKLOG:
            self._queue.put_nowait(event)
            return True
        self.fell_behind = True
        self.end()
        return False

    def end(self) -> None:
        self._queue.put_nowait(None)  # the reader drains what it has, then stops

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self._queue.get()) is not None:
            yield event

    async def next(self, seconds: float | None) -> Event | None:
        """The next event; None at the end. Raises TimeoutError when the seconds are over; None: never."""
        async with asyncio.timeout(seconds):
            return await self._queue.get()


class Events:
    def __init__(self) -> None:
        self._all: set[Subscription] = set()
        self._by_task: dict[str, set[Subscription]] = {}
        self.closed = False

    def publish(self, event: Event) -> None:
        about = [self._by_task.get(name or "", ()) for name in (event.task.id, event.task.transcript)]
        for subscription in {*self._all, *chain(*about)}:
            if not subscription.offer(event):
                self._discard(subscription)

    def close(self) -> None:
        """End every stream, and every one opened later; an open one would keep the server from stopping."""
        self.closed = True
        for subscription in {*self._all, *chain(*self._by_task.values())}:
            subscription.end()

    @contextmanager
    def subscribe(
        self, task_id: str | None = None, wants: Callable[[Event], bool] = lambda event: True
    ) -> Iterator[Subscription]:
        """Hear of one task, or of all: 500 listeners on other tasks cost a publication nothing.

        What it does not `wants` does not wake the listener, nor does it fall behind for it. Asked at each
        publication: it has to be quick, and must not raise.
        """
        subscription = Subscription(task_id, wants)
        self._enter(subscription)
        if self.closed:
            subscription.end()
        try:
            yield subscription
        finally:
            self._discard(subscription)

    def narrow(self, subscription: Subscription, task_ids: Collection[str]) -> None:
        """It wants to hear of these tasks alone, and of what looks through their transcripts.

        So the publications of others cost nothing for it. Of many ids each would take memory: see FEW.
        """
        if not subscription.fell_behind:
            self._discard(subscription)
            subscription.found_by = tuple(task_ids) if len(task_ids) <= FEW else ()
            self._enter(subscription)

    def _enter(self, subscription: Subscription) -> None:
        if not subscription.found_by:
            self._all.add(subscription)
        for task_id in subscription.found_by:
            self._by_task.setdefault(task_id, set()).add(subscription)

    def _discard(self, subscription: Subscription) -> None:
        self._all.discard(subscription)
        for task_id in subscription.found_by:
            room = self._by_task.get(task_id, set())
            room.discard(subscription)
            if not room:
                self._by_task.pop(task_id, None)
