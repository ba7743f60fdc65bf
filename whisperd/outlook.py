"""The outlook: when each task is thought to begin and to be over, for whoever asks.

A forecast is made when somebody asks, off the loop where many wait, and then so seldom that all of them
together take a small part of the time; in between the last one is asked again. So a daemon that nobody asks
pays nothing for it, and one with 100,000 tasks in line little. The same holds for the late times and for the
plays with a file that is not sent yet. Who submits waits for one PATIENCE at most. Nothing is known before
a chunk was measured, nor while none is handed out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import ceil, inf
from time import monotonic, time
from typing import NamedTuple, Protocol

import structlog
from msgspec.structs import replace

from whisperd.aside import LITTLE, worked_out
from whisperd.events import Event, Events, tells_an_end
from whisperd.forecast.line import Forecast, InWork, Line, Span, Standing
from whisperd.forecast.play import forecast
from whisperd.forecast.speeds import FULL_CHUNK, Measurements, Speeds
from whisperd.task import FINAL, PLAN, Chunk, State, Task

log = structlog.get_logger(__name__)
REST = 20  # times as long as the last forecast took nobody makes another one
OLD = 10.0  # seconds after which a forecast knows nothing of the line any more
PATIENCE = 0.05  # seconds that a submission waits for another one then: that of a short line takes less
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


class Foretold(NamedTuple):
    """What is told of each task, however many are asked for."""

    place: int | None  # in line, from 1
    eta: float | None  # seconds until it is over; None where that is not known, or has happened


class Prospect(NamedTuple):
    """When a task begins and ends: as work mostly goes, and were all of it as slow as the slowest tenth."""

    likely: Span
    late: Span
    before: Mapping[int, int] | None = None  # by priority, how many begin before it does


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
        self._slow: Forecast | None = None  # of the same, once somebody asked how late it may be
        self._painting = asyncio.Lock()
        self._wanted = asyncio.Event()  # a new forecast
        self._renewed = asyncio.Event()  # of those who wait for the next one; each has an event of its own
        self._rests_until = -inf  # monotonic
        self._estimates_rest_until = -inf

    async def foretold(self, tasks: Sequence[Task], places: Sequence[int | None]) -> Sequence[Foretold]:
        """`places`: by priority and order alone, None of what does not stand in line.

        They become those of the forecast where it is new enough and has the task.
        """
        if not all(task.state in FINAL for task in tasks):
            await self._look()
        return [
            Foretold(self._place(task, place), self._eta(task, place))
            for task, place in zip(tasks, places, strict=True)
        ]

    async def foretold_soon(self, task: Task, place: int | None) -> Foretold:
        """The same of a task that has just come: who submits waits PATIENCE for it at most, and seldom.

        No end where the last forecast is too old to know what stands before it, and no other is made by then.
        """
        self._wanted.set()
        if not self._works or not self._speeds().knows(task.model):
            return Foretold(place, None)
        await self._next_one()  # the last one does not know it
        is_guess = self._is_old and place != 1
        return Foretold(self._place(task, place), None if is_guess else self._eta(task, place))

    async def prospect(self, task: Task, place: int | None) -> Prospect | None:
        """None where nothing is known of it, or it is over."""
        await self._look()
        picture, forecast, likely = self._last, self._forecast, self._span(task, place)
        if picture is None or forecast is None or likely is None:
            return None
        before = None if self._is_old else picture.before(forecast, task.seq, self._now())
        return _prospect(likely, picture.span(await self._slow_of(picture), task, place, self._now()), before)

    async def prospect_of_new(self, task: Standing) -> Prospect | None:
        """As if it came now; its `seq` is NEWEST. None where nothing is known of it.

        Played with it, where the last such play has had its rest; else put behind what goes before it in the
        last forecast, which costs next to nothing.
        """
        if not self._works or not self._speeds().knows(task.model):
            return None
        if self._painting.locked() or monotonic() < self._estimates_rest_until:
            await self._look()
            return self._behind(task)
        async with self._painting:
            began = monotonic()
            picture = await self._picture((task.priority, task.tenant))
            if picture is None:
                return None
            picture = picture.with_one_more(task)
            likely, slow = await asyncio.to_thread(lambda: (picture.played(), picture.played(slow=True)))
            self._estimates_rest_until = monotonic() + REST * (monotonic() - began)
        begun = likely.spans.get(NEWEST)
        return _prospect(begun, slow.spans.get(NEWEST)) if begun else None

    async def paint(self) -> None:
        """Make the forecasts that those who submit do not wait for."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(self._rests_until - monotonic())
            self._wanted.clear()  # before looking, never after: else a submission can be missed
            await self._renew()

    def length(self, task: Standing) -> float:
        """Seconds of audio that it is thought to have."""
        return self._speeds().length(task)

    def promise(self, task_id: str, seconds: float | None) -> None:
        """What was said when it was submitted is held against what comes."""
        if seconds is None:
            return
        self._promises[task_id] = seconds
        if len(self._promises) > MOST_PROMISES:  # the end of the oldest was missed, most likely
            del self._promises[next(iter(self._promises))]

    async def follow(self, events: Events) -> None:
        """Find out what became of the promises. Those that a restart, or a missed event, leaves are lost."""

        def is_promised(event: Event) -> bool:
            return tells_an_end(event) and event.task.id in self._promises

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

    @property
    def _works(self) -> bool:
        return not self._pool.paused and self._pool.at_hand > 0

    def _speeds(self) -> Speeds:
        return self._queue.measurements.speeds()

    @property
    def _is_old(self) -> bool:
        return self._forecast is None or self._now() - self._forecast.now > OLD

    async def _next_one(self) -> None:
        """`paint` makes it, and goes on with it when nobody waits any more. Its rest is not waited for."""
        if self._rests_until <= monotonic():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._renewed.wait(), PATIENCE)

    async def _look(self) -> None:
        """Have a forecast that is new enough."""
        if not (self._painting.locked() and self._forecast is not None):  # else the last one will do
            await self._renew()

    async def _renew(self) -> None:
        async with self._painting:
            began = monotonic()
            if began >= self._rests_until:
                self._last, self._forecast = await self._made()
                self._slow = None
                self._rest_since(began)
                self._renewed.set()
                self._renewed = asyncio.Event()

    def _rest_since(self, began: float) -> None:
        self._rests_until = monotonic() + REST * (monotonic() - began)

    async def _slow_of(self, picture: _Picture) -> Forecast | None:
        """Played once for each picture, whoever asks; None if there is a newer one by then."""
        async with self._painting:
            if picture is self._last and self._slow is None:
                began = monotonic()
                self._slow = await asyncio.to_thread(picture.played, slow=True)
                self._rest_since(began)
            return self._slow if picture is self._last else None

    async def _made(self) -> tuple[_Picture | None, Forecast | None]:
        try:
            picture = await self._picture()
            if picture is None:
                return None, None
            return picture, await worked_out(picture.played, picture.pieces)
        except Exception:  # an edge: a task that was accepted is not refused for want of a forecast
            log.exception("there is no forecast")
            return None, None

    async def _picture(self, also: tuple[int, str] | None = None) -> _Picture | None:
        speeds = self._speeds()
        if not self._works or not speeds.known:
            return None
        line = await self._queue.line(also)
        held = {(chunk.task.seq, chunk.number): chunk.claimed_at for chunk in self._pool.held()}
        return _Picture(line, speeds, self._pool.at_hand, held)

    def _place(self, task: Task, place: int | None) -> int | None:
        if place is None or self._forecast is None or self._is_old:
            return place
        ahead = self._forecast.ahead(task.seq, self._now())
        return place if ahead is None else ahead + 1

    def _eta(self, task: Task, place: int | None) -> float | None:
        span = self._span(task, place)
        return None if span is None else max(0.0, span.ends - self._now())

    def _span(self, task: Task, place: int | None) -> Span | None:
        if self._last is None or self._forecast is None or task.state in FINAL:
            return None
        return self._last.span(self._forecast, task, place, self._now())

    def _behind(self, task: Standing) -> Prospect | None:
        picture, forecast = self._last, self._forecast
        if picture is None or forecast is None:
            return None
        likely = picture.behind(forecast, task, self._now())
        return _prospect(likely, picture.behind(self._slow or forecast, task, self._now()))


