"""Slots. A slot is one coroutine that owns one child process and runs one chunk at a time.

Owns the children: starts, watches, stops and replaces them. Any doubt about a child kills it; the cause has
a name. Knows what a chunk is, not what is in it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from tempfile import TemporaryFile
from time import monotonic
from typing import IO, assert_never

import msgspec
import structlog
from msgspec import Struct

from whisperd.engine.protocol import (
    Abort,
    Aborted,
    Alive,
    Answer,
    MakePlan,
    Planned,
    Ready,
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
    StorageFailed,
    StorageFull,
    Task,
    TaskQueue,
)

log = structlog.get_logger(__name__)
LONGEST_LINE = 64 * 2**20  # bytes; a plan is one line, and asyncio's default is 64 KiB
START_SECONDS = 180.0  # to import and to load a large model from a slow disk
ABORT_SECONDS = 1.2  # to stop on request, before it is killed; a cancel must be done in 2 s
FULL_DISK_RETRY = 1.0  # seconds between tries to commit what a full disk refused


Outcome = Planned | Transcribed | Refused | Aborted  # the last word on a request
_ANSWERS: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


class ChildDied(Exception):
    """The child process ended, fell silent, or said something that makes no sense."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


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
    max_seconds_per_chunk: float = 600.0  # however alive it looks
    silence_seconds: float = 60.0  # without any sign of life
    beat_seconds: float = 5.0
    max_audio_seconds: float = 43_200.0
    command: tuple[str, ...] = (sys.executable, "-P", "-m", "whisperd.child")  # then its Settings, as JSON


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
        self._events = events
        self._slots = [_Slot(self, number) for number in range(1, settings.workers + 1)]
        self._draining = asyncio.Event()
        self.ready = asyncio.Event()  # a worker is, or was

    async def run(self) -> None:
        """Work until drained or cancelled; cancelled, hand the unfinished chunks back."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(), name="pool-watch")
            slots = [group.create_task(slot.run(), name=f"slot-{slot.number}") for slot in self._slots]
            draining = group.create_task(self._draining.wait(), name="pool-drain")
            await asyncio.wait(slots)
            watching.cancel()
            draining.cancel()

    def drain(self) -> None:
        """Claim nothing more; `run` ends when the chunks in work are finished."""
        self._draining.set()

    async def draining(self) -> None:
        await self._draining.wait()

    def workers(self) -> list[WorkerInfo]:
        return [slot.info() for slot in self._slots]

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
        self._child: Process | None = None
        self._state = "starting"
        self._model: Model | None = None
        self._model_name: str | None = None
        self._requests = count(1)
        self._request = 0
        self._started = False  # a child of this slot has been ready once
        self._restarts = self._tasks_done = self._chunks_done = 0
        self._compute_seconds = self._audio_seconds = 0.0

    async def run(self) -> None:
        while not self._pool._draining.is_set():
            try:
                async with self._ready_child() as child:
                    await self._serve(child)
            except ChildDied as died:
                if not self._started:
                    raise PoolFailed(f"a worker could not start: {died}") from None
                self._restarts += 1
                log.warning("worker died", worker=self.number, cause=died.problem.code, message=str(died))
                await asyncio.sleep(0.2)
            except StorageFailed as failed:
                # The daemon stays up to say so: nothing is acknowledged and /health is down until a restart.
                log.critical("nothing can be committed", worker=self.number, error=str(failed))
                self._state = "stopped"
                await self._pool.draining()
        self._state = "stopped"

    def abort(self) -> None:
        """Stop the chunk in work: ask the child, and kill it if it does not obey in time."""
        child, request = self._child, self._request
        if child is None or child.stdin is None:
            return
        with suppress(ConnectionError):
            child.stdin.write(msgspec.json.encode(Abort(request)) + b"\n")

        def kill_if_still_at_it() -> None:
            if self._child is child and self._request == request and self.chunk is not None:
                _kill(child)

        asyncio.get_running_loop().call_later(ABORT_SECONDS, kill_if_still_at_it)

    def info(self) -> WorkerInfo:
        pid = self._child.pid if self._child else None
        speed = self._compute_seconds / self._audio_seconds if self._audio_seconds else None
        return WorkerInfo(
            id=self.number,
            pid=pid,
            state=self._state,
            model=self._model_name,
            task_id=self.chunk.task.id if self.chunk else None,
            chunk=self.chunk.number if self.chunk else None,
            rss_bytes=_rss_bytes(pid) if pid else None,
            tasks_done=self._tasks_done,
            chunks_done=self._chunks_done,
            real_time_factor=speed and round(speed, 4),
            restarts=self._restarts,
        )

    @asynccontextmanager
    async def _ready_child(self) -> AsyncIterator[Process]:
        self._state = "starting"
        self._model_name = self._pool.default_model
        model = await self._pool.find_model(self._model_name)
        async with _spawned(self._pool.settings, model) as child:
            self._child = child
            try:
                answer = await _hear(child, START_SECONDS)
                if not isinstance(answer, Ready):
                    raise _nonsense(child)
                self._started = True
                self._pool.ready.set()
                yield child
            finally:
                self._child = None

    async def _serve(self, child: Process) -> None:
        while not self._pool._draining.is_set():
            self._state = "idle"
            self.chunk = await self._claim()
            if self.chunk is None:
                return
            self._state = "busy"
            try:
                await self._work(child, self.chunk)
            finally:
                self.chunk = None

    async def _claim(self) -> Chunk | None:
        """The next chunk, or None once the pool is drained. A claim that is cut off owns nothing."""
        claiming = asyncio.ensure_future(self._pool.queue.claim())
        draining = asyncio.ensure_future(self._pool.draining())
        try:
            await asyncio.wait([claiming, draining], return_when=asyncio.FIRST_COMPLETED)
            if claiming.done():
                return claiming.result()
            return None
        finally:
            for waiting in (claiming, draining):
                waiting.cancel()
            await asyncio.wait([claiming, draining])

    async def _work(self, child: Process, chunk: Chunk) -> None:
        try:
            answer = await self._converse(child, chunk)
        except asyncio.CancelledError:
            await asyncio.shield(self._settle(lambda: self._pool.queue.release(chunk)))
            raise
        except ChildDied as died:
            problem = died.problem
            final = problem.code == "timeout"
            await self._settle(lambda: self._pool.queue.fail(chunk, problem, final=final))
            raise
        except ModelUnusable as unusable:
            problem = Problem("model_unusable", str(unusable))
            await self._settle(lambda: self._pool.queue.fail(chunk, problem, final=True))
        else:
            await self._record(chunk, answer)

    async def _record(self, chunk: Chunk, answer: Outcome) -> None:
        queue = self._pool.queue
        match answer:
            case Planned(plan):
                await self._settle(lambda: queue.plan(chunk, plan))
            case Transcribed(segments, seconds):
                self._count(chunk, seconds)
                await self._settle(lambda: queue.finish(chunk, segments))
            case Refused(code, message, "replan"):
                log.info("decoding again", chunk=str(chunk), code=code, message=message)
                await self._settle(lambda: queue.replan(chunk))
            case Refused(code, message, then):
                log.info("chunk refused", chunk=str(chunk), code=code, message=message)
                problem = Problem(code, message)
                await self._settle(lambda: queue.fail(chunk, problem, final=then == "fail"))
            case Aborted():
                # Its task is over, or was: a task that is run again meanwhile must get its chunk back.
                await self._settle(lambda: queue.release(chunk))
            case _:
                assert_never(answer)

    async def _settle(self, verb: Callable[[], Awaitable[Task]]) -> None:
        """Record the outcome, unless the chunk was taken away meanwhile; wait while the disk is full."""
        while True:
            try:
                task = await verb()
            except LostClaim:
                return
            except StorageFull:
                log.warning("the disk is full: an outcome waits to be committed", worker=self.number)
                await asyncio.sleep(FULL_DISK_RETRY)
            else:
                self._tasks_done += task.state in FINAL
                return

    def _count(self, chunk: Chunk, seconds: float) -> None:
        self._chunks_done += 1
        self._compute_seconds += seconds
        self._audio_seconds += chunk.cut.samples / SAMPLE_RATE if chunk.cut else 0.0

    async def _converse(self, child: Process, chunk: Chunk) -> Outcome:
        """Send the request, keep the lease while the child shows life, and return its last word."""
        self._request = next(self._requests)
        request = await self._request_for(chunk)
        assert child.stdin is not None
        child.stdin.write(msgspec.json.encode(request) + b"\n")
        deadline = _Deadline(chunk, self._pool.settings)
        beaten_at = monotonic()
        while True:
            answer = await deadline.hear(child)
            if not isinstance(answer, Alive):
                return _fitting(child, chunk, answer)
            if monotonic() - beaten_at >= self._pool.settings.beat_seconds:
                beaten_at = monotonic()
                await self._beat(chunk, answer.fraction)

    async def _beat(self, chunk: Chunk, fraction: float) -> None:
        try:
            await self._pool.queue.beat(chunk, fraction)
        except LostClaim:
            self.abort()
        except StorageFull:
            pass  # the lease is longer than a few beats; _settle waits for room

    async def _request_for(self, chunk: Chunk) -> MakePlan | Transcribe:
        task = chunk.task
        model = await self._pool.find_model(task.model)
        self._model_name = task.model
        pcm = str(self._pool.spool.pcm(task.id))
        if chunk.cut is not None:
            return Transcribe(
                number=self._request,
                pcm=pcm,
                model=model.path,
                options=task.options,
                language=task.language or "en",
                cut=chunk.cut,
            )
        return MakePlan(
            number=self._request,
            audio=str(self._pool.spool.audio(task.id)),
            pcm=pcm,
            model=model.path,
            model_sha256=model.sha256,
            audio_sha256=task.audio.sha256,
            options=task.options,
            max_seconds=self._pool.settings.max_audio_seconds,
        )


class _Deadline:
    """How long to wait for a child's answer: the chunk's limit, the task's, and that of any silence.

    A child is alive while it says something or uses the processor: whisper.cpp's encoder says nothing for
    minutes with a large model on a slow machine. One that loops for ever is stopped by the chunk's limit.
    """

    def __init__(self, chunk: Chunk, settings: PoolSettings) -> None:
        self._settings = settings
        self._alive_at = monotonic()
        self._chunk_ends = monotonic() + settings.max_seconds_per_chunk
        self._task_ends = float("inf")
        if chunk.task.timeout_seconds is not None and chunk.task.started_at is not None:
            used = chunk.claimed_at - chunk.task.started_at
            self._task_ends = monotonic() + chunk.task.timeout_seconds - used

    async def hear(self, child: Process) -> Answer:
        """The child's next message, or Alive on its behalf. Raises ChildDied when a limit is reached."""
        while True:
            used = _cpu_ticks(child.pid)
            with suppress(TimeoutError):
                answer = await _hear(child, self._patience())
                self._alive_at = monotonic()
                return answer
            if busy := _cpu_ticks(child.pid) > used:
                self._alive_at = monotonic()
            if problem := self._overdue(child):
                raise ChildDied(problem)
            if busy:
                return Alive(0.0)

    def _patience(self) -> float:
        """Seconds until the next look at the child, at least as often as the lease is renewed."""
        settings, now = self._settings, monotonic()
        look = min(settings.beat_seconds, settings.silence_seconds / 2)
        return max(0.0, min(look, self._chunk_ends - now, self._task_ends - now))

    def _overdue(self, child: Process) -> Problem | None:
        now, settings = monotonic(), self._settings
        if now >= self._task_ends:
            return Problem("timeout", "the task took longer than its timeout_seconds")
        if now >= self._chunk_ends:
            seconds = settings.max_seconds_per_chunk
            return Problem("worker_hung", f"child {child.pid} worked for {seconds:.0f} s on one chunk")
        if now - self._alive_at >= settings.silence_seconds:
            seconds = settings.silence_seconds
            return Problem("worker_hung", f"child {child.pid} gave no sign of life for {seconds:.0f} s")
        return None


