"""A client that is not what is measured: requests as fast as its connections take the answers.

A process of its own, raw sockets that are kept alive, one selector; a request costs it some 30 µs. `ask` has
it run beside the caller. As a program: one JSON order on stdin, one JSON report on stdout.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import sys
from time import perf_counter, process_time

import msgspec
from msgspec import Struct

UNIQUE = b"*UNIQUE*"  # in a request: other bytes each time


class Order(Struct, frozen=True):
    host: str
    port: int
    request: bytes  # head and body
    connections: int
    seconds: float
    status: int  # that each answer must have


class Report(Struct, frozen=True):
    seconds: float
    waits: list[float]  # in seconds, of each answer
    processor_seconds: float

    @property
    def rate(self) -> float:
        return len(self.waits) / self.seconds


async def ask(order: Order) -> Report:
    """Raises RuntimeError for an answer with another status."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.hammer"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate(msgspec.json.encode(order))
    if process.returncode:
        raise RuntimeError("the client failed")
    return msgspec.json.decode(said, type=Report)


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    sys.stdout.buffer.write(msgspec.json.encode(hammered(order)))


def hammered(order: Order) -> Report:
    waits: list[float] = []
    with selectors.DefaultSelector() as selector:
        for _ in range(order.connections):
            line = Line(order)
            selector.register(line.socket, selectors.EVENT_READ, line)
        began, used = perf_counter(), process_time()
        for key in list(selector.get_map().values()):
            key.data.send()
        while perf_counter() - began < order.seconds:
            for key, _ in selector.select(1.0):
                if (wait := key.data.received()) is not None:
                    waits.append(wait)
                    key.data.send()
        return Report(perf_counter() - began, waits, process_time() - used)


class Line:
    """A connection with one request on its way."""

    def __init__(self, order: Order) -> None:
        self.socket = socket.create_connection((order.host, order.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = order.request
        self._status = f"HTTP/1.1 {order.status} ".encode()
        self._came = b""
        self._sent_at = 0.0

    def send(self) -> None:
        unique = os.urandom(len(UNIQUE) // 2).hex().encode()
        self._came, self._sent_at = b"", perf_counter()
        self.socket.sendall(self._request.replace(UNIQUE, unique))

    def received(self) -> float | None:
        """Seconds since the request was sent, once its answer is whole."""
        piece = self.socket.recv(2**20)
        self._came += piece
        head, end, body = self._came.partition(b"\r\n\r\n")
        if not piece or not self._came.startswith(self._status[: len(self._came)]):
            raise RuntimeError(f"not {self._status!r}: {self._came[:500]!r}")
        if not end or len(body) < _length(head):
            return None
        return perf_counter() - self._sent_at


def _length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0] or 0)


if __name__ == "__main__":
    main()
