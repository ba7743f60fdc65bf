"""What a crowd of slow clients costs: how fast /health is answered meanwhile, and memory.

    python -m benchmarks.crowd [--many 2000]

Heads that are never ended, then uploads of which a KiB comes now and then. Fails when more than
one answer of twenty took longer than 100 ms. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import socket
import sys
from collections.abc import Iterator
from statistics import median
from time import monotonic
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from benchmarks.daemon import Daemon, a_daemon
from benchmarks.upload import FORM, HEAD, mb_of

MOST_SECONDS = 0.1
HALF_OPEN = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
UPLOAD = (
    "POST /tasks/transcription HTTP/1.1\r\nHost: localhost\r\n"
    f"Content-Type: {FORM}\r\nContent-Length: {2**20}\r\n\r\n"
).encode() + HEAD
PIECES = 40  # that each client sends
PARTS = 10  # of the crowd: one after the other sends a piece, and then /health is asked for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--many", type=int, default=2000, help="clients at a time")
    many = parser.parse_args().many
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    table = Table(title=f"/health while {many} clients are slow")
    for column in ("what they do", "median ms", "95 % ms", "longest ms", "more MB"):
        table.add_column(column, justify="right")
    patience = {"HTTP__HEAD_SECONDS": 600, "HTTP__SLOW_SECONDS": 600}  # they stay for all of it
    with a_daemon(HTTP__MAX_CONNECTIONS=2 * many, **patience) as daemon:
        daemon.client.pause()
        most_of_them = [
            _measured(table, daemon, "half-open heads", many, HALF_OPEN, b"x"),
            _measured(table, daemon, "slow uploads", many, UPLOAD, bytes(1024)),
        ]
    Console().print(table)
    sys.exit(max(most_of_them) > MOST_SECONDS)


def _measured(table: Table, daemon: Daemon, what: str, many: int, first: bytes, piece: bytes) -> float:
    """A row of the table; returns how many seconds 95 of 100 answers took at most."""
    before = mb_of(daemon, "VmRSS")
    with _a_crowd(daemon, many, first) as clients:
        parts = [clients[n::PARTS] for n in range(PARTS)]
        waits = sorted(_asked(daemon, part, piece) for _ in range(PIECES) for part in parts)
        more = mb_of(daemon, "VmRSS") - before
    usual, most, longest = median(waits), waits[int(0.95 * len(waits))], waits[-1]
    table.add_row(what, *(f"{seconds * 1e3:.1f}" for seconds in (usual, most, longest)), f"{more:.1f}")
    return most


@contextlib.contextmanager
def _a_crowd(daemon: Daemon, many: int, first: bytes) -> Iterator[list[socket.socket]]:
    address = urlsplit(daemon.url)
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(many):
            client = socket.create_connection((address.hostname, address.port))
            clients.append(stack.enter_context(client))
            client.sendall(first)
        yield clients


def _asked(daemon: Daemon, clients: list[socket.socket], piece: bytes) -> float:
    """Seconds until /health is answered on a new connection, just after these clients sent a piece each."""
    for client in clients:
        client.sendall(piece)
    address, started = urlsplit(daemon.url), monotonic()
    with socket.create_connection((address.hostname, address.port), timeout=30) as asking:
        asking.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert asking.recv(65536).startswith(b"HTTP/1.1 ")
    return monotonic() - started


if __name__ == "__main__":
    main()