@asynccontextmanager
async def _spawned(settings: PoolSettings, model: Model) -> AsyncIterator[Process]:
    child_settings = Settings(
        model=model.path,
        daemon_pid=os.getpid(),
        threads=settings.threads,
        gpu=settings.gpu,
        nice=settings.nice,
        max_memory_bytes=settings.max_memory_bytes,
    )
    command = (*settings.command, msgspec.json.encode(child_settings).decode())
    with TemporaryFile() as stderr:  # not ours: what C code prints would tear the terminal view
        child = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=stderr, limit=LONGEST_LINE, env=_environment(settings)
        )
        try:
            yield child
        except ChildDied:
            log.info("last words of the worker", pid=child.pid, stderr=_last_words(stderr))
            raise
        finally:
            _kill(child)
            await child.wait()


def _last_words(stderr: IO[bytes]) -> str:
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - 2000))
    return stderr.read().decode(errors="replace").strip()


def _environment(settings: PoolSettings) -> dict[str, str]:
    """One BLAS thread beside whisper.cpp's own; OpenMP threads that sleep when they wait and do not spin."""
    threads = {"OMP_NUM_THREADS": str(settings.threads), "OMP_WAIT_POLICY": "passive"}
    return {**os.environ, **threads, "OPENBLAS_NUM_THREADS": "1"}


