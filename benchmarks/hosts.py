"""How many tasks a second one, two and three hosts do that share a queue, and what a task costs each part.

    python -m benchmarks.hosts [--silent 300] [--spoken 24] [--hosts 1 2 3] [--json FILE]

Each host is a daemon with a folder and one worker of its own, which has one thread; all are on this machine,
with a Redis that writes each change to its disk, and a folder that they share. Tasks of silence cost no more
than what a task costs beside its transcription: queue, storage, database, plan. Tasks of speech, the clip of
`whisperd bench`, are what a host is there for. They are added while the hosts are paused; the time runs from
their resumption to the end of the last. Where there are fewer processors than processes, one host more has
nothing to run on: what hosts with a processor each would do is then told by the processor time of a task,
which must not grow with their number ("on paper"), and how many one Redis can feed by that of Redis. Needs
redis-server, and the extra redis.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep

import redis
from msgspec import Struct, to_builtins
from rich.console import Console
from rich.table import Table

from benchmarks.daemon import Daemon, a_daemon
from benchmarks.listeners import silence
from benchmarks.peers.queues import redis_server
from benchmarks.processor import processor_seconds
from whisperd.bench import SAMPLE


class Figures(Struct, frozen=True):
    """Milliseconds are of processor time, and those that a task took, of all hosts together."""

    work: str
    hosts: int
    rate: float  # tasks a second
    daemon_ms: float
    worker_ms: float
    redis_ms: float
    redis_commands: float  # a task

    @property
    def host_ms(self) -> float:
        return self.daemon_ms + self.worker_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--silent", type=int, default=300, help="tasks of silence")
    parser.add_argument("--spoken", type=int, default=24, help="tasks of speech")
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = []
    for work, sound, tasks in (
        ("silence", silence, given.silent),
        ("speech", SAMPLE.read_bytes, given.spoken),
    ):
        found += [_measured(work, sound, tasks, hosts) for hosts in given.hosts if tasks]
    Console().print(_table(found))
    if given.json:
        given.json.write_text(json.dumps(to_builtins(found), indent=1))


def _measured(work: str, sound: Callable[[], bytes], tasks: int, hosts: int) -> Figures:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        port = stack.enter_context(redis_server(Path(folder)))
        storage = Path(folder) / "shared"
        storage.mkdir()
        settings = {"REDIS__URL": f"redis://127.0.0.1:{port}", "REDIS__STORAGE": storage}
        settings |= {"WORKERS__COUNT": 1, "WORKERS__THREADS": 1, "CACHE__ENABLED": "false"}
        daemons = [stack.enter_context(a_daemon(**settings)) for _ in range(hosts)]
        asked = stack.enter_context(redis.Redis(port=port, decode_responses=True))
        return _figures(work, sound, tasks, daemons, asked)


def _figures(
    work: str, sound: Callable[[], bytes], tasks: int, daemons: Sequence[Daemon], asked: redis.Redis
) -> Figures:
    for daemon in daemons:
        daemon.client.pause()
    for n in range(tasks):
        daemons[n % len(daemons)].client.submit(sound(), name="a.wav")
    before, began = _spent(daemons, asked), monotonic()
    for daemon in daemons:
        daemon.client.resume()
    while asked.zcard("bull:transcription:completed") < tasks:
        assert not asked.zcard("bull:transcription:failed")
        sleep(0.05)
    rate = tasks / (monotonic() - began)
    of_daemon, of_worker, of_redis, commands = (
        (now - then) / tasks for now, then in zip(_spent(daemons, asked), before, strict=True)
    )
    return Figures(work, len(daemons), rate, 1000 * of_daemon, 1000 * of_worker, 1000 * of_redis, commands)


def _spent(daemons: Sequence[Daemon], asked: redis.Redis) -> tuple[float, float, float, float]:
    """Processor seconds of the daemons, of their workers and of Redis; and how many commands that had."""
    workers = [worker.pid for daemon in daemons for worker in daemon.client.workers() if worker.pid]
    about = asked.info()
    return (
        sum(processor_seconds(daemon.pid) for daemon in daemons),
        sum(map(processor_seconds, workers)),
        about["used_cpu_user"] + about["used_cpu_sys"],
        about["total_commands_processed"],
    )


def _table(found: Sequence[Figures]) -> Table:
    load = os.getloadavg()[1]
    table = Table(title=f"hosts that share a queue, on {os.cpu_count()} processors; load {load:.1f}")
    table.add_column("tasks of")
    for column in ("hosts", "tasks/s", "of one's, each", "on paper", "daemon ms", "worker ms", "Redis ms"):
        table.add_column(column, justify="right")
    table.add_column("commands", justify="right")
    for row in found:
        one = next((other for other in found if other.work == row.work and other.hosts == 1), row)
        shares = (f"{row.rate / row.hosts * one.hosts / one.rate:.2f}", f"{one.host_ms / row.host_ms:.2f}")
        spent = (f"{value:.1f}" for value in (row.daemon_ms, row.worker_ms, row.redis_ms))
        table.add_row(
            *(row.work, str(row.hosts), f"{row.rate:.1f}", *shares, *spent, f"{row.redis_commands:.0f}")
        )
    return table


if __name__ == "__main__":
    main()
