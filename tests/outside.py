"""The outside that whisperd calls, on this machine: a server that answers as told, and names of our own."""

import asyncio
import contextlib

GIFT = b"RIFF of the outside"


def an_answer(body=GIFT, status="200 OK", **headers):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def to(location, status="302 Found"):
    return an_answer(b"", status, Location=location)


class Outside:
    """A server that notes what it was asked and answers, path by path, what stands in `answers`.

    An answer is the bytes of it, or pieces of them; a piece of None is silence until the other side goes.
    """

    def __init__(self):
        self.answers = {}
        self.asked = []  # (head, body) of each request
        self.connections = 0
        self._serving = set()

    @contextlib.asynccontextmanager
    async def serving(self, address="127.0.0.1", tls=None):
        server = await asyncio.start_server(self._serve, address, 0, ssl=tls)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            yield self
        async with asyncio.timeout(10):
            await asyncio.gather(*self._serving)

    async def _serve(self, reader, writer):
        self._serving.add(asyncio.current_task())
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._answer(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append((head, await reader.readexactly(int(header(head, "content-length") or 0))))
        answer = self.answers.get(head.split(" ")[1].partition("?")[0], an_answer())
        for piece in [answer] if isinstance(answer, bytes) else answer:
            if piece is None:
                await reader.read()
            else:
                writer.write(piece)
                await writer.drain()


def header(head, name):
    lines = [line.partition(": ") for line in head.split("\r\n")]
    return next((value for key, _, value in lines if key.lower() == name), None)


def fake_names(names):
    """A resolver that knows these hosts: each with its addresses, or with an iterator over them."""

    async def resolve(host):
        if host not in names:
            raise OSError("no such host")
        found = names[host]
        return found if isinstance(found, list) else next(found)

    return resolve
