"""Folders to try something in, beside what they must not fill the disk of; none is left for long."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

_PREFIX = ".preview-"


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """A new folder in the folder `beside`, mode 0700, gone in the end; what killed ones left goes first."""
    clear(beside)
    folder, lock = _made(beside)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def clear(beside: Path) -> None:
    """Remove the folders whose processes are no more: their locks went with them."""
    for folder in beside.glob(f"{_PREFIX}*/"):
        with suppress(OSError):  # in use, or gone meanwhile
            lock = _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _made(beside: Path) -> tuple[Path, int]:
    while True:
        folder = Path(mkdtemp(dir=beside, prefix=_PREFIX))
        with suppress(FileNotFoundError):
            lock = _locked(folder, fcntl.LOCK_EX)
            if folder.exists():  # else one who clears had the lock before us
                return folder, lock
            os.close(lock)


def _locked(folder: Path, how: int) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
