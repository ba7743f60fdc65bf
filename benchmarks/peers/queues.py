"""Queues side by side, ours among them: each a process of its own that is asked in JSON, a line each way.

What it is asked, and its answer, whose times are seconds:
    fill     {"tasks"}                  {}, once so many tasks wait
    submit   {"producers", "seconds"}   {"count", "seconds", "cpu"}: each acknowledged one by one
    work     {"consumers", "seconds"}   {"count", "seconds", "cpu"}: claimed and completed
    claim    {"times"}                  {"p50", "p99"} of one by one, nothing else going on
    stats, first, filtered, deep        {"p50", "p99"} of a question, as claim
`cpu` is of all processes that it takes. An empty answer: it has nothing of that kind.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.ports import free_port, wait_for

HERE = Path(__file__).parent


@dataclass
class QueuePeer:
    name: str
    process: subprocess.Popen[str]

    def ask(self, do: str, **how: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"do": do, **how}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} died at {do}")
        found: dict[str, Any] = json.loads(answer)
        return found


@contextmanager
def ours(folder: Path) -> Iterator[QueuePeer]:
    """The queue's own verbs in one process, as the daemon's routes and workers call them."""
    with _asked("whisperd", [sys.executable, "-m", "benchmarks.peers.queue_ours", str(folder)]) as peer:
        yield peer


@contextmanager
def of_python(python: str, name: str, folder: Path) -> Iterator[QueuePeer]:
    """One of `queue_python.DURABLE`, in an interpreter that has it."""
    with _asked(name, [python, "-P", str(HERE / "queue_python.py"), name, str(folder)]) as peer:
        yield peer


@contextmanager
def bullmq(modules: Path, folder: Path) -> Iterator[QueuePeer]:
    """`modules`: a folder in which `npm install bullmq ioredis` was done."""
    with redis_server(folder) as port:
        # As text and not as a file: Node looks for modules from where the code lies, or else is started.
        code = (HERE / "queue_bullmq.mjs").read_text()
        command = ["node", "--input-type=module", "--eval", code, str(port)]
        with _asked("BullMQ", command, cwd=modules) as peer:
            yield peer


@contextmanager
def _asked(name: str, command: list[str], cwd: Path | None = None) -> Iterator[QueuePeer]:
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd
    ) as process:
        try:
            yield QueuePeer(name, process)
        finally:
            process.kill()


@contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """One that acknowledges nothing before it is on the disk, as SQLite with `synchronous = full`."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(port, "redis-server")
            yield port
        finally:
            process.terminate()
