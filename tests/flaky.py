"""A TCP proxy that is as unkind as a network: it refuses, cuts off, delays, and answers rubbish.

Each connection gets the next of the `turns` that a test has planned, and plain passage when none are left.
"""

import asyncio
import contextlib
from dataclasses import dataclass


@dataclass
class Turn:
    """What happens to one connection."""

    hang_up: bool = False  # at once
    say: bytes | None = None  # in place of an answer, and then hang up
    swallow: bool = False  # the answer: the server hears all of the request, the client hears nothing
    cut_after: int | None = None  # bytes of the answer that get through


class Flaky:
    def __init__(self, port):
        self._to = port
        self.turns = []
        self.seen = 0  # connections
        self.open = 0

    def to(self, port):
        """Where connections lead from now on."""
        self._to = port

    @contextlib.asynccontextmanager
    async def listening(self):
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _handle(self, reader, writer):
        self.seen += 1
        self.open += 1
        turn = self.turns.pop(0) if self.turns else Turn()
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._play(turn, reader, writer)
        finally:
            self.open -= 1
            writer.transport.abort()

    async def _play(self, turn, reader, writer):
        if turn.hang_up:
            return
        if turn.say is not None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(turn.say)
            await writer.drain()
            writer.write_eof()
            await reader.read(1)  # until the client has it and leaves
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        try:
            asking = asyncio.create_task(_copied(reader, back), name="flaky asks")
            answering = asyncio.create_task(_answered(turn, there, writer), name="flaky answers")
            await asyncio.wait([asking, answering], return_when=asyncio.FIRST_COMPLETED)
            for task in (asking, answering):
                task.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)
        finally:
            back.transport.abort()


async def _copied(reader, writer):
    while block := await reader.read(65536):
        writer.write(block)
        await writer.drain()


async def _answered(turn, reader, writer):
    left = turn.cut_after
    while block := await reader.read(65536):
        if turn.swallow:
            return  # the server has answered: what it did is done
        block = block if left is None else block[:left]
        writer.write(block)
        await writer.drain()
        if left is not None and (left := left - len(block)) <= 0:
            return
