"""Ports of this machine for servers that a benchmark starts."""

from __future__ import annotations

import socket
import time
from contextlib import suppress


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(port: int, name: str) -> None:
    """Until the server of that name takes connections."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise SystemExit(f"{name} did not start")
