"""Files that are there whole or not at all, after a power cut too: write, fsync, rename, fsync the folder."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep
from typing import IO

from whisperd.task import StorageFull

PORTION = 32 * 2**20  # bytes of a file freed at once


def publish(part: Path, target: Path) -> None:
    """Give a file that is fsynced its name, for good."""
    part.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file if it is there, a large one in portions.

    Freed at once, a gigabyte holds up everybody's fsync (67 ms were seen on ext4, 11 in portions). One that
    somebody has open, or knows by another name, is left to him whole.
    """
    with suppress(OSError), open(path, "r+b", buffering=0) as file:  # if anything: then in one go
        if os.fstat(file.fileno()).st_size > PORTION and _is_ours_alone(file.fileno()):
            for end in range(os.fstat(file.fileno()).st_size - PORTION, 0, -PORTION):
                file.truncate(end)
                sleep(0.005)
    path.unlink(missing_ok=True)


def _is_ours_alone(descriptor: int) -> bool:
    """A lease is granted only where nobody else has the file open. Raises OSError where it is refused."""
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    return os.fstat(descriptor).st_nlink == 1


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Mode 0600. Raises FileExistsError."""
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        yield file


@contextmanager
def gone_if_it_fails(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def full_disk() -> Iterator[None]:
    """Raise a full disk as StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("no disk space is left for the backup") from error
        raise
