"""Whether `whisperd watch` follows a thousand tasks a minute without flicker and without growing.

    python -m benchmarks.watch [--minutes 3] [--rate 1000] [--json FILE]

Starts a daemon of its own and sends it clips of a fifth of a second of silence, at an even pace, each a task
of one short plan. Meanwhile `whisperd watch --interval 1` runs on two terminals, 80x24 and 200x50, which are
read as fast as they are written. Flicker is a screen that is cleared (ESC[2J) before it is drawn: none may
be, once it is up. Fails for one, and where a watch holds 5 MB more at the end than at the middle. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from time import perf_counter
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.daemon import Daemon, a_daemon
from benchmarks.listeners import silence

SIZES = ((80, 24), (200, 50))
CLEARS = b"\x1b[2J"
MOST_GROWTH_MB = 5.0
TIMES = (0.1, 0.5, 1.0)  # of the run, at which it is looked at


class Watch:
    """`whisperd watch` on a terminal of its own."""

    def __init__(self, url: str, columns: int, lines: int) -> None:
        self.size = f"{columns}x{lines}"
        self.written = self.clears = 0
        self.looks: list[tuple[float, int, int, float]] = []  # seconds, bytes, clears, MB
        self._screen, there = pty.openpty()
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "whisperd", "watch", "--interval", "1", "--url", url],
            env={**os.environ, "TERM": "xterm-256color"},
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
        )
        os.close(there)
        Thread(target=self._read, daemon=True).start()

    def look(self) -> None:
        status = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024
        self.looks.append((perf_counter(), self.written, self.clears, resident))

    def end(self) -> None:
        os.write(self._screen, b"q")
        assert self._process.wait(timeout=30) == 0

    def figures(self) -> dict[str, Any]:
        """Of the time after its first look: then it is up."""
        first, middle, last = self.looks
        return {
            "bytes_a_second": (last[1] - first[1]) / (last[0] - first[0]),
            "clears": last[2] - first[2],
            "rss_mb": [look[3] for look in (first, middle, last)],
            "growth_mb": last[3] - middle[3],
        }

    def _read(self) -> None:
        tail = b""
        while block := self._block():
            self.written += len(block)
            seen = tail + block
            self.clears += seen.count(CLEARS)
            tail = seen[1 - len(CLEARS) :]  # too short for one that was counted

    def _block(self) -> bytes:
        try:
            return os.read(self._screen, 65536)
        except OSError:  # how Linux says that the other end is closed
            return b""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--rate", type=int, default=1000, help="tasks a minute")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with a_daemon() as daemon:
        watches = [Watch(daemon.url, *size) for size in SIZES]
        try:
            done = asyncio.run(_driven(daemon, watches, given.rate, 60 * given.minutes))
        finally:
            for watch in watches:
                watch.end()
    figures = {watch.size: watch.figures() for watch in watches}
    _show(figures, given.rate, done)
    if given.json:
        given.json.write_text(
            json.dumps({"sent_a_minute": given.rate, "completed": done, **figures}, indent=1)
        )
    sys.exit(any(one["clears"] or one["growth_mb"] > MOST_GROWTH_MB for one in figures.values()))


async def _driven(daemon: Daemon, watches: Sequence[Watch], rate: int, seconds: float) -> float:
    """Tasks that were completed, a minute."""
    async with httpx.AsyncClient(base_url=daemon.url, timeout=60) as client, asyncio.TaskGroup() as group:
        began = perf_counter()
        group.create_task(_look(watches, seconds))
        for number in range(int(rate * seconds / 60)):
            await asyncio.sleep(began + number * 60 / rate - perf_counter())
            group.create_task(_send(client))
    stats = await asyncio.to_thread(daemon.client.stats)
    return stats.completed * 60 / (perf_counter() - began)


async def _send(client: httpx.AsyncClient) -> None:
    answer = await client.post("/tasks/transcription", files={"file": ("a.wav", silence())})
    answer.raise_for_status()


async def _look(watches: Sequence[Watch], seconds: float) -> None:
    before = 0.0
    for time in TIMES:
        await asyncio.sleep((time - before) * seconds)
        before = time
        for watch in watches:
            watch.look()


def _show(figures: dict[str, dict[str, Any]], rate: int, done: float) -> None:
    table = Table(title=f"watch; a minute {rate} tasks are sent and {done:.0f} completed")
    for column in ("", "RSS, MB: start", "middle", "end", "KB/s drawn", "screens cleared"):
        table.add_column(column, justify="right" if column else "left")
    for size, one in figures.items():
        held = [f"{mb:.1f}" for mb in one["rss_mb"]]
        table.add_row(size, *held, f"{one['bytes_a_second'] / 1000:.1f}", str(one["clears"]))
    Console().print(table)


if __name__ == "__main__":
    main()
