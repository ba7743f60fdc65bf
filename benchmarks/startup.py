"""How soon after its start the daemon answers, and takes work; and what it uses while it has nothing to do.

    python -m benchmarks.startup [--rounds 5] [--idle 60] [--json FILE]

From the start of the process to the first answer of /health/live (it serves: a submission is accepted) and to
the first 200 of /health/ready (a worker has loaded its model); medians, an empty data folder each time. The
modules are compiled, as those of an installation are: by a first start, which does not count. Then the
processor time of an idle daemon, and of its workers, over a minute. Fails above 1 s, or 0.3 %. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from time import monotonic, sleep

from rich.console import Console
from rich.table import Table

from benchmarks.processor import children, processor_seconds
from whisperd.config import load

MOST_SECONDS, MOST_PERCENT = 1.0, 0.3
SETTLED = 5.0  # seconds after it is ready: by then what a start does is done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds for which an idle one is watched")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as compiled:
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        starts = [_start(environ) for _ in range(1 + given.rounds)][1:]
        live, ready = (median(times) for times in zip(*starts, strict=True))
        daemon, workers = _idle(environ, given.idle)
    figures = {
        "live_seconds": live,
        "ready_seconds": ready,
        "idle_percent": daemon,
        "workers_percent": workers,
    }
    table = Table(title="start, and idle")
    for column in ("", "median", "target"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("/health/live answers after", f"{live:.2f} s", f"{MOST_SECONDS:.1f} s")
    table.add_row("/health/ready says yes after", f"{ready:.2f} s", "")
    table.add_row("processor, idle daemon", f"{daemon:.2f} %", f"{MOST_PERCENT:.1f} %")
    table.add_row("processor, idle workers", f"{workers:.2f} %", "")
    Console().print(table)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))
    sys.exit(live > MOST_SECONDS or daemon > MOST_PERCENT)


def _start(environ: Mapping[str, str]) -> tuple[float, float]:
    """Seconds until it is live, and until it is ready."""
    began = monotonic()
    with _started(environ) as (_, port):
        return _until_200(port, "/health/live") - began, _until_200(port, "/health/ready") - began


def _idle(environ: Mapping[str, str], seconds: float) -> tuple[float, float]:
    """Percent of a processor that the daemon uses, and all of its workers."""
    with _started(environ) as (process, port):
        _until_200(port, "/health/ready")
        sleep(SETTLED)
        workers = children(process.pid)
        before = processor_seconds(process.pid), sum(map(processor_seconds, workers))
        sleep(seconds)
        after = processor_seconds(process.pid), sum(map(processor_seconds, workers))
    return 100 * (after[0] - before[0]) / seconds, 100 * (after[1] - before[1]) / seconds


@contextlib.contextmanager
def _started(environ: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with tempfile.TemporaryDirectory() as data:
        port = _free_port()
        command = [sys.executable, "-m", "whisperd", "serve", "--port", str(port), "--data-dir", data]
        command += ["--models-dir", str(load().models_dir)]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environ) as process:
            try:
                yield process, port
            finally:
                process.terminate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _until_200(port: int, path: str) -> float:
    """When it was answered so, on the monotonic clock."""
    while True:
        with contextlib.suppress(OSError), contextlib.closing(HTTPConnection("127.0.0.1", port)) as asking:
            asking.request("GET", path)
            if asking.getresponse().status == 200:
                return monotonic()
        sleep(0.005)


if __name__ == "__main__":
    main()
