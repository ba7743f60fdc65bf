"""The process that checks and packs a large snapshot, so that the daemon need not.

    python -P -m whisperd.packer RAW TARGET REASON TAKEN_AT LEVEL

A thread would not do: one that gives way to others is preempted while it holds the interpreter's lock, and
then the whole daemon waits for its turn (270 ms were seen on busy cores). Prints one Outcome.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from time import monotonic
from typing import cast

import msgspec
from msgspec import Struct

from whisperd import archive
from whisperd.archive import BackupError, BadBackup, DamagedDatabase, Manifest, Reason
from whisperd.task import StorageFull

_NICER = 10  # than the daemon and its workers
_SECRETS = ("WHISPERD_", "AWS_")  # settings that are none of its business
_ERRORS: dict[str, type[Exception]] = {
    error.__name__: error for error in (BackupError, BadBackup, DamagedDatabase, StorageFull)
}


class Outcome(Struct, kw_only=True):
    manifest: Manifest | None = None
    phases: dict[str, float] = {}  # seconds each
    error: str = ""  # the name of its class
    message: str = ""


class Laps:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = monotonic()

    def __call__(self, name: str) -> None:
        now = monotonic()
        self.seconds[name], self._since = now - self._since, now


async def pack(raw: Path, target: Path, reason: Reason, taken_at: float, level: int) -> Outcome:
    """As archive.pack, in a process of its own. When cancelled, the process is gone, and nothing is left.

    Raises as archive.pack does.
    """
    starting = asyncio.ensure_future(_start(str(raw), str(target), reason, repr(taken_at), str(level)))
    try:
        process = await asyncio.shield(starting)
        said, _ = await process.communicate()
        return _heard(said, process.returncode)
    finally:
        await _end(await starting)
        archive.part_of(target).unlink(missing_ok=True)


async def _start(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "whisperd.packer", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith(_SECRETS)},
        start_new_session=True,  # Ctrl-C is for the daemon, whose last backup this may be
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


def _heard(said: bytes, status: int | None) -> Outcome:
    try:
        outcome = msgspec.json.decode(said, type=Outcome)
    except msgspec.MsgspecError:
        raise BackupError(f"the process that packs the backup ended with {status}") from None
    if outcome.error:
        raise _ERRORS[outcome.error](outcome.message)
    return outcome


def main(raw: str, target: str, reason: str, taken_at: str, level: str) -> None:
    os.nice(_NICER)
    os.umask(0o077)
    laps = Laps()
    try:
        manifest = archive.pack(
            Path(raw),
            Path(target),
            reason=cast(Reason, reason),
            taken_at=float(taken_at),
            level=int(level),
            done=laps,
        )
        outcome = Outcome(manifest=manifest, phases=laps.seconds)
    except tuple(_ERRORS.values()) as error:
        outcome = Outcome(error=type(error).__name__, message=str(error))
    except OSError as error:
        outcome = Outcome(error="BackupError", message=f"the backup failed: {error.strerror}")
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
