"""whisperd's queue in a database of its own: the other side of queues.py.

python -m benchmarks.peers.queue_ours FOLDER
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from statistics import quantiles
from time import perf_counter, process_time
from typing import Any

from ulid import ULID

from whisperd.db import Database
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.task import (
    SAMPLE_RATE,
    Audio,
    Chunk,
    Cut,
    Effort,
    ListQuery,
    NewTask,
    Piece,
    Plan,
    Rules,
    Segment,
    State,
)

TENANTS = 10
TOGETHER = 10_000  # tasks of one transaction, when it is filled
SECONDS = 10  # of audio: one chunk
PLAN = Plan(
    fingerprint="f",
    cuts=(Cut(pieces=(Piece(0, SECONDS * SAMPLE_RATE),)),),
    duration=float(SECONDS),
    language="en",
)
SAID = [Segment(start=0.0, end=float(SECONDS), text="And so my fellow Americans ask not " * 4)]
EFFORT = Effort(worker=1, seconds=0.5, device="cpu", threads=1)


class Ours:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._queue = SqliteQueue(db, Events(), Rules(max_queued=10**9))
        self._numbers = count()

    async def fill(self, tasks: int) -> dict[str, float]:
        await self._submit()
        while (missing := tasks - (await self._queue.stats()).by_state["queued"]) > 0:
            await self._db.write(_multiply, min(missing, TOGETHER))
        return {}

    async def submit(self, producers: int, seconds: float) -> dict[str, float]:
        return await _together(self._submit, producers, seconds)

    async def work(self, consumers: int, seconds: float) -> dict[str, float]:
        """Tasks from their first claim to their end: a plan and one chunk, so two claims and two ends."""
        self._left = (await self._queue.stats()).by_state["queued"]
        return await _together(self._complete, consumers, seconds)

    async def claim(self, times: int) -> dict[str, float]:
        found = await _timed(self._queue.claim, times)
        await self._queue.release_all()
        return found

    async def stats(self, times: int) -> dict[str, float]:
        return await _timed(self._queue.stats, times)

    async def first(self, times: int) -> dict[str, float]:
        return await _timed(lambda: self._queue.list(ListQuery()), times)

    async def filtered(self, times: int) -> dict[str, float]:
        query = ListQuery(states=frozenset({State.QUEUED}), tenant="tenant3")
        return await _timed(lambda: self._queue.list(query), times)

    async def deep(self, times: int) -> dict[str, float]:
        [newest] = await self._queue.list(ListQuery(limit=1))
        return await _timed(lambda: self._queue.list(ListQuery(before=newest.seq // 2)), times)

    async def _submit(self) -> None:
        audio = Audio(name="call.wav", size=1_000_000, sha256="0" * 64)
        tenant = f"tenant{next(self._numbers) % TENANTS}"
        await self._queue.submit(NewTask(id=str(ULID()), audio=audio, model="tiny.en", tenant=tenant))

    async def _complete(self) -> bool:
        self._left -= 1
        if self._left < 0:
            return False
        done = False
        while not done:  # whichever task's turn it is: each plan has one chunk behind it
            done = await self._step(await self._queue.claim())
        return True

    async def _step(self, chunk: Chunk) -> bool:
        if chunk.number == 0:
            await self._queue.plan(chunk, PLAN, EFFORT)
        else:
            await self._queue.finish(chunk, SAID, (), EFFORT)
        return chunk.number > 0


def _multiply(conn: sqlite3.Connection, tasks: int) -> None:
    """Submit the first task again, so often: a million one by one would take longer than all the rest."""
    columns = [row["name"] for row in conn.execute("pragma table_info(task)")]
    other = {"id": "number.n || '-' || random()", "tenant": f"'tenant' || (number.n % {TENANTS})"}
    same = [name for name in columns if name not in ("seq", *other)]
    (last,) = conn.execute("select max(seq) from task").fetchone()
    conn.execute(
        f"""
        with recursive number (n) as (select 1 union all select n + 1 from number where n < ?)
        insert into task ({", ".join([*other, *same])})
        select {", ".join([*other.values(), *same])} from number, task
        where task.seq = (select min(seq) from task where state = 'queued')
        """,
        (tasks,),
    )
    conn.execute("insert into chunk (task, number) select seq, 0 from task where seq > ?", (last,))


async def _together(verb: Callable[[], Awaitable[Any]], callers: int, seconds: float) -> dict[str, float]:
    """Each again and again, until the time is over or there is nothing left."""
    counts: list[int] = []

    async def go() -> None:
        done = 0
        while perf_counter() < ends and await verb() is not False:
            done += 1
        counts.append(done)

    cpu, began = process_time(), perf_counter()
    ends = began + seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(go())
    return {"count": sum(counts), "seconds": perf_counter() - began, "cpu": process_time() - cpu}


async def _timed(verb: Callable[[], Awaitable[Any]], times: int) -> dict[str, float]:
    spent = []
    for _ in range(times):
        began = perf_counter()
        await verb()
        spent.append(perf_counter() - began)
    ranks = quantiles(spent, n=100)
    return {"p50": ranks[49], "p99": ranks[98]}


async def main() -> None:
    async with Database(Path(sys.argv[1]) / "whisperd.db") as db:
        ours = Ours(db)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            print(json.dumps(await getattr(ours, asked.pop("do"))(**asked)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
