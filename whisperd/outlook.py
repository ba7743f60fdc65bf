"""The outlook: when each task is thought to begin and to be over, for whoever asks.

A forecast is made when somebody asks, off the loop, and then so seldom that all of them together take a
small part of the time; in between the last one is asked again. So a daemon that nobody asks pays nothing for
it, and one with 100,000 tasks in line little. Nothing is known before a chunk was measured, nor while none is
handed out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from math import ceil, inf
from time import monotonic, time
from typing import NamedTuple, Protocol

import structlog
from msgspec.structs import replace

from whisperd.events import Event, Events
from whisperd.forecast.line import Forecast, InWork, Line, Span, Standing
from whisperd.forecast.play import forecast
from whisperd.forecast.speeds import Measurements, Speeds
from whisperd.task import FINAL, PLAN, Chunk, State, Task

log = structlog.get_logger(__name__)
REST = 20  # times as long as the last forecast took nobody makes another one
MOST_PROMISES = 10_000  # tasks whose first estimate is remembered
NEWEST = 2**62  # the seq of a task that is only thought of


class Hands(Protocol):
    """What matters of the pool."""

    @property
    def paused(self) -> bool: ...
    @property
    def at_hand(self) -> int: ...  # workers that take chunks
    def held(self) -> Sequence[Chunk]: ...


class Queue(Protocol):
    measurements: Measurements

    async def line(self, also: tuple[int, str] | None = None) -> Line: ...


class Prospect(NamedTuple):
    """When a task begins and ends: as work mostly goes, and were all of it as slow as the slowest tenth."""

    likely: Span
    late: Span


class Outlook:
    def __init__(
        self,
        queue: Queue,
        pool: Hands,
        now: Callable[[], float] = time,
        missed: Callable[[float], None] = lambda part: None,
    ) -> None:
        """`missed` is told of each promise, when its task is completed, by what part of the time it erred."""
        self._queue = queue
        self._pool = pool
        self._now = now
        self._missed = missed
        self._promises: dict[str, float] = {}  # seconds from its submission to its end, by the id of the task
        self._last: _Picture | None = None
        self._forecast: Forecast | None = None  # of the last picture
        self._painting = asyncio.Lock()
        self._rests_until = -inf  # monotonic

    async def etas(self, tasks: Sequence[Task], places: Sequence[int | None]) -> Sequence[float | None]:
        """Seconds until each is over; None where that is not known, or has happened. `places`: in line."""
        if all(task.state in FINAL for task in tasks):
            return [None] * len(tasks)
        await self._look()
        return [self._eta(task, place) for task, place in zip(tasks, places, strict=True)]

    async def prospect(self, task: Task, place: int | None) -> Prospect | None:
        """None where nothing is known of it, or it is over."""
        await self._look()
        picture, likely = self._last, self._span(task, place)
        if picture is None or likely is None:
            return None
        async with self._painting:
            slow = await asyncio.to_thread(picture.played, slow=True)
        return _prospect(likely, picture.span(slow, task, place))

    async def prospect_of_new(self, task: Standing) -> Prospect | None:
        """As if it came now; its `seq` is NEWEST. None where nothing is known of it."""
        async with self._painting:
            picture = await self._picture((task.priority, task.tenant))
            if picture is None or not picture.speeds.knows(task.model):
                return None
            picture = picture.with_one_more(task)
            likely, slow = await asyncio.to_thread(lambda: (picture.played(), picture.played(slow=True)))
        begun = likely.spans.get(NEWEST)
        return _prospect(begun, slow.spans.get(NEWEST)) if begun else None

    def length(self, task: Standing) -> float:
        """Seconds of audio that it is thought to have."""
        return self._queue.measurements.speeds().length(task)

    def promise(self, task_id: str, seconds: float | None) -> None:
        """What was said when it was submitted is held against what comes."""
        if seconds is not None and len(self._promises) < MOST_PROMISES:
            self._promises[task_id] = seconds

    async def follow(self, events: Events) -> None:
        """Find out what became of the promises. Those that a restart, or a missed event, leaves are lost."""

        def is_promised(event: Event) -> bool:
            return event.kind == "task" and event.task.state in FINAL and event.task.id in self._promises

        while not events.closed:
            with events.subscribe(wants=is_promised) as subscription:
                async for event in subscription:
                    self._hold(event.task)

    def _hold(self, task: Task) -> None:
        promised = self._promises.pop(task.id, None)
        if promised is not None and task.state == State.COMPLETED and task.finished_at is not None:
            took = max(0.001, task.finished_at - task.created_at)
            self._missed(abs(promised - took) / took)

    # --- the forecast ---

    async def _look(self) -> None:
        """Have a forecast that is new enough."""
        if self._painting.locked() and self._forecast is not None:
            return  # one is on its way
        async with self._painting:
            began = monotonic()
            if began < self._rests_until:
                return
            self._forecast = await self._made()
            self._rests_until = monotonic() + REST * (monotonic() - began)

    async def _made(self) -> Forecast | None:
        try:
            self._last = await self._picture()
            return await asyncio.to_thread(self._last.played) if self._last else None
        except Exception:  # an edge: a task that was accepted is not refused for want of a forecast
            log.exception("there is no forecast")
            return None

    async def _picture(self, also: tuple[int, str] | None = None) -> _Picture | None:
        speeds = self._queue.measurements.speeds()
        if self._pool.paused or not self._pool.at_hand or not speeds.known:
            return None
        line = await self._queue.line(also)
        held = {(chunk.task.seq, chunk.number): chunk.claimed_at for chunk in self._pool.held()}
        return _Picture(line, speeds, self._pool.at_hand, held)

    def _eta(self, task: Task, place: int | None) -> float | None:
        span = self._span(task, place)
        return None if span is None else max(0.0, span.ends - self._now())

    def _span(self, task: Task, place: int | None) -> Span | None:
        if self._last is None or self._forecast is None or task.state in FINAL:
            return None
        return self._last.span(self._forecast, task, place)


class _Picture(NamedTuple):
    """All that a forecast is made from."""

    line: Line
    speeds: Speeds
    workers: int
    claimed_at: Mapping[tuple[int, int], float]  # by seq and number, of the chunks in work

    def played(self, *, slow: bool = False) -> Forecast:
        """Takes milliseconds, with many tasks some hundred of them: call it on a thread."""
        tasks = {task.seq: task for task in self.line.tasks}
        in_work = []
        for chunk in self.line.running:
            since = self.line.now - self.claimed_at.get((chunk.task, chunk.number), self.line.now)
            left = self.speeds.left(tasks[chunk.task], chunk, since, slow=slow)
            in_work.append(InWork(chunk.task, chunk.number == PLAN, left))
        return forecast(self.line, self.workers, in_work, lambda task: self.speeds.work(task, slow=slow))

    def with_one_more(self, task: Standing) -> _Picture:
        return self._replace(line=replace(self.line, tasks=[*self.line.tasks, task]))

    def span(self, forecast: Forecast, task: Task, place: int | None) -> Span | None:
        """`place`: in line, from 1."""
        if not self.speeds.knows(task.model):
            return None
        if place is None or task.seq in forecast.spans:
            return forecast.spans.get(task.seq)
        begins = forecast.begins_behind(place - 1)
        return Span(begins, begins + self._seconds_alone(task))

    def _seconds_alone(self, task: Task) -> float:
        """With all workers at it."""
        audio = task.audio
        standing = Standing(
            seq=task.seq,
            tenant=task.tenant,
            priority=task.priority,
            started=False,
            lined_at=task.created_at,
            model=task.model,
            name=audio.name,
            size=audio.size,
            seconds=audio.duration,
        )
        work = self.speeds.work(standing)
        return (work.plan or 0.0) + ceil(work.chunks / self.workers) * work.each


def _prospect(likely: Span, slow: Span | None) -> Prospect:
    """Played with other speeds, one that is overtaken less may even end earlier: then that says nothing."""
    late = slow or likely
    return Prospect(likely, Span(max(likely.begins, late.begins), max(likely.ends, late.ends)))
