"""Files that are there whole or not at all, after a power cut too: write, fsync, rename, fsync the folder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
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


def sync_file(path: Path) -> None:
    """Make the content of a file that was written by others outlive a power cut."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Make it and its parents where they are missing, for good. Raises FileExistsError: a file is there."""
    if folder.is_dir():
        return
    make_folder(folder.parent, 0o777)
    folder.mkdir(mode=mode, exist_ok=True)
    sync_folder(folder.parent)


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """The name under which to write and fsync a file; it becomes `target` in the end, or is gone."""
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)  # of a call that was killed
    with gone_if_it_fails(part):
        yield part
        publish(part, target)


def write(target: Path, content: bytes) -> None:
    """Make `target` this small file, mode 0600, for good."""
    with whole(target) as part, new_file(part) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Remove a file if it is there, a large one in portions: killed between two, it leaves a part.

    So of a file whose name promises to be whole, the name has to go first. Freed at once, a gigabyte holds
    up everybody's fsync (67 ms were seen on ext4, 11 in portions). One that somebody has open, or knows by
    another name, is left to him whole.
    """
    with suppress(OSError), open(path, "r+b", buffering=0) as file:  # if anything: then in one go
        if os.fstat(file.fileno()).st_size > PORTION and _is_ours_alone(file.fileno()):
            _shorten(file)
    path.unlink(missing_ok=True)


def _shorten(file: IO[bytes]) -> None:
    for end in range(os.fstat(file.fileno()).st_size - PORTION, 0, -PORTION):
        if fcntl.fcntl(file, fcntl.F_GETLEASE) != fcntl.F_WRLCK:
            return  # somebody opens it, and waits until we are done
        file.truncate(end)
        sleep(0.005)


def _is_ours_alone(descriptor: int) -> bool:
    """A lease is granted only where nobody else has the file open. Raises OSError where it is refused."""
    # Who opens it from now on is told to us by a signal. SIGIO, if no other is chosen, would end us.
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
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
