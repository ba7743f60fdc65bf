"""The spool: submitted audio and decoded PCM on disk, under names that are ours.

Owns every file below its folder. A file's name is the task's id, never the sender's file name. Order of an
acknowledgement: file fsync, folder fsync, then the commit of the row; whoever fails in between removes it.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from math import inf
from pathlib import Path
from time import monotonic
from typing import IO, Any

import structlog

from whisperd import durable
from whisperd.task import StorageFailed, StorageFull, StorageReadOnly

log = structlog.get_logger(__name__)
BUFFER = 256 * 1024  # bytes gathered before a write leaves the loop,
BUFFERS = 16 * 2**20  # and by all that comes at a time: of many slow senders each gathers less,
LEAST_BUFFER = 4096  # down to this
HEAD = 4096  # bytes of a file that are kept at hand to tell what it is
_AUDIO, _PCM, _PART = ".audio", ".pcm", ".part"
_PARTS = ".parts"  # a folder, where the children of a task's requests decode to
_OURS = (_AUDIO, _PCM, _PART, _PARTS)  # beside them there may be the folder set-aside: see restore.py


class TooLarge(Exception):
    """More bytes came than the configuration allows."""


class Incoming:
    """Audio on its way to disk. `size` and `sha256` describe what has come so far."""

    def __init__(
        self,
        file: IO[bytes],
        limit: int,
        check_room: Callable[[int], None],
        most: Callable[[], int],
    ) -> None:
        """`most`: bytes that it may gather now."""
        self._file = file
        self._limit = limit
        self._check_room = check_room
        self._most = most
        self._buffer = bytearray()
        self._hash = hashlib.sha256()
        self.size = 0
        self.head = b""  # the first bytes, up to HEAD

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def expect(self, size: int) -> None:
        """Refuse at once what cannot fit. Raises TooLarge, StorageFull."""
        if size > self._limit:
            raise TooLarge(f"more than {self._limit} bytes")
        self._check_room(size)

    async def write(self, data: bytes) -> None:
        """Take more bytes. Raises TooLarge, StorageFull."""
        self.size += len(data)
        if self.size > self._limit:
            raise TooLarge(f"more than {self._limit} bytes")
        if len(self.head) < HEAD:
            self.head += data[: HEAD - len(self.head)]
        self._hash.update(data)
        self._buffer += data
        if len(self._buffer) >= self._most():
            await self.flush()

    async def flush(self) -> None:
        """Write what is gathered. Raises StorageFull, before the reserve of the database is touched."""
        with _disk_trouble():
            await _to_its_end(self._write_all)
        self._buffer = bytearray()

    def _write_all(self) -> None:
        """An unbuffered write may take a part only, and on a disk that is nearly full it does."""
        self._check_room(len(self._buffer))
        rest = memoryview(self._buffer)
        while rest:
            rest = rest[self._file.write(rest) :]


class Spool:
    def __init__(self, folder: Path, *, max_bytes: int, min_free_bytes: int = 0) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._arriving: set[str] = set()
        self._used = (-inf, 0)  # when that was looked at, on the monotonic clock, and the bytes
        durable.make_folder(folder)

    def reload(self, max_bytes: int, min_free_bytes: int) -> None:
        """Other limits, for what begins to come from now on."""
        self._max_bytes, self._min_free_bytes = max_bytes, min_free_bytes

    def audio(self, task_id: str) -> Path:
        return self._folder / f"{task_id}{_AUDIO}"

    def has_audio(self, task_id: str) -> bool:
        return os.path.isfile(self.audio(task_id))

    def pcm(self, task_id: str) -> Path:
        return self._folder / f"{task_id}{_PCM}"

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._folder).free

    def used_bytes(self, seconds: float = 60.0) -> int:
        """What its files hold, or held so many seconds ago: to look at 100,000 takes a while. Blocks."""
        looked_at, used = self._used
        if monotonic() - looked_at >= seconds:
            used = sum(_sizes(self._folder))
            self._used = monotonic(), used
        return used

    def is_read_only(self) -> bool:
        return bool(os.statvfs(self._folder).f_flag & os.ST_RDONLY)

    def check_room(self, coming: int = 0) -> None:
        """Raise StorageFull when so many bytes more would touch the reserve that the database needs."""
        if self.free_bytes() - coming < self._min_free_bytes:
            raise StorageFull("no disk space is left for more audio")

    @asynccontextmanager
    async def receive(self, task_id: str, declared: int = 0) -> AsyncIterator[Incoming]:
        """Write the audio of a new task; when the block ends well it is on disk, else it never was.

        `declared`: the bytes it is said to have, to refuse at once what cannot fit.
        Raises StorageFull (StorageReadOnly: the disk may not be written), StorageFailed (it cannot be).
        """
        self.check_room(min(declared, self._max_bytes))
        part = self._part(task_id)
        with _disk_trouble(), _created(part) as file, _member(self._arriving, task_id):
            incoming = Incoming(file, self._max_bytes, self.check_room, self._share)
            yield incoming
            await incoming.flush()
            with durable.gone_if_it_fails(self.audio(task_id)):
                await _to_its_end(_publish, file, part, self.audio(task_id))

    def remove(self, task_id: str) -> None:
        """Remove all that is kept of a task, what came before a crash included."""
        self._part(task_id).unlink(missing_ok=True)
        self.audio(task_id).unlink(missing_ok=True)
        self.remove_pcm(task_id)

    def remove_pcm(self, task_id: str) -> None:
        """Remove the decoded audio: it can be made again."""
        self.pcm(task_id).unlink(missing_ok=True)
        shutil.rmtree(self._folder / f"{task_id}{_PARTS}", ignore_errors=True)

    def discard(self, ids: Iterable[str], *, decoded_only: bool = False) -> None:
        """Remove what is kept of these tasks. What cannot be removed is logged and stays."""
        for task_id in ids:
            try:
                self.remove_pcm(task_id) if decoded_only else self.remove(task_id)
            except OSError as error:
                log.error("a file of the spool cannot be removed", task_id=task_id, error=error.strerror)

    def decoded(self) -> Iterable[str]:
        """The ids that decoded audio is kept for, whole or in parts, in no order."""
        return {name.split(".", 1)[0] for name in os.listdir(self._folder) if name.endswith((_PCM, _PARTS))}

    def owners(self) -> Iterable[str]:
        """The ids that files are kept for, in no order, without those whose audio is still coming."""
        return {
            name.split(".", 1)[0] for name in os.listdir(self._folder) if name.endswith(_OURS)
        } - self._arriving

    def _share(self) -> int:
        """The bytes that each of those that are coming may gather."""
        return max(LEAST_BUFFER, min(BUFFER, BUFFERS // len(self._arriving)))

    def _part(self, task_id: str) -> Path:
        return self._folder / f"{task_id}{_PART}"


def _sizes(folder: Path | str) -> Iterator[int]:
    """Of the files in it and below; what goes in the middle of the look is passed over."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    yield from _sizes(entry.path)
                else:
                    yield entry.stat(follow_symlinks=False).st_size


