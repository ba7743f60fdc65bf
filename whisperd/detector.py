"""The detector: one coroutine that has transcripts looked through, one after the other.

Works beside the workers, who need their models: its tasks have a line of their own (sql/looks.py). What a
search takes is limited by its process (searcher.py); whatever it does costs its task, never the transcript,
and what nobody thought of no more than that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import TypeVar

import msgspec
import structlog

from whisperd.counts import Counts
from whisperd.detections import Detections
from whisperd.events import Event, Events, tells_an_end
from whisperd.look import MISSING, Look, Outcome, Said
from whisperd.risk_protocol import Found, NoMemory, Search, Wrong
from whisperd.searcher import CRASHED, OUT_OF_MEMORY, Searcher, SearchFailed
from whisperd.task import FINAL, Kind, LostClaim, Problem, State, StorageBusy, StorageFailed, StorageFull

log = structlog.get_logger(__name__)
LOOK_SECONDS = 60.0  # between two looks for a task, at most
PAUSED_SECONDS = 0.5  # between two looks whether it goes on
REST_SECONDS = 2.0  # between two looks at a call that runs,
REST = 20  # and at least so many times what the last one took
MOST_TRIES = 3  # of a search whose process dies, whatever its task allows: others wait behind it
STORAGE_SECONDS = 5.0  # until storage that failed is tried again
BROKEN = Problem("internal_error", "whisperd failed on this task; its log says why")

T = TypeVar("T")
_TROUBLES = (StorageFull, StorageBusy, StorageFailed)


class Detector:
    def __init__(
        self,
        detections: Detections,
        searcher: Searcher,
        events: Events,
        counts: Counts,
        max_seconds: Callable[[], float],
        paused: Callable[[], bool],
    ) -> None:
        self._detections = detections
        self._searcher = searcher
        self._events = events
        self._counts = counts
        self._max_seconds = max_seconds
        self._paused = paused
        self._news: dict[str, float] = {}  # ids of transcriptions that have more: when to look, monotonic
        self._rests: dict[str, float] = {}  # until when those are left alone that were looked at
        self._wake = asyncio.Event()
        self._any_waits = True  # a look, for its turn or for its transcript; where none does, nobody asks
        self._any_came = True  # since that was looked at last
        self._at_work: str | None = None  # the id of its task

    async def run(self) -> None:
        """Until the events close: then nothing more is begun. Cancelled, it hands back what it holds."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(), name="detector-listen")
                await self._work()
        finally:
            await asyncio.shield(self._searcher.close())

    async def _work(self) -> None:
        while not self._events.closed:
            self._wake.clear()  # before looking, never after: else a commit can be missed
            heard = await self._patiently(self._listen_in)  # first: its alert is worth nothing later
            if await self._patiently(self._next) or heard:  # in turns, so that many calls hold up nothing
                continue
            if self._any_waits:
                await self._patiently(self._see_whether_any_waits)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds()):
                    await self._wake.wait()

    def _seconds(self) -> float:
        """Until there may be something to do, as far as nobody wakes us."""
        if self._paused():
            return PAUSED_SECONDS
        return max(0.0, min([LOOK_SECONDS, *(at - monotonic() for at in self._news.values())]))

    async def _listen(self) -> None:
        """Events are hints: after having fallen behind there may be more to do than was heard of."""
        while not self._events.closed:
            with self._events.subscribe(wants=self._matters) as subscription:
                self._note_one_more()
                async for event in subscription:
                    self._hear(event)
        self._wake.set()

    def _matters(self, event: Event) -> bool:
        """What comes, has more, or is over: a transcript that was waited for, or the task at work."""
        if event.task.kind is Kind.RISK_DETECTION:
            return tells_an_end(event) or _comes(event)
        return self._any_waits and (event.kind == "segment" or tells_an_end(event))

    def _note_one_more(self) -> None:
        self._any_waits = self._any_came = True
        self._wake.set()

    async def _see_whether_any_waits(self) -> None:
        self._any_came = False  # before looking, never after: else one that comes meanwhile is missed
        if not await self._detections.any_waits():
            self._any_waits = self._any_came

    def _hear(self, event: Event) -> None:
        if event.task.id == self._at_work and event.task.state is State.CANCELLED:
            self._searcher.kill()
        if event.kind == "segment":
            self._news.setdefault(event.task.id, self._rests.get(event.task.id, 0.0))
        elif event.task.state in FINAL:
            self._news.pop(event.task.id, None)
            self._rests.pop(event.task.id, None)
        if _comes(event):
            self._note_one_more()
        self._wake.set()

    async def _next(self) -> bool:
        """Do the next task; False: there is none."""
        if self._paused() or (look := await self._detections.claim()) is None:
            return False
        self._at_work = look.task.id
        try:
            with suppress(LostClaim):  # it was cancelled
                await self._look(look)
        except asyncio.CancelledError:
            with suppress(LostClaim, *_TROUBLES):
                await asyncio.shield(self._detections.release(look))
            raise
        finally:
            self._at_work = None
        return True

    async def _listen_in(self) -> bool:
        """Look at a call that still runs, for those who want to be alerted; False: there is none now."""
        due = [task_id for task_id, at in self._news.items() if at <= monotonic()]
        if not due or self._paused():
            return False
        task_id, began = due[0], monotonic()
        del self._news[task_id]
        try:
            for look in await self._detections.hearing(task_id):
                await self._glance(look, task_id)
        except _TROUBLES:
            self._news.setdefault(task_id, 0.0)
            raise
        except Exception as error:  # an edge: it is told at the end, or fails then
            log.error("a look at a call that runs broke", task_id=task_id, exc_info=error)
        now = monotonic()
        self._rests = {id: until for id, until in self._rests.items() if until > now}  # some are over
        self._rests[task_id] = now + max(REST_SECONDS, REST * (now - began))
        return True

    async def _glance(self, look: Look, task_id: str) -> None:
        """At what is certain by now. What goes wrong is told at the end: then it is searched once more."""
        said = Said(None, tuple(await self._detections.heard(task_id)))
        try:
            found = await self._search(look, said, so_far=True)
        except SearchFailed as failed:
            log.warning("a call that runs could not be looked through", task_id=task_id, error=str(failed))
        else:
            await self._detections.tell(look, found.sightings)

    async def _look(self, look: Look) -> None:
        began = monotonic()
        try:
            await self._look_through(look, began)
        except LostClaim:
            raise
        except Exception as error:  # an edge: else one damaged row would end the daemon, at each start anew
            log.error("a look through a transcript broke", task_id=look.task.id, exc_info=error)
            await self._fail(look, BROKEN, began)

    async def _look_through(self, look: Look, began: float) -> None:
        said = await self._patiently(lambda: self._detections.said(look))
        if said is None:
            await self._fail(look, MISSING, began)
            return
        try:
            found = await self._search(look, said)
        except SearchFailed as failed:
            await self._fail(look, failed.problem, began)
        else:
            outcome = Outcome(bytes(found.document).decode(), found.sightings, said.edit)
            await self._patiently(lambda: self._detections.finish(look, outcome, monotonic() - began))
            self._counts.found(found.counts)

    async def _fail(self, look: Look, problem: Problem, began: float) -> None:
        """Only a process that died may fare better the next time."""
        final = problem.code != CRASHED or look.task.attempt >= MOST_TRIES
        await self._patiently(lambda: self._detections.fail(look, problem, monotonic() - began, final=final))

    async def _patiently(self, verb: Callable[[], Awaitable[T]]) -> T:
        """A task is held until the disk takes what came of it."""
        while True:
            try:
                return await verb()
            except _TROUBLES as error:
                log.warning("the queue cannot be used for risk detection", error=str(error))
                await asyncio.sleep(STORAGE_SECONDS)

    async def _search(self, look: Look, said: Said, *, so_far: bool = False) -> Found:
        """Raises SearchFailed."""
        segments = await asyncio.to_thread(msgspec.json.encode, said.segments)
        search = Search(
            segments=msgspec.Raw(segments),
            asked=look.asked,
            rules=look.rules,
            so_far=so_far,
        )
        answer = await self._searcher.ask(search, self._max_seconds())
        match answer:
            case Found():
                return answer
            case NoMemory():
                raise SearchFailed(Problem(OUT_OF_MEMORY, "the search ran out of memory"))
            case Wrong(_, message):  # packs have changed since it was submitted
                raise SearchFailed(Problem("invalid_rules", message))
        raise AssertionError(f"no answer to a search: {answer}")


def _comes(event: Event) -> bool:
    task = event.task
    return event.kind == "task" and task.kind is Kind.RISK_DETECTION and task.state is State.QUEUED
