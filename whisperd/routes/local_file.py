"""`audio_path`: a file of this machine, taken only from below the roots that the operator allows."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import aiofiles
from aiofiles.threadpool.binary import AsyncBufferedReader

from whisperd.config import Config
from whisperd.routes.errors import Refusal, explained
from whisperd.routes.form import file_name
from whisperd.spool import Incoming, TooLarge

READ_BYTES = 256 * 1024


async def copy_local(path: str | None, incoming: Incoming, config: Config) -> str:
    """Copy a file of this machine into the spool; it may change or go away later. Returns its name."""
    if path is None:
        raise Refusal(
            422, "missing_field", "send a file, or name one with audio_url or audio_path", "audio_path"
        )
    if "\0" in path:  # open() itself would raise
        raise _no_such_file()
    opener = partial(_open_below, config.http.allowed_roots)
    try:
        async with aiofiles.open(path, "rb", opener=opener) as file:
            while data := await _read(file):
                await incoming.write(data)
    except TooLarge as error:
        raise Refusal(413, "too_large", explained(error), "audio_path") from None
    return file_name(os.fsencode(path))


async def _read(file: AsyncBufferedReader) -> bytes:
    try:
        return await file.read(READ_BYTES)
    except OSError:
        raise Refusal(422, "invalid_field", "the file cannot be read", "audio_path") from None


def _open_below(roots: Sequence[str], path: str, flags: int) -> int:
    """An opener for open(): of a regular file below a root. One answer for every other case.

    The descriptor that is looked at holds the file, so whatever its path leads to a moment later makes no
    difference; and by itself it opens nothing: no device notices it, no FIFO waits.
    """
    with suppress(OSError):  # gone, not to be read by us, a loop of links
        held = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if _is_file_below(roots, held):
                return os.open(f"/proc/self/fd/{held}", flags | os.O_NONBLOCK)
        finally:
            os.close(held)
    raise _no_such_file()


def _is_file_below(roots: Sequence[str], held: int) -> bool:
    place = Path(os.readlink(f"/proc/self/fd/{held}"))  # without links and dots
    below = any(place.is_relative_to(os.path.realpath(root)) for root in roots)  # one may be unmounted
    return below and stat.S_ISREG(os.fstat(held).st_mode)


def _no_such_file() -> Refusal:
    return Refusal(422, "invalid_field", "no such file below http.allowed_roots", "audio_path")
