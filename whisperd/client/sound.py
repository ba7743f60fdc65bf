"""What is submitted: a file, an open file or bytes, readable as often as it has to be sent."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from whisperd.client.errors import ClientError

Source = str | os.PathLike[str] | bytes | BinaryIO
OnSent = Callable[[int, int | None], None]  # bytes that have gone, and of how many; None: not known


class Sound:
    """An open file belongs to its caller: it is read from where it stands, and stays open."""

    def __init__(self, source: Source, name: str | None, on_sent: OnSent | None) -> None:
        if isinstance(source, io.TextIOBase):
            raise TypeError("open the audio in binary mode")
        self.name = name or _name(source)
        self._source = source
        self._on_sent = on_sent
        self._start = _position(source)

    @property
    def repeatable(self) -> bool:
        """Whether it can be sent a second time; a pipe is empty then."""
        return self._start is not None

    def open(self) -> Reading:
        """Raises OSError."""
        source = self._source
        if isinstance(source, bytes):
            return Reading(io.BytesIO(source), 0, self._on_sent)
        if isinstance(source, str | os.PathLike):
            return Reading(open(source, "rb"), 0, self._on_sent)
        return Reading(source, self._start, self._on_sent, owned=False)


class Reading(io.RawIOBase):
    """As httpx wants a file: it asks for the length and seeks to 0 before it reads. Tells what is read."""

    def __init__(
        self, file: BinaryIO, start: int | None, on_sent: OnSent | None, *, owned: bool = True
    ) -> None:
        self._file, self._start, self._on_sent, self._owned = file, start, on_sent, owned
        self._sent = 0
        self._total = None if start is None or not file.seekable() else file.seek(0, io.SEEK_END) - start
        if self._total is not None:
            self.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Exactly as much in all as was announced: what is written to the file meanwhile is left out."""
        left = None if self._total is None else self._total - self._sent
        block = self._file.read(size if left is None else left if size < 0 else min(size, left))
        if left and not block:
            raise ClientError("the file became shorter while it was being sent")
        self._sent += len(block)
        if block and self._on_sent:
            self._on_sent(self._sent, self._total)
        return block

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self._total is None or self._start is None:
            raise io.UnsupportedOperation("this cannot be read from its beginning again")
        self._sent = (0, self._sent, self._total)[whence] + offset
        self._file.seek(self._start + self._sent)
        return self._sent

    def close(self) -> None:
        super().close()
        if self._owned:
            self._file.close()


def _name(source: Source) -> str:
    """What the audio is called; a descriptor's number is no name."""
    named = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    return Path(named).name if isinstance(named, str | os.PathLike) else "audio"


def _position(source: Source) -> int | None:
    if isinstance(source, str | os.PathLike | bytes):
        return 0
    return source.tell() if source.seekable() else None
