"""Do backups hold up submits? Latency of a steady stream of submits, alone and while a backup is taken.

    python -m benchmarks.backup [--megabytes 1000] [--rate 1000] [--folder DIR]

Fills a database with finished tasks and their transcripts, then submits `rate` tasks a second, each at its
time whether or not the one before it is answered, and counts from that time. In-process: no HTTP, no workers.
Every task that was answered before a backup began must be in it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from time import monotonic, time

import msgspec
from rich.console import Console
from rich.table import Table

from whisperd import archive
from whisperd.backup import Backup, BackupStore
from whisperd.db import Database
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.task import Audio, NewTask, Rules, Segment

LIMIT_MS = 50  # the promise: no submit waits longer for a backup
ALONE_SECONDS = 10
_CHUNKS = 12  # of a task: a file of five minutes
_WORDS = [
    "".join(random.Random(n).choices("etaoinshrdlucmfwyp", k=2 + n % 8)) for n in range(5000)
]  # compress about as English does


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=1000, help="submits a second")
    parser.add_argument("--folder", help="on the disk that is to be measured")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        sys.exit(asyncio.run(_measure(Path(folder), args.megabytes, args.rate)))


async def _measure(folder: Path, megabytes: int, rate: int) -> int:
    path = folder / "whisperd.db"
    async with Database(path):
        pass
    _fill(path, megabytes * 2**20)
    store = BackupStore(folder / "backups")
    async with Database(path) as db:
        submits = _Submits(SqliteQueue(db, Events(), Rules(max_queued=10**9)), rate)
        async with submits.coming():
            await asyncio.sleep(ALONE_SECONDS)
        alone, submits.waits = _milliseconds(submits.waits), []
        async with submits.coming():
            known, began = set(submits.acknowledged), monotonic()
            backup = await store.take(db, "manual")
    missing = len(known - _ids_in(backup, folder))
    _print(f"submits at {rate}/s to a database of {megabytes} MB", alone, submits.waits, began, backup)
    print(f"{backup.bytes / 2**20:.0f} MiB packed; {missing} of {len(known)} acknowledged tasks missing")
    return int(max(_milliseconds(submits.waits)) > LIMIT_MS or missing > 0)


class _Submits:
    def __init__(self, queue: SqliteQueue, rate: int) -> None:
        self._queue = queue
        self._rate = rate
        self.waits: list[tuple[float, float]] = []  # when each was due, and answered; monotonic seconds
        self.acknowledged: list[str] = []

    @asynccontextmanager
    async def coming(self) -> AsyncIterator[None]:
        """They come until the block ends; then those under way are waited for."""
        async with asyncio.TaskGroup() as group:
            clock = group.create_task(self._tick(lambda at: group.create_task(self._submit(at))))
            yield
            clock.cancel()

    async def _tick(self, go: Callable[[float], object]) -> None:
        due = monotonic()
        while True:
            while due <= monotonic():
                go(due)
                due += 1 / self._rate
            await asyncio.sleep(max(0, due - monotonic()))

    async def _submit(self, due: float) -> None:
        task_id = f"{len(self.acknowledged)}-{due}"
        audio = Audio(name="call.wav", size=1_000_000, sha256="0" * 64)
        await self._queue.submit(NewTask(id=task_id, audio=audio, model="base.en"))
        self.waits.append((due, monotonic()))
        self.acknowledged.append(task_id)


def _fill(path: Path, size: int) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("pragma synchronous = off")
        for seq in _until(lambda: path.stat().st_size >= size):
            conn.execute("begin")
            for n in range(100):
                _insert(conn, seq * 100 + n)
            conn.execute("commit")
            conn.execute("pragma wal_checkpoint(truncate)").fetchone()


def _until(enough: Callable[[], bool]) -> Iterator[int]:
    seq = 0
    while not enough():
        seq += 1
        yield seq


def _insert(conn: sqlite3.Connection, seq: int) -> None:
    conn.execute(
        """
        insert into task (seq, id, kind, state, priority, tenant, model, options, audio_name, audio_size,
          audio_sha256, audio_seconds, waiting, samples, samples_done, progress, max_retries, created_at,
          started_at, finished_at, language)
        values (?, ?, 'transcription', 'completed', 0, 'default', 'base.en', '{}', 'call.wav', 5000000,
          ?, 300, 0, 4800000, 4800000, 1, 3, ?, ?, ?, 'en')
        """,
        (seq, f"filled-{seq}", random.randbytes(32).hex(), time(), time(), time()),
    )
    conn.executemany(
        "insert into chunk (task, number, state, claims, samples, segments) values (?, ?, 'done', 1, ?, ?)",
        [(seq, number, 400_000, _transcript()) for number in range(1, _CHUNKS + 1)],
    )


def _transcript() -> str:
    text = [" ".join(random.choices(_WORDS, k=12)) for _ in range(7)]
    segments = [
        Segment(
            start=4.0 * n,
            end=4.0 * n + 3.87,
            text=line,
            tokens=tuple(random.choices(range(50_000), k=16)),
            avg_logprob=-random.random(),
        )
        for n, line in enumerate(text)
    ]
    return msgspec.json.encode(segments).decode()


def _ids_in(backup: Backup, folder: Path) -> set[str]:
    archive.unpack(backup.path, folder / "back.db")
    with closing(archive.connect(folder / "back.db")) as conn:
        return {row[0] for row in conn.execute("select id from task where id not like 'filled-%'")}


def _milliseconds(waits: Iterable[tuple[float, float]]) -> list[float]:
    return sorted((answered - due) * 1000 for due, answered in waits)


def _print(
    title: str, alone: list[float], during: list[tuple[float, float]], began: float, backup: Backup
) -> None:
    table = Table(title=f"{title}, milliseconds")
    for column in ("", "seconds", "submits", "p50", "p99", "p99.9", "max"):
        table.add_column(column, justify="right")
    table.add_row("alone", str(ALONE_SECONDS), *_ranks(alone))
    table.add_row("with a backup", f"{backup.seconds:.1f}", *_ranks(_milliseconds(during)))
    for phase, seconds in backup.phases.items():
        found = _milliseconds(wait for wait in during if wait[1] > began and wait[0] < began + seconds)
        table.add_row(phase, f"{seconds:.1f}", *_ranks(found))
        began += seconds
    Console(width=100).print(table)


def _ranks(waits: list[float]) -> list[str]:
    ranks = [waits[min(len(waits) - 1, int(q * len(waits)))] for q in (0.5, 0.99, 0.999, 1)]
    return [str(len(waits)), *(f"{wait:.1f}" for wait in ranks)]


if __name__ == "__main__":
    main()
