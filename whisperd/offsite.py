"""Copies of backups in S3, or in what speaks like it: optional, and never in the way of the local ones.

Needs the extra s3, see s3.py. An upload shows under its name whole or not at all; parts of one that was cut
off stay hidden in the bucket until its lifecycle rules remove them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import time

import structlog

from whisperd import archive, durable, s3
from whisperd.archive import BackupError
from whisperd.backup import Backup, Copies, Entry, Keep, doomed, time_of
from whisperd.config import BackupS3

log = structlog.get_logger(__name__)
FIRST_DELAY, LONGEST_DELAY = 5.0, 600.0  # seconds between two tries
_PART_BYTES = 8 * 2**20  # of an upload, and held in memory


class OffsiteError(BackupError):
    """The service cannot be reached, refuses us, or has no such backup."""


@dataclass(frozen=True, slots=True)
class Remote:
    name: str
    bytes: int
    taken_at: float  # Unix seconds, UTC


class Offsite:
    """Copies what it is offered, one after the other, in `run`, with a growing pause after each failure.

    Of what is offered while an upload runs or fails, only the newest is kept: it holds all that the older
    ones hold, save for what was deleted since. `last` is the newest copy, `trouble` why the latest try
    failed, or what failed after it, or None.
    """

    def __init__(self, settings: BackupS3, keep: Keep, first_delay: float = FIRST_DELAY) -> None:
        """Connects to nothing yet. Raises OffsiteError where it never will."""
        try:
            self._store = s3.opened(settings, settings.bucket, settings.prefix)
        except s3.S3Unusable as error:
            raise OffsiteError(str(error)) from error
        self._where = f"bucket {settings.bucket} at {settings.endpoint or 'Amazon S3'}"
        self.keep = keep  # may be replaced: a reload
        self._first_delay = first_delay
        self._pending: Backup | None = None
        self._offered = asyncio.Event()
        self.last: str | None = None
        self.last_at: float | None = None  # Unix seconds, UTC
        self.trouble: str | None = None
        self._error: str | None = None  # the last trouble, though it may be over
        self._error_at: float | None = None

    def state(self) -> Copies:
        return Copies(
            last=self.last,
            last_at=self.last_at,
            trouble=self.trouble,
            error=self._error,
            error_at=self._error_at,
            behind=self._offered.is_set(),
        )

    def offer(self, backup: Backup) -> None:
        """Have it copied, soon. Returns at once."""
        self._pending = backup
        self._offered.set()

    async def run(self) -> None:
        """Copy what is offered, until cancelled. Raises nothing else."""
        delay = self._first_delay
        while True:
            await self._offered.wait()
            backup = self._pending
            assert backup is not None
            if await self._tried(backup):
                delay = self._first_delay
                if self._pending is backup:  # nothing newer came meanwhile
                    self._offered.clear()
            else:
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)

    async def drain(self, seconds: float) -> bool:
        """Try once more what is still to be copied: the backup of a stop. Whether nothing is left to copy.

        To be called when `run` has ended. What is not there in time is to be offered at the next start.
        """
        if not self._offered.is_set() or (backup := self._pending) is None:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if await self._tried(backup):
                    self._offered.clear()
        return not self._offered.is_set()

    async def copy(self, backup: Backup) -> None:
        """Upload it unless it is there, make sure that it is, and let the old copies go.

        A copy counts, though old ones cannot be removed: that is trouble, and tried again with the next one.
        Raises OffsiteError, OSError.
        """
        if not backup.path.exists():
            raise FileNotFoundError(f"{backup.name} is gone")
        if await self._size_of(backup.name) != backup.bytes:
            await self._upload(backup)
        self.last, self.last_at, self.trouble = backup.name, time(), None
        try:
            await self._prune()
        except OffsiteError as error:
            self._troubled(f"{backup.name} was copied, but old copies stay: {error}")
            log.warning("old_copies_not_removed", reason=str(error))

    async def _upload(self, backup: Backup) -> None:
        import obstore

        with self._troubles():
            await obstore.put_async(
                self._store, backup.name, backup.path, chunk_size=_PART_BYTES, max_concurrency=2
            )
        if (size := await self._size_of(backup.name)) != backup.bytes:
            raise OffsiteError(f"{backup.name} has {size} bytes in the {self._where}")

    async def _size_of(self, name: str) -> int | None:
        """None where there is no such copy."""
        import obstore
        from obstore.exceptions import NotFoundError

        with self._troubles(), suppress(FileNotFoundError, NotFoundError):  # which: the version decides
            return (await obstore.head_async(self._store, name))["size"]
        return None

    async def list(self) -> Sequence[Remote]:
        """The copies, newest first. Raises OffsiteError."""
        import obstore

        with self._troubles():
            found = await obstore.list(self._store).collect_async()
        copies = [(meta["path"], meta["size"], time_of(meta["path"])) for meta in found]
        remotes = [Remote(name, size, taken_at) for name, size, taken_at in copies if taken_at is not None]
        return sorted(remotes, key=lambda remote: remote.name, reverse=True)

    async def fetch(self, name: str, target: Path) -> Path:
        """Download a copy to the new file `target`, and compare its hash: to restore from, on a new box.

        Nothing is left if it fails. Raises OffsiteError, BackupError, StorageFull, OSError.
        """
        import obstore

        if time_of(name) is None:
            raise OffsiteError(f"{name!r} is not the name of a backup: see `whisperd restore --list`")
        with durable.full_disk(), durable.new_file(target) as file, durable.gone_if_it_fails(target):
            with self._troubles(name):
                result = await obstore.get_async(self._store, name)
                async for block in result.stream(_PART_BYTES):
                    await asyncio.to_thread(file.write, memoryview(block))
            file.flush()
            await asyncio.to_thread(archive.verify, target)
        return target

    async def _tried(self, backup: Backup) -> bool:
        try:
            await self.copy(backup)
        except FileNotFoundError:
            log.warning("backup_gone_before_it_was_copied", backup=backup.name)
        except (OffsiteError, OSError) as error:
            self._troubled(str(error))
            log.warning("backup_not_copied", backup=backup.name, reason=str(error))
            return False
        return True

    def _troubled(self, why: str) -> None:
        self.trouble = self._error = why
        self._error_at = time()

    async def _prune(self) -> None:
        import obstore

        entries = [Entry(remote.name, remote.taken_at) for remote in await self.list()]
        for name in doomed(entries, self.keep):
            with self._troubles():
                await obstore.delete_async(self._store, name)

    @contextmanager
    def _troubles(self, name: str = "") -> Iterator[None]:
        """In our words: see s3.py."""
        try:
            with s3.troubles(self._where, name):
                yield
        except s3.S3Error as error:
            raise OffsiteError(str(error)) from error
