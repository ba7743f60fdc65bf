"""What lies in a -wal behind the place where SQLite stops to read it.

SQLite reads a -wal up to the first frame whose checksum does not fit, and says nothing of the rest: that is
how it drops a transaction that a power cut tore. The same silence drops every commit behind one flipped bit.
The format: https://www.sqlite.org/walformat.html. Opens the files by path: see condition.py for whose.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

_HEADER = struct.Struct(">24s2I")  # what is summed up, and the sum
_FRAME = struct.Struct(">4xI8s8x")  # pages of the database after a commit, else 0; salt
_INDEX = struct.Struct("=12x?3xI12x8s")  # initialised, last frame that is valid; salt: at the start of a -shm
_MAGIC = {0x377F0682: "<6I", 0x377F0683: ">6I"}  # how the words are read that are summed up
_SALT = slice(16, 24)


def commits_behind_damage(database: Path) -> int:
    """How many commits there are in the -wal that SQLite does not see, of a database that it has just read.

    One may be what a power cut tore: its fsync had not returned, so nobody was told of it. More than one is
    damage, since each begins only when the one before it is on the disk. 0 also where the -shm, which says
    how far SQLite read, cannot be had. Looks at a few bytes of each frame: 15 ms for 64 MB.
    """
    try:
        wal = os.open(f"{database}-wal", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return sum(_unseen(wal, database))
    finally:
        os.close(wal)


def _unseen(wal: int, database: Path) -> Iterator[bool]:
    """Whether it is a commit, of each frame of this life of the -wal that SQLite does not go by."""
    size = _HEADER.size, _FRAME.size + _page_size(database)
    header = os.pread(wal, size[0], 0)
    seen = _seen(database, header[_SALT]) if _is_sound(header) else 0
    if seen is None:
        return
    salt = header[_SALT] if _is_sound(header) else _frame(wal, size[0])[1]
    for at in range(size[0] + seen * size[1], os.fstat(wal).st_size - size[1] + 1, size[1]):
        pages, its_salt = _frame(wal, at)
        yield its_salt == salt and pages > 0


def _frame(wal: int, at: int) -> tuple[int, bytes]:
    found = os.pread(wal, _FRAME.size, at)
    return _FRAME.unpack(found) if len(found) == _FRAME.size else (0, b"")


def _page_size(database: Path) -> int:
    with database.open("rb") as file:
        (size,) = struct.unpack(">16xH", file.read(18))
    return 65_536 if size == 1 else int(size)


def _seen(database: Path, salt: bytes) -> int | None:
    """The last frame that SQLite goes by; None: it has not said."""
    try:
        with Path(f"{database}-shm").open("rb") as file:
            initialised, last, its_salt = _INDEX.unpack(file.read(_INDEX.size))
    except (OSError, struct.error):
        return None
    return last if initialised and its_salt == salt else None


def _is_sound(header: bytes) -> bool:
    """SQLite ignores all of a -wal whose header is damaged."""
    if len(header) < _HEADER.size:
        return False
    summed, *said = _HEADER.unpack(header)
    words = _MAGIC.get(int.from_bytes(summed[:4], "big"))
    return words is not None and _sum(struct.unpack(words, summed)) == said


def _sum(words: tuple[int, ...]) -> list[int]:
    first = second = 0
    for a, b in zip(words[::2], words[1::2], strict=True):
        first = (first + a + second) & 0xFFFFFFFF
        second = (second + b + first) & 0xFFFFFFFF
    return [first, second]