@contextmanager
def _member(of: set[str], name: str) -> Iterator[None]:
    of.add(name)
    try:
        yield
    finally:
        of.discard(name)


@contextmanager
def _created(part: Path) -> Iterator[IO[bytes]]:
    """A new file that is gone in the end, unless it got another name. Raises FileExistsError.

    Made here and not on a thread, where it would still be made after its caller was cancelled.
    """
    with open(part, "xb", buffering=0, opener=_private) as file:
        try:
            yield file
        finally:
            part.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _publish(file: IO[bytes], part: Path, path: Path) -> None:
    os.fsync(file.fileno())
    durable.publish(part, path)


async def _to_its_end(fn: Callable[..., None], *args: Any) -> None:
    """Call it on a thread; when cancelled, only after it is over: a thread cannot be stopped."""
    working = asyncio.ensure_future(asyncio.to_thread(fn, *args))
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.gather(working, return_exceptions=True)
        raise


@contextmanager
def _disk_trouble() -> Iterator[None]:
    """Raise the troubles of a disk as ours: nothing was accepted, and nothing of the daemon is wrong."""
    try:
        yield
    except OSError as error:
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                raise StorageFull("no disk space is left for the audio") from error
            case errno.EROFS:
                raise StorageReadOnly("the disk for the audio cannot be written") from error
            case errno.EIO:
                raise StorageFailed("the disk did not take the audio") from error
        raise
