"""Slots. A slot is one coroutine that owns one child process and runs one chunk at a time.

Hands out chunks, records what came of them, stops the work on what was cancelled, replaces children that
died. Knows what a chunk is, not what is in it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from itertools import count
from time import monotonic
from typing import assert_never

import structlog
from msgspec import Struct

from whisperd import children
from whisperd.children import Child, ChildDied, Limits, Outcome
from whisperd.engine.protocol import (
    Abort,
    Aborted,
    Alive,
    MakePlan,
    Planned,
    Refused,
    Settings,
    Transcribe,
    Transcribed,
)
from whisperd.events import Events
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
PCM_BYTES = 2 * 2 * SAMPLE_RATE  # a second of decoded audio: at most two channels of 16 bits
FILE_SLACK = 2**20  # bytes a child may write beyond the longest audio
LONGEST_RESTART = 30.0  # seconds between two starts of a child that keeps dying; 0.2 after the first death


class PoolFailed(Exception):
    """No child could be started when the pool began: a new try would end the same way."""


class Model(Struct, frozen=True):
    path: str
    sha256: str


class PoolSettings(Struct, frozen=True, kw_only=True):
    workers: int
    threads: int
    gpu: bool = True
    nice: int = 10
    max_memory_bytes: int = 0
    max_seconds_per_chunk: float = 600.0
    silence_seconds: float = 60.0
    max_audio_seconds: float = 43_200.0
    command: tuple[str, ...] = children.COMMAND

    @property
    def beat_seconds(self) -> float:
        """Between two renewals of a lease."""
        return min(5.0, self.silence_seconds / 4)


class WorkerInfo(Struct, frozen=True, kw_only=True):
    """One worker as /workers shows it. `real_time_factor`: compute time ÷ audio time, of all its chunks."""

    id: int
    pid: int | None
    state: str  # starting | idle | busy | stopped
    model: str | None
    task_id: str | None
    chunk: int | None
    rss_bytes: int | None
    tasks_done: int
    chunks_done: int
    real_time_factor: float | None
    restarts: int


class WorkerPool:
    def __init__(
        self,
        queue: TaskQueue,
        events: Events,
        spool: Spool,
        find_model: Callable[[str], Awaitable[Model]],
        default_model: str,
        settings: PoolSettings,
    ) -> None:
        self.queue = queue
        self.spool = spool
        self.find_model = find_model
        self.default_model = default_model
        self.settings = settings
        self.draining = asyncio.Event()  # claim nothing more
        self.ready = asyncio.Event()  # a worker is, or was
        self._events = events
        self._slots = [_Slot(self, number) for number in range(1, settings.workers + 1)]

    async def run(self) -> None:
        """Work until drained or cancelled; cancelled, hand the unfinished chunks back."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(), name="pool-watch")
            slots = [group.create_task(slot.run(), name=f"slot-{slot.number}") for slot in self._slots]
            await asyncio.wait(slots)
            watching.cancel()

    def drain(self) -> None:
        """Claim nothing more; `run` ends when the chunks in work are finished."""
        self.draining.set()

    def workers(self) -> list[WorkerInfo]:
        return [slot.info() for slot in self._slots]

    def held(self) -> Sequence[Chunk]:
        """The chunks in work: alive for certain, whatever the clock says of their leases."""
        return [slot.chunk for slot in self._slots if slot.chunk is not None]

    async def _watch(self) -> None:
        """Stop the work on a task that was cancelled. A hint missed here is found by the next beat."""
        while not self._events.closed:
            with self._events.subscribe() as subscription:
                async for event in subscription:
                    if event.task.state in FINAL:
                        self._abort(event.task)

    def _abort(self, task: Task) -> None:
        for slot in self._slots:
            if slot.chunk is not None and slot.chunk.task.id == task.id:
                slot.abort()


