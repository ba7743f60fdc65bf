"""A pool for tests: its queue is real, its children are real processes that behave as bad_child.py says."""

import asyncio
import contextlib
import sys
import time
from pathlib import Path

from whisperd.db import Database
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.spool import Spool
from whisperd.task import FINAL, Rules
from whisperd.worker_pool import Model, PoolSettings, WorkerPool

BAD_CHILD = str(Path(__file__).with_name("bad_child.py"))


def run_beside_a_pool(folder, body, how, workers=1, find_model=None, **settings):
    """Run an async test body beside a pool whose children behave as `how` says."""

    async def main():
        events = Events()
        async with Database(folder / "q.db") as db:
            queue = SqliteQueue(db, events, Rules(retry_delay_seconds=0.01))
            command = (sys.executable, BAD_CHILD, how, str(folder / "misbehaved"))
            pool = WorkerPool(
                queue,
                events,
                Spool(folder / "spool", max_bytes=10),
                find_model or (lambda name: asyncio.sleep(0, Model("m", "0"))),
                "m",
                PoolSettings(workers=workers, threads=1, command=command, **settings),
            )
            running = asyncio.create_task(pool.run())
            try:
                await body(queue, pool)
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running

    asyncio.run(main())


def misdeeds(folder):
    """How often the children misbehaved."""
    return (folder / "misbehaved").stat().st_size


def states(pool):
    return sorted(worker.state for worker in pool.workers())


async def over(queue, task, seconds=20):
    deadline = time.monotonic() + seconds
    with queue._events.subscribe(task.id) as subscription:
        while (task := await queue.get(task.id)).state not in FINAL:
            await subscription.next(deadline - time.monotonic())
    return task


async def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():  # of a process, which sets no Event
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
