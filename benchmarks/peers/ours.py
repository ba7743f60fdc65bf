"""whisperd itself: a daemon, and 8 clients over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.daemon import a_daemon
from whisperd.client import Client

CLIENTS = 8


@dataclass
class Whisperd:
    name: str
    client: Client

    def transcribe(self, files: Sequence[Path]) -> list[str]:
        with ThreadPoolExecutor(CLIENTS) as clients:
            return list(clients.map(self._one, files))

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