class _Slot:
    def __init__(self, pool: WorkerPool, number: int) -> None:
        self._pool = pool
        self.number = number
        self.chunk: Chunk | None = None
        self._child: Child | None = None
        self._state = "starting"
        self._model_name: str | None = None
        self._requests = count(1)
        self._asked: int | None = None  # the request that the child works on
        self._started = False  # a child of this slot has been ready once
        self._deaths = 0  # since a chunk went well
        self._restarts = self._tasks_done = self._chunks_done = 0
        self._compute_seconds = self._audio_seconds = 0.0

    async def run(self) -> None:
        while not self._pool.draining.is_set():
            try:
                async with self._ready_child() as child:
                    await self._serve(child)
            except ChildDied as died:
                await self._mourn(died)
            except StorageFailed as failed:
                # The daemon stays up to say so: nothing is acknowledged, /health is down until a restart.
                log.critical("nothing can be committed", worker=self.number, error=str(failed))
                self._state = "stopped"
                await self._pool.draining.wait()
        self._state = "stopped"

    def abort(self) -> None:
        """Stop the chunk in work: ask the child, and kill it if it does not obey in time."""
        child, asked = self._child, self._asked
        if child is None or asked is None:
            return
        child.send(Abort(asked))

        def kill_if_still_at_it() -> None:
            if self._child is child and self._asked == asked:
                child.kill()

        asyncio.get_running_loop().call_later(ABORT_SECONDS, kill_if_still_at_it)

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

    # --- the child ---

    @asynccontextmanager
    async def _ready_child(self) -> AsyncIterator[Child]:
        self._state = "starting"
        self._model_name = self._pool.default_model
        async with children.started(await self._child_settings(), self._pool.settings.command) as child:
            self._child = child
            self._started = True
            self._pool.ready.set()
            try:
                yield child
            finally:
                self._child = None

    async def _child_settings(self) -> Settings:
        settings = self._pool.settings
        try:
            model = await self._pool.find_model(self._pool.default_model)
        except ModelUnusable as unusable:
            raise ChildDied(Problem("model_unusable", str(unusable))) from unusable
        return Settings(
            model=model.path,
            daemon_pid=os.getpid(),
            threads=settings.threads,
            gpu=settings.gpu,
            nice=settings.nice,
            max_memory_bytes=settings.max_memory_bytes,
            max_file_bytes=int(settings.max_audio_seconds * PCM_BYTES) + FILE_SLACK,
        )

    async def _mourn(self, died: ChildDied) -> None:
        """Wait before the next start, longer each time, unless it never worked at all."""
        if self._pool.draining.is_set():
            return
        if not self._started:
            raise PoolFailed(f"a worker could not start: {died}") from died
        self._state = "starting"
        self._restarts += 1
        log.warning("worker died", worker=self.number, cause=died.problem.code, message=str(died))
        await self._pause(min(LONGEST_RESTART, 0.2 * 2**self._deaths))
        self._deaths += 1

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not into a shutdown."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._pool.draining.wait()

    # --- its chunks ---

    async def _serve(self, child: Child) -> None:
        while not self._pool.draining.is_set():
            self._state = "idle"
            try:
                self.chunk = await self._claim(child)
                if child.ended:
                    await self._hand_back()
                    raise ChildDied(child.cause_of_death())
                if self.chunk is not None:
                    self._state = "busy"
                    await self._work(child, self.chunk)
            except asyncio.CancelledError:
                await asyncio.shield(self._hand_back())
                raise
            finally:
                self.chunk = None

    async def _claim(self, child: Child) -> Chunk | None:
        """The next chunk; or None when the pool drains, the child dies, or the queue cannot be written."""
        claiming = asyncio.create_task(self._pool.queue.claim(), name=f"claim-{self.number}")
        others = [
            asyncio.create_task(self._pool.draining.wait(), name=f"drain-{self.number}"),
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
            await self._pause(STORAGE_RETRY)
            return None

    async def _hand_back(self) -> None:
        """Release what is held, once: what cannot be written now, the next start recovers."""
        chunk, self.chunk = self.chunk, None
        if chunk is not None:
            with suppress(LostClaim, StorageFull, StorageBusy, StorageFailed):
                await self._pool.queue.release(chunk)

    async def _work(self, child: Child, chunk: Chunk) -> None:
        queue = self._pool.queue
        try:
            outcome = await self._converse(child, chunk)
        except ChildDied as died:
            problem, final = died.problem, died.problem.code == "timeout"
            await self._settle(lambda: queue.fail(chunk, problem, final=final))
            raise
        except ModelUnusable as unusable:
            problem = Problem("model_unusable", str(unusable))
            await self._settle(lambda: queue.fail(chunk, problem, final=True))
        else:
            await self._record(chunk, outcome)

    async def _converse(self, child: Child, chunk: Chunk) -> Outcome:
        """Have the chunk done, and keep the lease while the child shows life. Safe to cancel."""
        request = await self._request_for(chunk)
        # A cancel that came before this slot was known to hold the chunk was told to nobody.
        if (await self._pool.queue.get(chunk.task.id)).state in FINAL:
            return Aborted()
        self._asked = request.number
        beaten_at = monotonic()
        try:
            async with aclosing(child.answer(request, self._limits(chunk))) as answers:
                async for answer in answers:
                    if not isinstance(answer, Alive):
                        return answer
                    if monotonic() - beaten_at >= self._pool.settings.beat_seconds:
                        beaten_at = monotonic()
                        await self._beat(chunk)
        finally:
            self._asked = None
        raise AssertionError("an answer ends with the last word")

    async def _beat(self, chunk: Chunk) -> None:
        try:
            await self._pool.queue.beat(chunk)
        except LostClaim:
            self.abort()
        except (StorageFull, StorageBusy):
            pass  # what this pool holds is not swept, however old its lease; _settle waits for room

    def _limits(self, chunk: Chunk) -> Limits:
        settings, task = self._pool.settings, chunk.task
        task_ends = None
        if task.timeout_seconds is not None and task.started_at is not None:
            task_ends = monotonic() + task.timeout_seconds - (chunk.claimed_at - task.started_at)
        return Limits(
            chunk_seconds=settings.max_seconds_per_chunk,
            silence_seconds=settings.silence_seconds,
            look_seconds=settings.beat_seconds,
            task_ends=task_ends,
        )

    async def _request_for(self, chunk: Chunk) -> MakePlan | Transcribe:
        task = chunk.task
        model = await self._pool.find_model(task.model)
        self._model_name = task.model
        pcm, number = str(self._pool.spool.pcm(task.id)), next(self._requests)
        if chunk.cut is not None:
            return Transcribe(
                number=number,
                pcm=pcm,
                model=model.path,
                options=task.options,
                language=task.language or "en",
                cut=chunk.cut,
            )
        return MakePlan(
            number=number,
            audio=str(self._pool.spool.audio(task.id)),
            pcm=pcm,
            model=model.path,
            model_sha256=model.sha256,
            audio_sha256=task.audio.sha256,
            options=task.options,
            max_seconds=self._pool.settings.max_audio_seconds,
        )

    async def _record(self, chunk: Chunk, outcome: Outcome) -> None:
        queue = self._pool.queue
        match outcome:
            case Planned(plan):
                await self._settle(lambda: queue.plan(chunk, plan))
            case Transcribed(segments, seconds):
                self._count(chunk, seconds)
                await self._settle(lambda: queue.finish(chunk, segments))
            case Refused():
                await self._refused(chunk, outcome)
            case Aborted():
                # Its task is over, or was: a task that is run again meanwhile must get its chunk back.
                await self._settle(lambda: queue.release(chunk))
            case _:
                assert_never(outcome)

    async def _refused(self, chunk: Chunk, refused: Refused) -> None:
        queue, problem = self._pool.queue, Problem(refused.code, refused.message)
        log.info("chunk refused", chunk=str(chunk), code=refused.code, message=refused.message)
        match refused.then:
            case "replan":
                await self._settle(lambda: queue.replan(chunk))
            case "wait":
                await self._settle(lambda: queue.release(chunk))
                await self._pause(STORAGE_RETRY)
            case "retry" | "fail":
                await self._settle(lambda: queue.fail(chunk, problem, final=refused.then == "fail"))

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
        self._deaths = 0
        self._chunks_done += 1
        self._compute_seconds += seconds
        self._audio_seconds += chunk.cut.samples / SAMPLE_RATE if chunk.cut else 0.0