def _kill(child: Process) -> None:
    if child.returncode is None:
        with suppress(ProcessLookupError):
            child.kill()


async def _hear(child: Process, seconds: float) -> Answer:
    """The child's next message. Raises ChildDied, TimeoutError."""
    assert child.stdout is not None
    try:
        async with asyncio.timeout(seconds):
            line = await child.stdout.readline()
    except ValueError:  # longer than LONGEST_LINE
        raise _nonsense(child) from None
    if not line.endswith(b"\n"):
        raise ChildDied(_cause_of_death(child.pid, await child.wait()))
    try:
        return _ANSWERS.decode(line)
    except msgspec.MsgspecError:
        raise _nonsense(child) from None


def _fitting(child: Process, chunk: Chunk, answer: Answer) -> Outcome:
    """The answer, if it is one to this chunk's request: a plan for the plan, a transcript for the others."""
    wrong = Transcribed if chunk.cut is None else Planned
    if isinstance(answer, Ready | Alive | wrong):
        raise _nonsense(child)
    return answer


def _cause_of_death(pid: int, code: int) -> Problem:
    how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
    return Problem("worker_crashed", f"child {pid} {how}")


def _nonsense(child: Process) -> ChildDied:
    return ChildDied(Problem("worker_crashed", f"child {child.pid} said something that makes no sense"))


def _cpu_ticks(pid: int) -> int:
    """Processor time of all its threads, in clock ticks: utime and stime of /proc/PID/stat (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            after_name = stat.read().rpartition(")")[2].split()
            return int(after_name[11]) + int(after_name[12])
    except (OSError, IndexError):
        return 0


def _rss_bytes(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return None
