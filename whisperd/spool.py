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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic
from typing import IO, TypeAlias

import structlog

from whisperd import durable
from whisperd.task import StorageFailed, StorageFull, StorageReadOnly
from whisperd.together import Together, attempt

log = structlog.get_logger(__name__)
BUFFER = 256 * 1024  # bytes gathered before a write leaves the loop,
BUFFERS = 16 * 2**20  # and by all that comes at a time: of many slow senders each gathers less,
LEAST_BUFFER = 4096  # down to this
PUBLISHED_AT_ONCE = 64  # small files, with one fsync of their folder
HEAD = 4096  # bytes of a file that are kept at hand to tell what it is
_AUDIO, _PCM, _PART = ".audio", ".pcm", ".part"
_PARTS = ".parts"  # a folder, where the children of a task's requests decode to
_MUTED = ".muted"  # a folder, with recordings in which some of the audio is silent
_OURS = (_AUDIO, _PCM, _PART, _PARTS, _MUTED)  # beside them there may be the folder set-aside: see restore.py


class TooLarge(Exception):
    """More bytes came than the configuration allows."""


class Incoming:
    """Audio on its way to disk. `size` and `sha256` describe what has come so far.

    It has a file once there is more of it than may be gathered, or it is published.
    """

    def __init__(
        self,
        part: Path,
        limit: int,
        check_room: Callable[[int], None],
        most: Callable[[], int],
    ) -> None:
        """`part`: the path of its file until it is published; `most`: bytes that it may gather now."""
        self._part = part
        self._limit = limit
        self._check_room = check_room
        self._most = most
        self._file: IO[bytes] | None = None
        self._buffer = bytearray()
        self._hash = hashlib.sha256()
        self.size = 0
        self.head = b""  # the first bytes, up to HEAD

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    @property
    def is_gathered(self) -> bool:
        """Whether all that has come is in memory."""
        return self._file is None

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
            await _to_its_end(asyncio.to_thread(self.write_out))

    # --- on a thread ---

    def write_out(self) -> None:
        """An unbuffered write may take a part only, and on a disk that is nearly full it does."""
        self._check_room(len(self._buffer))
        if self._file is None:
            self._file = open(self._part, "xb", buffering=0, opener=_private)  # noqa: SIM115 - `drop` closes it
        rest = memoryview(self._buffer)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._buffer = bytearray()

    def publish(self, target: Path) -> None:
        """Give the file that was written its name. The folder is to be synced after that."""
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._part.replace(target)
        self._file.close()
        self._file = None

    def drop(self) -> None:
        """What was not published is gone."""
        if self._file is not None:
            self._file.close()
            self._part.unlink(missing_ok=True)


_Job: TypeAlias = tuple[Incoming, Path]  # and the name that it gets


class Spool:
    def __init__(self, folder: Path, *, max_bytes: int, min_free_bytes: int = 0) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._arriving: set[str] = set()
        self._used = (-inf, 0)  # when that was looked at, on the monotonic clock, and the bytes
        self._publishing = Together(self._publish_all, PUBLISHED_AT_ONCE)
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

    def muted(self, task_id: str, name: str) -> Path:
        """Where a recording of that name is, or may be written to once its folder is made."""
        return self._folder / f"{task_id}{_MUTED}" / f"{name}.wav"

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
        if declared > BUFFER:  # what is smaller is soon written, and refused then
            self.check_room(min(declared, self._max_bytes))
        target = self.audio(task_id)
        incoming = Incoming(self._part(task_id), self._max_bytes, self.check_room, self._share)
        with _disk_trouble(), _member(self._arriving, task_id):
            try:
                yield incoming
                with durable.gone_if_it_fails(target):
                    await _to_its_end(self._published((incoming, target)))
            finally:
                incoming.drop()

    def _published(self, job: _Job) -> Awaitable[None]:
        """A large file goes its own way: its fsync may take seconds."""
        if job[0].is_gathered:
            return self._publishing.ask(job)
        return asyncio.to_thread(_publish_alone, self._folder, job)

    async def _publish_all(self, jobs: Sequence[_Job]) -> Sequence[Exception | None]:
        return await asyncio.to_thread(_publish, self._folder, jobs)

    def remove(self, task_id: str) -> None:
        """Remove all that is kept of a task, what came before a crash included."""
        self._part(task_id).unlink(missing_ok=True)
        self.audio(task_id).unlink(missing_ok=True)
        self.remove_pcm(task_id)

    def remove_pcm(self, task_id: str) -> None:
        """Remove what was made of the audio: it can be made again."""
        self.pcm(task_id).unlink(missing_ok=True)
        for folder in (_PARTS, _MUTED):
            shutil.rmtree(self._folder / f"{task_id}{folder}", ignore_errors=True)

    def discard(self, ids: Iterable[str], *, decoded_only: bool = False) -> None:
        """Remove what is kept of these tasks. What cannot be removed is logged and stays."""
        for task_id in ids:
            try:
                self.remove_pcm(task_id) if decoded_only else self.remove(task_id)
            except OSError as error:
                log.error("a file of the spool cannot be removed", task_id=task_id, error=error.strerror)

    def decoded(self) -> Iterable[str]:
        """The ids that decoded audio is kept for, whole, in parts or muted, in no order."""
        made = (_PCM, _PARTS, _MUTED)
        return {name.split(".", 1)[0] for name in os.listdir(self._folder) if name.endswith(made)}

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
    """Raises FileExistsError where it is one already."""
    if name in of:
        raise FileExistsError(errno.EEXIST, "is coming already", name)
    of.add(name)
    try:
        yield
    finally:
        of.discard(name)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _publish(folder: Path, jobs: Sequence[_Job]) -> Sequence[Exception | None]:
    """Write, fsync and name the files, and their folder once for all; returns what went wrong of each."""
    outcomes = [attempt(incoming.write_out) for incoming, _ in jobs]
    for number, (incoming, target) in enumerate(jobs):
        outcomes[number] = outcomes[number] or attempt(partial(incoming.publish, target))
    if not all(outcomes):
        durable.sync_folder(folder)
    return outcomes


def _publish_alone(folder: Path, job: _Job) -> None:
    for error in _publish(folder, [job]):
        if error is not None:
            raise error


async def _to_its_end(working: Awaitable[None]) -> None:
    """Wait for what is done on a thread; when cancelled, until it is over: a thread cannot be stopped."""
    work = asyncio.ensure_future(working)
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.gather(work, return_exceptions=True)
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
