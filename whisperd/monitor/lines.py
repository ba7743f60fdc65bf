"""`watch` where there is no terminal: a line for each look, for logs, grep and awk."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from whisperd.client import Client, ClientError
from whisperd.monitor.courier import reason
from whisperd.terminal import rfc3339, safe


def tell(client: Client, interval: float) -> None:
    """Prints until somebody stops it."""
    while True:
        due = time.monotonic() + interval
        print(line(client), flush=True)
        time.sleep(max(0.0, due - time.monotonic()))


def line(client: Client) -> str:
    now = rfc3339(datetime.now(UTC))
    try:
        stats = client.stats()
    except ClientError as error:
        return f"{now}\taway\t{safe(reason(error))}"
    busy = sum(worker.state == "busy" for worker in stats.workers)
    figures = {
        **{
            name: getattr(stats, name)
            for name in ("queued", "processing", "completed", "failed", "cancelled")
        },
        "tasks_per_minute": f"{stats.throughput.tasks_per_minute:.0f}",
        "real_time": f"{stats.throughput.audio_seconds_per_second:.1f}x",
        "workers_busy": f"{busy}/{len(stats.workers)}",
    }
    state = "paused" if stats.paused else "running"
    return "\t".join([f"{now}\t{state}", *(f"{name}={value}" for name, value in figures.items())])
