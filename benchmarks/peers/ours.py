"""whisperd itself: a daemon, and 8 clients over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.daemon import a_daemon
from benchmarks.peers import CLIENTS, by_clients
from benchmarks.processor import children, processor_seconds
from whisperd.client import Client


@dataclass
class Whisperd:
    """`overhead`: the daemon's processor time in each round, as a part of that of its workers.

    Wrong of a round in which a worker was replaced: what the old one used is no longer to be seen.
    """

    name: str
    client: Client
    pid: int
    overhead: list[float] = field(default_factory=list)

    def transcribe(self, files: Sequence[Path]) -> list[str]:
        daemon, workers = self._used()
        texts = by_clients(self._one, files)
        daemon_now, workers_now = self._used()
        self.overhead.append((daemon_now - daemon) / (workers_now - workers))
        return texts

    def _used(self) -> tuple[float, float]:
        return processor_seconds(self.pid), sum(map(processor_seconds, children(self.pid)))

    def _one(self, file: Path) -> str:
        task = self.client.submit(file, language="en", model=None)
        self.client.wait(task.task_id)
        return self.client.result(task.task_id).text


@contextlib.contextmanager
def whisperd(engine: str, model: str, warm: Path) -> Iterator[Whisperd]:
    with a_daemon(WORKERS__ENGINE=engine, WORKERS__MODEL=model, CACHE__ENABLED="false") as daemon:
        peer = Whisperd(f"whisperd, {engine}", daemon.client, daemon.pid)
        peer.transcribe([warm] * CLIENTS)  # all workers have the model then
        peer.overhead.clear()
        yield peer
