"""Submit → start on an idle daemon: from the task's row to the claim of its first chunk by a worker.

    python -m benchmarks.start [--tasks 100]

Starts a daemon of its own on a free port and sends it one short clip after another over HTTP.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.daemon import a_daemon
from whisperd.client import Client

CLIP = Path(__file__).parents[1] / "tests" / "data" / "jfk.wav"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100)
    args = parser.parse_args()
    with a_daemon() as daemon:
        waits = sorted(_wait_ms(daemon.client) for _ in range(args.tasks))
    table = Table(title=f"submit → start, {args.tasks} tasks, milliseconds")
    for column in ("p50", "p95", "p99", "max"):
        table.add_column(column, justify="right")
    ranks = [waits[min(len(waits) - 1, int(q * len(waits)))] for q in (0.5, 0.95, 0.99, 1)]
    table.add_row(*(f"{wait:.0f}" for wait in ranks))
    Console().print(table)
    sys.exit(ranks[0] > 10)


def _wait_ms(client: Client) -> float:
    task = client.wait(client.submit(CLIP, beam_size=1).task_id)
    assert task.started_at
    return (task.started_at - task.created_at).total_seconds() * 1000


if __name__ == "__main__":
    main()