class _Picture(NamedTuple):
    """All that a forecast is made from."""

    line: Line
    speeds: Speeds
    workers: int
    claimed_at: Mapping[tuple[int, int], float]  # by seq and number, of the chunks in work

    @property
    def pieces(self) -> int:
        """To play: a long file is as many claims as it has chunks, ten of which are like a short task."""
        tasks = self.line.tasks
        if len(tasks) > LITTLE:
            return len(tasks)
        return sum(1 + int(self.speeds.length(task) / (10 * FULL_CHUNK)) for task in tasks)

    def played(self, *, slow: bool = False) -> Forecast:
        """Takes milliseconds where many tasks wait, some hundred with thousands: call that on a thread."""
        tasks = {task.seq: task for task in self.line.tasks}
        in_work = []
        for chunk in self.line.running:
            since = self.line.now - self.claimed_at.get((chunk.task, chunk.number), self.line.now)
            left = self.speeds.left(tasks[chunk.task], chunk, since, slow=slow)
            in_work.append(InWork(chunk.task, chunk.number == PLAN, left))
        return forecast(self.line, self.workers, in_work, lambda task: self.speeds.work(task, slow=slow))

    def with_one_more(self, task: Standing) -> _Picture:
        return self._replace(line=replace(self.line, tasks=[*self.line.tasks, task]))

    def span(self, forecast: Forecast | None, task: Task, place: int | None, now: float) -> Span | None:
        """`place`: in line, from 1."""
        if forecast is None or not self.speeds.knows(task.model):
            return None
        if place is None or task.seq in forecast.spans:
            return forecast.spans.get(task.seq)
        begins = max(now, forecast.begins_behind(place - 1, now))
        return Span(begins, begins + self._seconds_alone(_standing(task)))

    def before(self, forecast: Forecast, seq: int, now: float) -> Mapping[int, int] | None:
        """By priority, how many begin before it does; None where that is not known."""
        found = forecast.before(seq, now)
        if found is None:
            return None
        priorities = {task.seq: task.priority for task in self.line.tasks}
        return Counter(priorities[seq] for seq in found)

    def behind(self, forecast: Forecast, task: Standing, now: float) -> Span:
        """Of a task that would come now: behind those of its priority, or before them, as the order is."""
        least = task.priority + (0 if self.line.fifo else 1)
        ahead = sum(one.priority >= least and not one.started for one in self.line.tasks)
        begins = max(now, task.run_at or now, forecast.begins_behind(ahead, now))
        return Span(begins, begins + self._seconds_alone(task))

    def _seconds_alone(self, task: Standing) -> float:
        """With all workers at it."""
        work = self.speeds.work(task)
        return (work.plan or 0.0) + ceil(work.chunks / self.workers) * work.each


def _standing(task: Task) -> Standing:
    """One that nobody has begun."""
    audio = task.audio
    return Standing(
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


def _prospect(likely: Span, slow: Span | None, before: Mapping[int, int] | None = None) -> Prospect:
    """Played with other speeds, one that is overtaken less may even end earlier: then that says nothing."""
    late = slow or likely
    late = Span(max(likely.begins, late.begins), max(likely.ends, late.ends))
    return Prospect(likely, late, before)
