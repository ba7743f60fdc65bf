"""What a user would take instead of whisperd, behind one door: files in, texts out, the model loaded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Peer(Protocol):
    """A running one. Entering its context starts it and loads the model, which is not timed."""

    name: str

    def transcribe(self, files: Sequence[Path]) -> list[str]:
        """The texts of English sound files, in their order; as many at a time as it takes from 8 clients."""


Starts = AbstractContextManager[Peer]
