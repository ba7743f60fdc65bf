"""A slot: one coroutine that owns one child process and runs one chunk at a time.

Records what came of its chunks, stops what was cancelled, replaces its child when it died, grew too large or
ran out of memory. Knows what a chunk is, not what is in it; of the other slots only what they share.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from typing import assert_never

import structlog
from msgspec import Struct

from whisperd import children, orders
from whisperd.children import OUT_OF_MEMORY, Child, ChildDied, Outcome
from whisperd.engine.protocol import (
    Abort,
    Aborted,
    Alive,
    Planned,
    Refused,
    Settings,
    Transcribed,
)
from whisperd.orders import Model, PoolSettings
from whisperd.restraint import Restraint
from whisperd.spool import Spool
from whisperd.task import (
    FINAL,
    SAMPLE_RATE,
    Chunk,
    LostClaim,
    ModelUnusable,
    Problem,
    StorageBusy,
    StorageFailed,
    StorageFull,
    Task,
    TaskQueue,
)

log = structlog.get_logger(__name__)
ABORT_SECONDS = 1.2  # to stop on request, before it is killed; a cancel must be done in 2 s
STORAGE_RETRY = 1.0  # seconds between tries to commit what a full disk or a foreign lock refused
LONGEST_RESTART = 30.0  # seconds between two starts of a child that keeps dying; 0.2 after the first death
STUCK_SECONDS = 300.0  # for one start, which ends itself after children.START_SECONDS


class PoolFailed(Exception):
    """No child could be started when the pool began: a new try would end the same way."""


class WorkerInfo(Struct, frozen=True, kw_only=True):
    """One worker as /workers shows it. `real_time_factor`: compute time ÷ audio time, of all its chunks."""

    id: int
    pid: int | None
    state: str  # starting | idle | busy | resting (memory ran out) | stopped
    model: str | None
    task_id: str | None
    chunk: int | None
    rss_bytes: int | None
    tasks_done: int
    chunks_done: int
    real_time_factor: float | None
    restarts: int


@dataclass(slots=True)
class Shared:
    """What the slots of a pool share."""

    queue: TaskQueue
    spool: Spool
    find_model: Callable[[str], Awaitable[Model]]
    default_model: str
    settings: PoolSettings
    restraint: Restraint
    slots: list[Slot] = field(default_factory=list)
    draining: asyncio.Event = field(default_factory=asyncio.Event)  # claim nothing more
    resumed: asyncio.Event = field(default_factory=asyncio.Event)  # not paused
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # a worker is, or was
    deaths: Counter[str] = field(default_factory=Counter)

    def poke(self) -> None:
        for slot in self.slots:
            slot.poke()


class Slot:
    def __init__(self, shared: Shared, number: int) -> None:
        self._shared = shared
        self.number = number
        self.chunk: Chunk | None = None
        self.leaving = False  # to end once its chunk is finished
        self._poked = asyncio.Event()  # something changed: look again
        self._child: Child | None = None
        self._has_process = False  # from before a child is started until it is gone
        self._blamed = False  # the last death was put down to the chunk in work
        self._alone = False  # no other slot had a process when the chunk in work began
        self._state = "starting"
        self._state_since = monotonic()
        self._model_name: str | None = None
        self._requests = count(1)
        self._asked: int | None = None  # the request that the child works on
        self._deaths = 0  # since a child answered
        self._restarts = self._tasks_done = self._chunks_done = 0
        self._compute_seconds = self._audio_seconds = 0.0

    async def run(self) -> None:
        while not self._over:
            try:
                await self._rest()
                if not self._over:
                    async with self._ready_child() as child:
                        await self._serve(child)
            except ChildDied as died:
                await self._mourn(died)
            except StorageFailed as failed:
                # The daemon stays up to say so: nothing is acknowledged, /health is down until a restart.
                log.critical("nothing can be committed", worker=self.number, error=str(failed))
                self._enter("stopped")
                await self._shared.draining.wait()
        self._enter("stopped")

    def leave(self) -> None:
        """End after the chunk in work."""
        self.leaving = True
        self._shared.restraint.forget(self.number)
        self.poke()

    def poke(self) -> None:
        """Have it look again at what it is to do."""
        self._poked.set()

    def abort(self) -> None:
        """Stop the chunk in work: ask the child, and kill it if it does not obey in time."""
        child, asked = self._child, self._asked
        if child is None or asked is None:
            return
        child.send(Abort(asked))

        def kill_if_still_at_it() -> None:
            if self._child is child and self._asked == asked:
                child.kill(Problem("worker_hung", f"child {child.pid} did not stop when it was told to"))

        asyncio.get_running_loop().call_later(ABORT_SECONDS, kill_if_still_at_it)

    @property
    def resting(self) -> bool:
        return self._shared.restraint.rests(self.number)

    @property
    def has_process(self) -> bool:
        return self._has_process and not (self._child is not None and self._child.ended)

    @property
    def stuck(self) -> bool:
        """Whether one start of a child, or the end of one, takes longer than its own limit allows."""
        return self._state == "starting" and monotonic() - self._state_since > STUCK_SECONDS

    def info(self) -> WorkerInfo:
        speed = self._compute_seconds / self._audio_seconds if self._audio_seconds else None
        return WorkerInfo(
            id=self.number,
            pid=self._child.pid if self._child else None,
            state=self._state,
            model=self._model_name,
            task_id=self.chunk.task.id if self.chunk else None,
            chunk=self.chunk.number if self.chunk else None,
            rss_bytes=self._child.rss_bytes() if self._child else None,
            tasks_done=self._tasks_done,
            chunks_done=self._chunks_done,
            real_time_factor=speed and round(speed, 4),
            restarts=self._restarts,
        )

    @property
    def _over(self) -> bool:
        return self.leaving or self._shared.draining.is_set()

    def _enter(self, state: str) -> None:
        self._state, self._state_since = state, monotonic()

    async def _sleep(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Sleep, but not into a shutdown, nor on when `until` has come true with a poke."""
        ends = monotonic() + seconds
        while not self._over and not until() and (left := ends - monotonic()) > 0:
            self._poked.clear()  # before the next look, never after: else a poke can be missed
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._poked.wait()

    # --- the child ---

    async def _rest(self) -> None:
        """Work with one child fewer while memory is short."""
        while self.resting and not self._over:
            self._enter("resting")
            await self._sleep(self._shared.restraint.seconds_left(), until=lambda: not self.resting)
        if self._state == "resting":
            log.info("a resting worker works again", worker=self.number)

    @asynccontextmanager
    async def _ready_child(self) -> AsyncIterator[Child]:
        self._enter("starting")
        self._model_name = self._shared.default_model
        self._has_process = True
        try:
            async with children.started(await self._child_settings(), self._shared.settings.command) as child:
                self._child = child
                self._shared.ready.set()
                try:
                    yield child
                finally:
                    self._child = None
                    self._enter("starting")  # with its end, which is waited for
        finally:
            self._has_process = False

    async def _child_settings(self) -> Settings:
        try:
            model = await self._shared.find_model(self._shared.default_model)
        except ModelUnusable as unusable:
            raise ChildDied(Problem("model_unusable", str(unusable))) from unusable
        return orders.child_settings(model, self._shared.settings)

    async def _mourn(self, died: ChildDied) -> None:
        """Wait before the next start, longer each time, unless none ever worked at all."""
        if self._over:
            return
        self._count_restart(died.problem.code.removeprefix("worker_"))
        log.warning("worker died", worker=self.number, cause=died.problem.code, message=str(died))
        blamed, self._blamed = self._blamed, False
        if died.problem.code == OUT_OF_MEMORY and not blamed:
            self._step_down(None)
        if self.resting:
            return
        if not self._shared.ready.is_set():
            raise PoolFailed(f"a worker could not start: {died}") from died
        self._enter("starting")
        await self._sleep(min(LONGEST_RESTART, 0.2 * 2**self._deaths))
        self._deaths += 1

    def _count_restart(self, cause: str) -> None:
        self._restarts += 1
        self._shared.deaths[cause] += 1

    # --- its chunks ---

    async def _serve(self, child: Child) -> None:
        """Work until the pool drains or the child has grown too large."""
        while not self._over and not self._outgrown(child):
            self._enter("idle")
            try:
                self.chunk = await self._claim(child)
                if child.ended:
                    await self._hand_back()
                    raise ChildDied(child.cause_of_death())
                if self.chunk is not None:
                    self._enter("busy")
                    await self._work(child, self.chunk)
            except asyncio.CancelledError:
                await asyncio.shield(self._hand_back())
                raise
            finally:
                self.chunk = None

    def _outgrown(self, child: Child) -> bool:
        """Whether the child is to be replaced for its size. A new one always gets its first chunk."""
        most, rss = self._shared.settings.max_rss_bytes, child.rss_bytes() or 0
        if not most or rss <= most or not child.has_worked:
            return False
        log.info("a worker is replaced for its size", worker=self.number, rss_bytes=rss, max_rss_bytes=most)
        self._count_restart("memory")
        return True

    async def _claim(self, child: Child) -> Chunk | None:
        """The next chunk; or None after a poke, when the child dies, or the queue cannot be written."""
        self._poked.clear()  # before looking, never after: else a poke can be missed
        if self._over:
            return None
        claiming = asyncio.create_task(self._permitted_claim(), name=f"claim-{self.number}")
        others = [
            asyncio.create_task(self._poked.wait(), name=f"poke-{self.number}"),
            asyncio.create_task(child.gone(), name=f"gone-{self.number}"),
        ]
        try:
            await asyncio.wait([claiming, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for other in (claiming, *others):  # a claim that is done is not touched by this
                other.cancel()
            await asyncio.shield(asyncio.wait([claiming, *others]))
            if not claiming.cancelled() and claiming.exception() is None:
                self.chunk = claiming.result()  # known also to who cancels us just now
        try:
            return None if claiming.cancelled() else claiming.result()
        except (StorageFull, StorageBusy) as error:
            log.warning("the queue cannot be written", worker=self.number, error=str(error))
            await self._sleep(STORAGE_RETRY)
            return None

    async def _permitted_claim(self) -> Chunk:
        await self._shared.resumed.wait()
        return await self._shared.queue.claim()

    async def _hand_back(self) -> None:
        """Release what is held, once: what cannot be written now, the next start recovers."""
        chunk, self.chunk = self.chunk, None
        if chunk is not None:
            with suppress(LostClaim, StorageFull, StorageBusy, StorageFailed):
                await self._shared.queue.release(chunk)

    async def _work(self, child: Child, chunk: Chunk) -> None:
        queue = self._shared.queue
        try:
            outcome = await self._converse(child, chunk)
        except ChildDied as died:
            child.kill()  # now: it must not use memory any more when its chunk is tried again
            await child.gone()
            await self._blame(chunk, died.problem)
            raise
        except ModelUnusable as unusable:
            problem = Problem("model_unusable", str(unusable))
            await self._settle(lambda: queue.fail(chunk, problem, final=True))
        else:
            self._shared.restraint.acquit(_key(chunk))
            await self._record(chunk, outcome)

    async def _converse(self, child: Child, chunk: Chunk) -> Outcome:
        """Have the chunk done, and keep the lease while the child shows life. Safe to cancel."""
        model, settings = await self._shared.find_model(chunk.task.model), self._shared.settings
        self._model_name = chunk.task.model
        request = orders.request(chunk, next(self._requests), model, self._shared.spool, settings)
        # A cancel that came before this slot was known to hold the chunk was told to nobody.
        if (await self._shared.queue.get(chunk.task.id)).state in FINAL:
            return Aborted()
        self._asked = request.number
        self._alone = self._is_alone()
        beaten_at = monotonic()
        try:
            async with aclosing(child.answer(request, orders.limits(chunk, settings))) as answers:
                async for answer in answers:
                    if not isinstance(answer, Alive):
                        return answer
                    if monotonic() - beaten_at >= settings.beat_seconds:
                        beaten_at = monotonic()
                        await self._beat(chunk)
        finally:
            self._asked = None
        raise AssertionError("an answer ends with the last word")

    async def _beat(self, chunk: Chunk) -> None:
        try:
            await self._shared.queue.beat(chunk)
        except LostClaim:
            self.abort()
        except (StorageFull, StorageBusy):
            pass  # what this pool holds is not swept, however old its lease; _settle waits for room

    # --- what came of them ---

    async def _record(self, chunk: Chunk, outcome: Outcome) -> None:
        queue, self._deaths = self._shared.queue, 0  # whatever it said, the child is well
        match outcome:
            case Planned(plan):
                await self._settle(lambda: queue.plan(chunk, plan))
            case Transcribed(segments, seconds, warnings):
                self._count(chunk, seconds)
                await self._settle(lambda: queue.finish(chunk, segments, warnings=warnings))
            case Refused():
                await self._refused(chunk, outcome)
            case Aborted():
                # Its task is over, or was: a task that is run again meanwhile must get its chunk back.
                await self._settle(lambda: queue.release(chunk))
            case _:
                assert_never(outcome)

    async def _refused(self, chunk: Chunk, refused: Refused) -> None:
        queue, problem = self._shared.queue, Problem(refused.code, refused.message)
        log.info("chunk refused", chunk=str(chunk), code=refused.code, message=refused.message)
        match refused.then:
            case "replan":
                await self._settle(lambda: queue.replan(chunk))
            case "wait":
                await self._settle(lambda: queue.release(chunk))
                await self._sleep(STORAGE_RETRY)
            case "retry" | "fail":
                await self._settle(lambda: queue.fail(chunk, problem, final=refused.then == "fail"))

    async def _blame(self, chunk: Chunk, problem: Problem) -> None:
        queue, self._blamed = self._shared.queue, True
        if problem.code == OUT_OF_MEMORY:
            await self._ran_out_of_memory(chunk, problem)
        else:
            self._shared.restraint.acquit(_key(chunk))
            await self._settle(lambda: queue.fail(chunk, problem, final=problem.code == "timeout"))

    async def _ran_out_of_memory(self, chunk: Chunk, problem: Problem) -> None:
        """Nobody is to blame while others used memory too: the chunk is tried again with one worker fewer.

        A chunk for which it was not enough a second time, with all of it to itself, ends its task: so it is
        tried as often as there are workers, and twice at least.
        """
        queue, restraint = self._shared.queue, self._shared.restraint
        before = restraint.suspect(_key(chunk))
        if before and self._alone and self._is_alone():
            restraint.convict(_key(chunk))
            self._shared.poke()
            await self._settle(lambda: queue.fail(chunk, problem, final=True))
        else:
            self._step_down(_key(chunk))
            await self._settle(lambda: queue.release(chunk))

    def _step_down(self, chunk: tuple[int, int] | None) -> bool:
        """Rest, unless no other slot would go on."""
        if not any(slot is not self and not slot.leaving and not slot.resting for slot in self._shared.slots):
            return False
        self._shared.restraint.rest(self.number, chunk)
        working = sum(not slot.leaving and not slot.resting for slot in self._shared.slots)
        log.warning("out of memory: a worker rests", worker=self.number, workers_left=working)
        return True

    def _is_alone(self) -> bool:
        return not any(slot.has_process for slot in self._shared.slots if slot is not self)

    async def _settle(self, verb: Callable[[], Awaitable[Task]]) -> None:
        """Record the outcome, unless the chunk was taken away; wait while nothing can be written."""
        while True:
            try:
                task = await verb()
            except LostClaim:
                return
            except (StorageFull, StorageBusy) as error:
                log.warning("an outcome waits to be committed", worker=self.number, error=str(error))
                await asyncio.sleep(STORAGE_RETRY)
            else:
                self._tasks_done += task.state in FINAL
                return

    def _count(self, chunk: Chunk, seconds: float) -> None:
        self._chunks_done += 1
        self._compute_seconds += seconds
        self._audio_seconds += chunk.cut.samples / SAMPLE_RATE if chunk.cut else 0.0


def _key(chunk: Chunk) -> tuple[int, int]:
    return chunk.task.seq, chunk.number
