"""Watch a folder: each recording that comes into it gets its subtitles beside it.

    python examples/watch_folder.py ~/recordings

A file is taken once it has not changed from one look to the next, and is done when there is an .srt of its
name. Nothing else is remembered: a file that was submitted before a restart is submitted again under the same
Idempotency-Key, and the daemon answers with the task that there is.
"""

import argparse
import asyncio
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from whisperd.client import AsyncClient, ClientError, TaskFailed

AT_A_TIME = 4
SUFFIXES = {".wav", ".mp3", ".m4a", ".flac", ".ogg", ".opus", ".webm", ".mp4", ".mov", ".mkv"}


class Recording(NamedTuple):
    """A file as it was at one look."""

    path: Path
    size: int
    changed: int  # nanoseconds

    @property
    def subtitles(self) -> Path:
        return self.path.with_suffix(".srt")

    @property
    def key(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()


def recordings(folder: Path) -> Iterator[Recording]:
    """What is still to be done."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.with_suffix(".srt").exists():
            found = path.stat()
            yield Recording(path.resolve(), found.st_size, found.st_mtime_ns)


def write(path: Path, text: str) -> None:
    """The file is there whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


class Watcher:
    def __init__(self, whisperd: AsyncClient, folder: Path) -> None:
        self._whisperd = whisperd
        self._folder = folder
        self._before: set[Recording] = set()
        self._taken: set[Recording] = set()
        self._places = asyncio.Semaphore(AT_A_TIME)

    async def run(self, every: float) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                for recording in self._new():
                    group.create_task(self._do(recording), name=f"subtitles of {recording.path.name}")
                await asyncio.sleep(every)

    def _new(self) -> set[Recording]:
        """Nobody writes them any more, as far as one can see, and they have not been taken yet."""
        now = set(recordings(self._folder))
        settled = (now & self._before) - self._taken
        self._before = now
        self._taken |= settled
        return settled

    async def _do(self, recording: Recording) -> None:
        try:
            async with self._places:
                await self._subtitle(recording)
        except TaskFailed as error:  # and would again: left alone until it changes, or until a restart
            print(f"{recording.path.name}: {error}", file=sys.stderr, flush=True)
        except (ClientError, OSError) as error:
            print(f"{recording.path.name}: {error}; trying again", file=sys.stderr, flush=True)
            self._taken.discard(recording)

    async def _subtitle(self, recording: Recording) -> None:
        submitted = await self._whisperd.submit(recording.path, idempotency_key=recording.key)
        print(f"{recording.path.name}: task {submitted.task_id}", flush=True)
        task = await self._whisperd.wait(submitted.task_id)
        text = await self._whisperd.result_as(task.task_id, "srt")
        write(recording.subtitles, text)
        print(f"{recording.path.name} -> {recording.subtitles.name}", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Writes subtitles beside each recording of a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two looks")
    given = parser.parse_args()
    async with AsyncClient() as whisperd:
        await Watcher(whisperd, given.folder).run(given.every)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:  # what is submitted goes on; the next start fetches it
        sys.exit(130)
