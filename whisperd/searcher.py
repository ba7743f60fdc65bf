"""A process that searches, as the daemon holds it: started when it is needed, killed when it takes too long.

Knows the protocol and the packs in force; nothing of the queue. One request at a time; who comes meanwhile
waits. A process that has nothing to do is ended, so that what it read takes no memory for nothing.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import structlog

from whisperd import children
from whisperd.children import ChildDied
from whisperd.risk_protocol import Answer, Begin, InForce, Request, Settings
from whisperd.task import Problem

log = structlog.get_logger(__name__)
COMMAND = (sys.executable, "-P", "-m", "whisperd.risk_worker")  # then its Settings, as JSON
IDLE_SECONDS = 60.0
READ_SECONDS = 60.0  # for all packs
WAIT_SECONDS = 30.0  # for those who asked before
TOO_LONG = "rules_too_slow"  # the codes of its problems
BUSY = "searcher_busy"
OUT_OF_MEMORY = "out_of_memory"
TOO_MUCH = "too_much_found"
CRASHED = "worker_crashed"

_ANSWERS: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


class SearchFailed(Exception):
    """The process died, or was killed for what it took, or its turn did not come."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Books:
    """The packs in force, as the last process that read the files has them, for those that come after it."""

    def __init__(self) -> None:
        self.sources: dict[str, str] = {}  # by file
        self.left_out: tuple[str, ...] = ()  # files that are broken, and never were whole
        self.problems: tuple[str, ...] = ()  # of the files, each with its line
        self.version = 0  # grows each time the files are read; 0: nobody has

    def take(self, found: InForce) -> None:
        """The files were read anew."""
        self.sources, self.left_out = found.sources, found.left_out
        self.version += 1
        self.note(found.problems)

    def note(self, problems: tuple[str, ...]) -> None:
        for problem in problems:
            log.error("a rule pack is broken: it stays as it was, or out", problem=problem)
        self.problems = problems


class Searcher:
    def __init__(self, books: Books, settings: Settings) -> None:
        self.books = books
        self.settings = settings
        self._process: Process | None = None
        self._version = 0  # of the books, that it goes by
        self._asking = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None

    async def ask(self, request: Request, seconds: float) -> Answer:
        """Its answer. Raises SearchFailed. Cancelled, it ends the process."""
        async with self._turn():
            try:
                await self._begin()
                return await self._answer(request, seconds)
            except BaseException:
                self.kill()  # what it would say next belongs to another request
                raise
            finally:
                self._rest()

    async def reload(self) -> None:
        """Read the files anew. What is wrong with them is logged, and kept in the books."""
        async with self._asking:
            try:
                await self._begin(reread=True)
            except SearchFailed as failed:
                self.kill()
                self.books.note((f"the packs cannot be read: {failed}",))
            finally:
                self._rest()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Raises SearchFailed: each of those before may take its time, and a client waits for their sum."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._asking.acquire()
        except TimeoutError:
            raise SearchFailed(Problem(BUSY, "others are before you; try again soon")) from None
        try:
            yield
        finally:
            self._asking.release()

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        self._process = None

    async def close(self) -> None:
        """End the process, and wait for its end."""
        process = self._process
        self.kill()
        if self._idle is not None:
            self._idle.cancel()
        if process is not None:
            await process.wait()

    # --- the process ---

    async def _begin(self, *, reread: bool = False) -> None:
        """Have a process that goes by the packs in force."""
        reread = reread or not self.books.version
        if self._process is None or self._process.returncode is not None:
            self._process, self._version = await self._started(), 0
        if self._version == self.books.version and not reread:
            return
        books, version = self.books, self.books.version  # another may read the files meanwhile
        found = await self._answer(Begin(books.sources, books.left_out, reread), READ_SECONDS)
        if not isinstance(found, InForce):
            raise SearchFailed(Problem(CRASHED, "the rule packs cannot be read"))
        if reread:
            self.books.take(found)
            version = self.books.version
        self._version = version

    async def _started(self) -> Process:
        try:
            command = (*COMMAND, msgspec.json.encode(self.settings).decode())
            return await children.spawned(command, children.environment(1), DEVNULL)
        except ChildDied as died:
            raise SearchFailed(died.problem) from died

    async def _answer(self, request: Request, seconds: float) -> Answer:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        line = await asyncio.to_thread(msgspec.json.encode, request)  # megabytes of segments
        try:
            async with asyncio.timeout(seconds):
                with suppress(ConnectionError):  # its end is noticed where its answer is awaited
                    process.stdin.write(line + b"\n")
                    await process.stdin.drain()
                said = await process.stdout.readline()
        except TimeoutError:
            message = f"it took longer than {seconds:g} s (risk.max_seconds)"
            raise SearchFailed(Problem(TOO_LONG, message)) from None
        except ValueError:  # longer than children.LONGEST_LINE
            raise SearchFailed(Problem(TOO_MUCH, "a search found more than can be told")) from None
        if not said.endswith(b"\n"):
            raise SearchFailed(Problem(CRASHED, "the process that searches has died"))
        try:
            return await asyncio.to_thread(_ANSWERS.decode, said)
        except msgspec.DecodeError:
            raise SearchFailed(Problem(CRASHED, "the process that searches gave no answer")) from None

    def _rest(self) -> None:
        """Let go of the process once it had nothing to do for long."""
        if self._idle is not None:
            self._idle.cancel()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(IDLE_SECONDS, self._let_go)

    def _let_go(self) -> None:
        if self._asking.locked():
            self._rest()
        else:
            self.kill()
