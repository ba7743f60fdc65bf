"""What the daemon holds in memory: idle, with 10,000 tasks in line, and while a large file comes.

    python -m benchmarks.memory [--tasks 10000] [--mb 1024] [--json FILE]

Resident (RSS), and its share of what it shares with others (PSS), of the daemon alone: a worker holds its
model besides. The peak is that of the resident set. `python -m benchmarks.upload` asks more about uploads.
Fails when it holds more than 80 MB while idle, or 32 MB more for the large file. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from benchmarks.daemon import Daemon, a_daemon
from benchmarks.hammer import Order, ask
from benchmarks.http import submission
from benchmarks.upload import MOST_MB, by_form, forget_peak, mb_of

MOST_IDLE_MB = 80.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10_000, help="in line")
    parser.add_argument("--mb", type=int, default=1024, help="size of the large file")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    table = Table(title="memory of the daemon, MB")
    for column in ("", "RSS", "PSS", "peak"):
        table.add_column(column, justify="right" if column else "left")
    figures = {}

    def measured(name: str, load: Callable[[Daemon], None]) -> None:
        forget_peak(daemon)
        load(daemon)
        found = {"rss": mb_of(daemon, "VmRSS"), "pss": _pss(daemon), "peak": mb_of(daemon, "VmHWM")}
        figures[name] = found
        table.add_row(name, *(f"{mb:.1f}" for mb in found.values()))

    with a_daemon() as daemon:
        measured("idle, after its start", lambda daemon: sleep(5))
        daemon.client.pause()
        measured("a file of 1 MB", lambda daemon: by_form(daemon, 1))
        measured(f"a file of {given.mb} MB", lambda daemon: by_form(daemon, given.mb))
        measured(f"{given.tasks} tasks in line", lambda daemon: _fill(daemon, given.tasks))
    Console().print(table)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))
    idle, small, large, _ = figures.values()
    sys.exit(idle["rss"] > MOST_IDLE_MB or large["peak"] - small["rss"] > MOST_MB)


def _pss(daemon: Daemon) -> float:
    lines = Path(f"/proc/{daemon.pid}/smaps_rollup").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pss:"))) / 1024


def _fill(daemon: Daemon, tasks: int) -> None:
    address = urlsplit(daemon.url)
    assert address.hostname
    assert address.port
    while (missing := tasks - daemon.client.stats().queued) > 0:
        seconds = min(10.0, missing / 1000)
        asyncio.run(ask(Order(address.hostname, address.port, submission(), 16, seconds, 202)))


if __name__ == "__main__":
    main()
