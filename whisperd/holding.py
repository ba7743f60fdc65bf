"""What a slot holds: one chunk, from its claim until the queue has committed what came of it.

Claims, keeps the lease, records outcomes and counts them. Knows neither the child nor the other slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, assert_never

import structlog
from msgspec.structs import replace

from whisperd.children import Outcome
from whisperd.counts import Counts
from whisperd.engine.protocol import Aborted, Muted, Planned, Refused, Transcribed
from whisperd.task import (
    FINAL,
    SAMPLE_RATE,
    Chunk,
    Claimant,
    Effort,
    Left,
    LostClaim,
    Problem,
    StorageBusy,
    StorageFailed,
    StorageFull,
    Task,
    TaskQueue,
)

log = structlog.get_logger(__name__)
STORAGE_RETRY = 1.0  # seconds between tries to commit what a full disk or a foreign lock refused


class Holding:
    """At most one chunk: held until its outcome is committed, or somebody else has taken it.

    What is held is not swept; so a chunk whose outcome cannot be written yet is never taken for a failure.
    The verbs wait while the disk is full or the database is locked, and raise StorageFailed: then the chunk
    is still held. Safe to cancel, and then it may be still held too.
    """

    def __init__(self, queue: TaskQueue, worker: int, counts: Counts) -> None:
        self._queue = queue
        self._counts = counts
        self._worker = worker
        self.chunk: Chunk | None = None
        self._left: Left | None = None  # the task of the chunk that it finished last, if there is more to do
        self.tasks_done = self.chunks_done = 0
        self._compute_seconds = self._audio_seconds = 0.0

    @property
    def real_time_factor(self) -> float | None:
        """Compute time ÷ audio time, of all chunks that were transcribed."""
        return round(self._compute_seconds / self._audio_seconds, 4) if self._audio_seconds else None

    async def claim(
        self, who: Callable[[], Claimant], resumed: asyncio.Event, *until: Coroutine[Any, Any, object]
    ) -> Chunk | None:
        """Wait for the next chunk, once `resumed` is set, and hold it; None when one of `until` ends first.

        Raises StorageFull, StorageBusy, StorageFailed: then nothing is held. Cancelled, it may hold one.
        """
        claiming = asyncio.create_task(self._permitted_claim(who, resumed), name=f"claim-{self._worker}")
        others = [asyncio.create_task(wait, name=f"claim-{self._worker}-until") for wait in until]
        try:
            await asyncio.wait([claiming, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for other in (claiming, *others):  # a claim that is done is not touched by this
                other.cancel()
            await asyncio.shield(asyncio.wait([claiming, *others]))
            if not claiming.cancelled() and claiming.exception() is None:
                self.chunk = claiming.result()  # known also to who cancels us just now
        return None if claiming.cancelled() else claiming.result()

    async def wanted(self, resumed: asyncio.Event, until: Coroutine[Any, Any, object]) -> str | None:
        """Wait until there is a chunk to claim, and leave it: its model; None when `until` ends first."""
        looking = asyncio.create_task(self._permitted_look(resumed), name=f"look-{self._worker}")
        other = asyncio.create_task(until, name=f"look-{self._worker}-until")
        try:
            await asyncio.wait([looking, other], return_when=asyncio.FIRST_COMPLETED)
            return looking.result() if looking.done() else None
        finally:
            looking.cancel()
            other.cancel()
            await asyncio.shield(asyncio.wait([looking, other]))

    async def beat(self) -> bool:
        """Renew its lease; False when it has been taken."""
        assert self.chunk is not None
        try:
            await self._queue.beat(self.chunk)
        except LostClaim:
            return False
        except (StorageFull, StorageBusy):
            pass  # what is held is not swept, however old its lease; its outcome waits for room
        return True

    async def record(self, outcome: Outcome, effort: Effort) -> None:
        """Commit what the child said last."""
        queue = self._queue
        match outcome:
            case Planned(plan):
                self._leave(await self._settle(lambda chunk: queue.plan(chunk, plan, effort), effort))
            case Transcribed(segments, seconds, warnings):
                self._count(seconds)
                self._leave(
                    await self._settle(lambda chunk: queue.finish(chunk, segments, warnings, effort), effort)
                )
            case Refused():
                await self._refused(outcome, effort)
            case Aborted():
                # Its task is over, or was: a task that is run again meanwhile must get its chunk back.
                await self.release(effort)
            case Muted():
                raise AssertionError("nobody asks for a recording of a chunk")
            case _:
                assert_never(outcome)

    async def fail(self, problem: Problem, effort: Effort | None = None, *, final: bool = False) -> None:
        await self._settle(lambda chunk: self._queue.fail(chunk, problem, final=final, effort=effort), effort)

    async def release(self, effort: Effort | None = None) -> None:
        """Hand back without blame what is held, if anything is."""
        await self._settle(lambda chunk: self._queue.release(chunk, effort), effort)

    async def hand_back(self) -> bool:
        """Try once to release what is held; whether nothing is held any more.

        What stays held is released by a later try, or by `release_all` at the end of an orderly stop.
        """
        if self.chunk is None:
            return True
        try:
            await self._queue.release(self.chunk)
        except LostClaim:
            pass  # it has been taken already
        except (StorageFull, StorageBusy, StorageFailed):
            return False
        self.chunk = None
        return True

    async def storage_answers(self) -> bool:
        """Whether the queue can be written, and nothing is held any more."""
        try:
            await self._queue.sweep(float("-inf"))  # takes nothing, but is a write
        except (StorageFull, StorageBusy, StorageFailed):
            return False
        return await self.hand_back()

    async def _permitted_claim(self, who: Callable[[], Claimant], resumed: asyncio.Event) -> Chunk:
        await resumed.wait()
        return await self._queue.claim(lambda: replace(who(), left=self._left))

    async def _permitted_look(self, resumed: asyncio.Event) -> str:
        await resumed.wait()
        return await self._queue.wanted()

    async def _refused(self, refused: Refused, effort: Effort) -> None:
        problem = Problem(refused.code, refused.message)
        log.info("chunk refused", code=refused.code, message=refused.message)
        match refused.then:
            case "replan":
                await self._settle(self._queue.replan, effort)
            case "wait":
                await self.release(effort)
            case "retry" | "fail":
                await self.fail(problem, effort, final=refused.then == "fail")

    async def _settle(self, verb: Callable[[Chunk], Awaitable[Task]], effort: Effort | None) -> Task | None:
        """The task as it is then; None when its claim was lost."""
        self._left = None
        while self.chunk is not None:
            try:
                task = await self._told(verb, self.chunk, effort)
            except (StorageFull, StorageBusy) as error:
                log.warning("an outcome waits to be committed", worker=self._worker, error=str(error))
                await asyncio.sleep(STORAGE_RETRY)
            else:
                self.chunk = None
                self.tasks_done += task is not None and task.state in FINAL
                return task
        return None

    async def _told(
        self, verb: Callable[[Chunk], Awaitable[Task]], chunk: Chunk, effort: Effort | None
    ) -> Task | None:
        try:
            return await verb(chunk)
        except LostClaim:
            if effort is not None:
                await self._queue.write_off(chunk, effort)
            return None

    def _leave(self, task: Task | None) -> None:
        if task is not None and task.state not in FINAL:
            self._left = Left(task.seq, self._worker)

    def _count(self, seconds: float) -> None:
        cut = self.chunk.cut if self.chunk else None
        audio_seconds = cut.samples / SAMPLE_RATE if cut else 0.0
        self.chunks_done += 1
        self._compute_seconds += seconds
        self._audio_seconds += audio_seconds
        self._counts.transcribed(seconds, audio_seconds)
