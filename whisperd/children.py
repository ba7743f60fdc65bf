"""One child process: started, spoken to, watched, killed. Any doubt about it ends it, and has a name.

Knows the protocol and the limits of a conversation; nothing of the queue.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from tempfile import TemporaryFile
from time import monotonic
from typing import IO

import msgspec
import structlog
from msgspec import Struct

from whisperd import gpu
from whisperd.engine import memory
from whisperd.engine.protocol import (
    Abort,
    Aborted,
    Alive,
    Answer,
    MakePlan,
    Mute,
    Muted,
    Planned,
    Probe,
    Ready,
    Refused,
    Settings,
    Transcribe,
    Transcribed,
    Work,
)
from whisperd.task import Problem

log = structlog.get_logger(__name__)
LONGEST_LINE = 64 * 2**20  # bytes; a plan is one line, and asyncio's default is 64 KiB
START_SECONDS = 180.0  # to import and to load a large model from a slow disk
OUT_OF_MEMORY = "out_of_memory"  # the code of its problem
LAST_WORDS = 2000  # bytes
NEAR = 0.9  # of its address space, from which on a crash is put down to it
COMMAND = (sys.executable, "-P", "-m", "whisperd.child")  # then its Settings, as JSON
_ANSWERS: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "VIRTUAL_ENV")
_INHERITED_PREFIXES = ("LC_", "LD_", "PYTHON", "CUDA", "NVIDIA", "GGML", "HIP", "ROCR", "ZE_", "VK_")

Outcome = Planned | Transcribed | Muted | Refused | Aborted  # the last word on a request
_DONE = {MakePlan: Planned, Transcribe: Transcribed, Probe: Transcribed, Mute: Muted}  # what ends each well


class ChildDied(Exception):
    """The child process ended, fell silent, or said something that makes no sense; or none could start."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Limits(Struct, frozen=True, kw_only=True):
    """Of one conversation."""

    chunk_seconds: float  # however alive it looks
    silence_seconds: float  # without any sign of life
    look_seconds: float  # between two looks at it, at most
    rss_bytes: int = 0  # memory; 0 = no limit


class Child:
    """A child that has said Ready. Alive while it speaks or uses the processor."""

    def __init__(self, process: Process, stderr: IO[bytes]) -> None:
        self._process = process
        self._stderr = stderr
        self._words_from = 0  # where what it says on stderr of the present request begins
        self._killed_for: Problem | None = None
        self._kernel_kills = memory.kernel_kills()
        self._crowded = False  # its address space was nearly used up when it was last looked at
        self.pid = process.pid
        self.device = ""  # "cpu" or "gpu", once it is ready
        self.has_worked = False

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None

    async def gone(self) -> None:
        """Wait for its end."""
        await self._process.wait()

    def cause_of_death(self) -> Problem:
        """Why it ended; it has."""
        code = self._process.returncode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
        if self._killed_for is not None:
            return self._killed_for
        if code == -signal.SIGXCPU:
            return Problem("worker_hung", f"child {self.pid} used up its processor time")
        if self._ran_out_of_memory(code):
            return Problem(OUT_OF_MEMORY, f"child {self.pid} ran out of memory: it {how}")
        return Problem("worker_crashed", f"child {self.pid} {how}")

    def _ran_out_of_memory(self, code: int) -> bool:
        """Said so, was killed for it by the kernel, or crashed with its address space nearly used up.

        A weakness: the kernel counts its kills by control group, so a child that somebody else killed in the
        same moment is taken for one of them.
        """
        if code == -signal.SIGKILL:
            return memory.kernel_kills() > self._kernel_kills
        return code != 0 and (self._crowded or memory.lacking(self.last_words()))

    def last_words(self) -> str:
        """The end of what it said on stderr about the present request."""
        self._stderr.seek(max(self._words_from, self._stderr.seek(0, os.SEEK_END) - LAST_WORDS))
        return self._stderr.read().decode(errors="replace").strip()

    def look(self) -> None:
        """Note what its death would be judged by: once it is dead it cannot be asked."""
        self._kernel_kills = memory.kernel_kills()
        with suppress(OSError):
            most, _ = resource.prlimit(self.pid, resource.RLIMIT_AS)
            self._crowded = most != resource.RLIM_INFINITY and self._memory()[0] > NEAR * most

    async def until_ready(self) -> None:
        try:
            message = await self._hear(START_SECONDS)
        except TimeoutError:
            problem = Problem("worker_hung", f"child {self.pid} was not ready after {START_SECONDS:.0f} s")
            raise ChildDied(problem) from None
        if isinstance(message, Refused):
            raise ChildDied(Problem(message.code, message.message))
        if not isinstance(message, Ready):
            raise self._nonsense()
        self.device = message.device
        self.look()

    def send(self, message: Work | Abort) -> None:
        assert self._process.stdin is not None
        with suppress(ConnectionError):  # its end is noticed where its answer is awaited
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")

    async def answer(self, request: Work, limits: Limits) -> AsyncGenerator[Alive | Outcome, None]:
        """Send the request; yield signs of life, then the last word. Raises ChildDied at any limit."""
        self._words_from = self._stderr.seek(0, os.SEEK_END)
        self.look()
        self.send(request)
        began = alive_at = monotonic()
        while True:
            used, message = self.cpu_ticks(), None
            with suppress(TimeoutError):
                message = self._fitting(request, await self._hear(_patience(limits, began)))
            if message is not None and not isinstance(message, Alive):
                if isinstance(message, Refused) and message.code == OUT_OF_MEMORY:
                    raise ChildDied(Problem(OUT_OF_MEMORY, f"child {self.pid} ran out of memory"))
                self.has_worked = True
                yield message
                return
            self.look()
            alive = message is not None or self.cpu_ticks() > used
            alive_at = monotonic() if alive else alive_at
            if problem := self._overdue(limits, began, alive_at):
                raise ChildDied(problem)
            if alive:
                yield Alive()

    def kill(self, reason: Problem | None = None) -> None:
        """End it at once; whoever waits for its answer is told the reason."""
        # Not Process.kill: it polls first, which reaps a zombie before asyncio can learn its status.
        if not self.ended:
            self._killed_for = reason or self._killed_for
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def cpu_ticks(self) -> int:
        """Processor time of all its threads, in clock ticks: utime and stime of /proc/PID/stat (proc(5))."""
        try:
            with open(f"/proc/{self.pid}/stat") as stat:
                after_name = stat.read().rpartition(")")[2].split()
                return int(after_name[11]) + int(after_name[12])
        except (OSError, IndexError):
            return 0

    def rss_bytes(self) -> int | None:
        try:
            return self._memory()[1]
        except OSError:
            return None

    def _memory(self) -> tuple[int, int]:
        """Address space and resident memory, in bytes: size and resident of /proc/PID/statm (proc(5))."""
        with open(f"/proc/{self.pid}/statm") as statm:
            pages = statm.read().split()
        size = os.sysconf("SC_PAGE_SIZE")
        return int(pages[0]) * size, int(pages[1]) * size

    async def _hear(self, seconds: float) -> Answer:
        """Its next message. Raises ChildDied, TimeoutError."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except ValueError:  # longer than LONGEST_LINE
            raise self._nonsense() from None
        if not line.endswith(b"\n"):
            await self._end()
            raise ChildDied(self.cause_of_death())
        try:
            return _ANSWERS.decode(line)
        except msgspec.MsgspecError:
            raise self._nonsense() from None

    async def _end(self) -> None:
        """Wait for the end of a child that closed its pipe; it may have done so and live on."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self.gone()
        self.kill()
        await self.gone()

    def _fitting(self, request: Work, message: Answer) -> Alive | Outcome:
        """The message, if it may follow this request."""
        if isinstance(message, Ready) or (
            isinstance(message, Planned | Transcribed | Muted) and type(message) is not _DONE[type(request)]
        ):
            raise self._nonsense()
        return message

    def _overdue(self, limits: Limits, began: float, alive_at: float) -> Problem | None:
        now = monotonic()
        if now - began >= limits.chunk_seconds:
            seconds = limits.chunk_seconds
            return Problem("worker_hung", f"child {self.pid} worked for {seconds:.0f} s on one chunk")
        if now - alive_at >= limits.silence_seconds:
            seconds = limits.silence_seconds
            return Problem("worker_hung", f"child {self.pid} gave no sign of life for {seconds:.0f} s")
        if limits.rss_bytes and (self.rss_bytes() or 0) > limits.rss_bytes:
            most = limits.rss_bytes // 2**20
            return Problem(OUT_OF_MEMORY, f"child {self.pid} took more than {most} MiB of memory")
        return None

    def _nonsense(self) -> ChildDied:
        return ChildDied(Problem("worker_crashed", f"child {self.pid} said something that makes no sense"))


