"""The pool against children that die, hang and lie. The queue is real, the engine is not."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import a_task
from whisperd.db import Database
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.spool import Spool
from whisperd.task import FINAL, Rules, State, StorageBusy
from whisperd.worker_pool import Model, PoolFailed, PoolSettings, WorkerPool

BAD_CHILD = str(Path(__file__).with_name("bad_child.py"))


@pytest.fixture
def with_pool(tmp_path):
    """Run an async test body beside a pool whose children behave as `how` says."""

    def run(body, how, workers=1, **settings):  # settings: of the pool
        async def main():
            events = Events()
            async with Database(tmp_path / "q.db") as db:
                queue = SqliteQueue(db, events, Rules(retry_delay_seconds=0.01))
                command = (sys.executable, BAD_CHILD, how, str(tmp_path / "misbehaved"))
                pool = WorkerPool(
                    queue,
                    events,
                    Spool(tmp_path / "spool", max_bytes=10),
                    lambda name: asyncio.sleep(0, Model("m", "0")),
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

    return run


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


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("kill", "killed by signal 9"),
        ("segfault", "killed by signal 11"),
        ("exit 0", "exited with 0"),
        ("exit 1", "exited with 1"),
        ("garbage", "makes no sense"),
        ("half a line", "exited with 0"),
        ("closes its pipe", "killed by signal 9"),
        ("wrong message", "makes no sense"),
        ("wrong answer", "makes no sense"),
        ("silence", "no sign of life"),
    ],
)
def test_whatever_a_child_does_costs_one_retry_and_its_cause_is_named(with_pool, how, code):
    async def body(queue, pool):
        causes = []
        with queue._events.subscribe() as subscription:
            task, _ = await queue.submit(a_task())
            task = await over(queue, task)
            subscription.end()
            async for event in subscription:
                causes += [event.task.error.message] if event.task.error else []

        assert (task.state, task.attempt) == (State.COMPLETED, 2)
        assert any(code in cause for cause in causes)
        assert pool.workers()[0].restarts == 1

    with_pool(body, how, silence_seconds=0.6)


def test_the_death_of_an_idle_child_is_noticed_and_blamed_on_nobody(with_pool):
    async def body(queue, pool):
        await until(lambda: pool.workers()[0].state == "idle")
        os.kill(pool.workers()[0].pid, signal.SIGKILL)
        await until(lambda: pool.workers()[0].restarts == 1)
        task, _ = await queue.submit(a_task(max_retries=0))

        assert (await over(queue, task)).state == State.COMPLETED

    with_pool(body, "well")


def test_a_database_that_cannot_be_written_stops_nothing_for_good(with_pool, tmp_path, capsys):
    async def body(queue, pool):
        await until(lambda: pool.workers()[0].state == "idle")
        await queue._db.write(lambda conn: conn.execute("pragma busy_timeout = 50").fetchone())
        due = time.time() + 0.3
        task, _ = await queue.submit(a_task(run_at=due))
        with contextlib.closing(sqlite3.connect(tmp_path / "q.db", isolation_level=None)) as foreign:
            foreign.execute("begin immediate")
            with pytest.raises(StorageBusy):
                await queue.submit(a_task())
            await until(lambda: "the queue cannot be written" in capsys.readouterr().out)
            foreign.execute("rollback")

        assert (await over(queue, task)).state == State.COMPLETED

    with_pool(body, "well")


def test_a_child_that_works_for_ever_is_stopped_by_the_limit_of_a_chunk(with_pool):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task())

        assert (await over(queue, task)).state == State.COMPLETED
        assert pool.workers()[0].restarts == 1

    with_pool(body, "busy for ever", max_seconds_per_chunk=1.0, silence_seconds=60)


def test_a_task_that_takes_too_long_fails_with_a_timeout_and_is_not_tried_again(with_pool):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task(timeout_seconds=0.5))
        task = await over(queue, task)

        assert (task.state, task.error.code, task.attempt) == (State.FAILED, "timeout", 1)

    with_pool(body, "silence")


def test_a_child_that_does_not_obey_an_abort_is_killed_within_two_seconds(with_pool):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task())
        await until(lambda: pool.workers()[0].state == "busy")
        pid = pool.workers()[0].pid
        began = time.monotonic()
        await queue.cancel(task.id)
        await until(lambda: not os.path.exists(f"/proc/{pid}"))

        assert time.monotonic() - began < 2
        assert (await queue.get(task.id)).state == State.CANCELLED

    with_pool(body, "deaf")


def test_a_cancel_that_races_with_the_result_does_not_stop_the_pool(with_pool):
    async def body(queue, pool):
        finish = queue.finish

        async def cancelled_just_before(chunk, segments):
            await queue.cancel(chunk.task.id)
            queue.finish = finish
            return await finish(chunk, segments)

        queue.finish = cancelled_just_before
        raced, _ = await queue.submit(a_task())
        assert (await over(queue, raced)).state == State.CANCELLED
        after, _ = await queue.submit(a_task())
        assert (await over(queue, after)).state == State.COMPLETED

    with_pool(body, "well")


def test_a_drained_pool_finishes_its_chunks_and_claims_no_more(with_pool):
    async def body(queue, pool):
        await until(lambda: all(worker.state == "idle" for worker in pool.workers()))
        pool.drain()
        task, _ = await queue.submit(a_task())
        await until(lambda: all(worker.state == "stopped" for worker in pool.workers()))

        assert (await queue.get(task.id)).state == State.QUEUED

    with_pool(body, "well", workers=2)


def test_a_cancelled_pool_hands_its_chunks_back_without_blame(with_pool, tmp_path):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task())
        await until(lambda: pool.workers()[0].state == "busy")
        body.task, body.pid = task, pool.workers()[0].pid

    with_pool(body, "deaf")
    assert not os.path.exists(f"/proc/{body.pid}")

    async def look():
        async with Database(tmp_path / "q.db") as db:
            return await SqliteQueue(db, Events()).get(body.task.id)

    task = asyncio.run(look())
    assert (task.state, task.attempt) == (State.QUEUED, 1)


def test_a_pool_whose_children_cannot_start_ends_with_the_reason(tmp_path):
    async def main():
        command = (sys.executable, "-c", "raise SystemExit(3)")
        events = Events()
        spool = Spool(tmp_path / "spool", max_bytes=10)

        async def model(name):
            return Model("m", "0")

        async with Database(tmp_path / "q.db") as db:
            settings = PoolSettings(workers=2, threads=1, command=command)
            await WorkerPool(SqliteQueue(db, events), events, spool, model, "m", settings).run()

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(main())
    assert raised.group_contains(PoolFailed, match="exited with 3")
