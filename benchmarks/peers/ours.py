"""whisperd itself: a daemon, and 8 clients over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.daemon import a_daemon
from benchmarks.peers import CLIENTS, by_clients
from whisperd.client import Client


@dataclass
class Whisperd:
    name: str
    client: Client

    def transcribe(self, files: Sequence[Path]) -> list[str]:
        return by_clients(self._one, files)

    def _one(self, file: Path) -> str:
        task = self.client.submit(file, language="en", model=None)
        self.client.wait(task.task_id)
        return self.client.result(task.task_id).text


@contextlib.contextmanager
def whisperd(engine: str, model: str, warm: Path) -> Iterator[Whisperd]:
    with a_daemon(WORKERS__ENGINE=engine, WORKERS__MODEL=model, CACHE__ENABLED="false") as daemon:
        peer = Whisperd(f"whisperd, {engine}", daemon.client)
        peer.transcribe([warm] * CLIENTS)  # all workers have the model then
        yield peer