def _patience(limits: Limits, began: float) -> float:
    """Seconds until the next look at a silent child."""
    now = monotonic()
    silent = min(limits.look_seconds, limits.silence_seconds / 2)
    return max(0.0, min(now + silent, began + limits.chunk_seconds) - now)


@asynccontextmanager
async def started(settings: Settings, command: tuple[str, ...] = COMMAND) -> AsyncIterator[Child]:
    """A child, ready for requests; killed at the end of the block. Raises ChildDied."""
    with _stderr() as stderr:
        process = await spawned(
            (*command, msgspec.json.encode(settings).decode()),
            environment(settings.threads, settings.card),
            stderr,
        )
        child = Child(process, stderr)
        try:
            await child.until_ready()
            yield child
        except ChildDied:
            log.info("last words of the worker", pid=child.pid, stderr=child.last_words())
            raise
        finally:
            child.kill()
            await child.gone()


def _stderr() -> IO[bytes]:
    """Its own: what C code prints would tear the terminal view."""
    try:
        return TemporaryFile()
    except OSError as error:
        raise _cannot_start(error) from error


async def spawned(command: tuple[str, ...], env: dict[str, str], stderr: IO[bytes] | int) -> Process:
    """A process that is spoken to by pipes. Raises ChildDied where none can be started.

    Safe to cancel: asyncio by itself would leave a process that nobody waits for, and its pipes open.
    """
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=stderr,
            limit=LONGEST_LINE,
            env=env,
            start_new_session=True,  # a signal to our group is ours to handle: a chunk may finish
        )
    )
    try:
        return await asyncio.shield(starting)
    except OSError as error:
        raise _cannot_start(error) from error
    except asyncio.CancelledError:
        process = await starting
        process.kill()
        await process.wait()
        raise


def _cannot_start(error: OSError) -> ChildDied:
    return ChildDied(Problem("worker_crashed", f"no worker can be started: {error.strerror}"))


def environment(threads: int, card: str = "") -> dict[str, str]:
    """What a child needs and no more: hostile media are decoded in it, and secrets live in environments.

    `card`: the GPU that it is to see, by its number. One BLAS thread beside whisper.cpp's own; OpenMP threads
    that sleep when they wait and do not spin.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    openmp = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    seen = gpu.only(card) if card else {}
    # Else ggml calls a debugger when it aborts, whose output hides the cause and which takes a second.
    return {**kept, **seen, **openmp, "OPENBLAS_NUM_THREADS": "1", "GGML_NO_BACKTRACE": "1"}
