"""What a user would take instead of whisperd, behind one door: files in, texts out, the model loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Peer(Protocol):
    """A running one. Entering its context starts it and loads the model, which is not timed."""

    name: str

    def transcribe(self, files: Sequence[Path]) -> list[str]:
        """The texts of English sound files, in their order; as many at a time as it takes from 8 clients."""


CLIENTS = 8


def by_clients(ask: Callable[[Path], str], files: Sequence[Path]) -> list[str]:
    """The answers in the order of the files, asked for by CLIENTS at once."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(ask, files))


Starts = AbstractContextManager[Peer]
