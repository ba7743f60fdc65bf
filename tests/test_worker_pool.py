"""The pool against children that die, hang and lie. The queue is real, the engine is not."""

import asyncio
import contextlib
import gc
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.conftest import a_task
from tests.pool import BAD_CHILD, misdeeds, over, run_beside_a_pool, states, until
from whisperd import orders
from whisperd.config import Config, Storage
from whisperd.db import Database
from whisperd.events import Events
from whisperd.history import History
from whisperd.model_store import ModelStore
from whisperd.queue import SqliteQueue
from whisperd.spool import Spool
from whisperd.task import ModelUnusable, State, StorageBusy, StorageFailed
from whisperd.usage import UsageQuery
from whisperd.worker_pool import Model, PoolFailed, PoolSettings, WorkerPool


@pytest.fixture
def with_pool(tmp_path):
    return partial(run_beside_a_pool, tmp_path)


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
        ("uses up its processor time", "used up its processor time"),
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


def test_a_chunk_that_was_claimed_as_the_idle_child_died_goes_to_the_next_one(with_pool):
    async def body(queue, pool):
        claim = queue.claim

        async def claimed_as_it_dies(left):
            chunk, queue.claim = await claim(left), claim
            os.kill(pool.workers()[0].pid, signal.SIGKILL)
            with contextlib.suppress(asyncio.CancelledError):  # as one that could not give its chunk back
                await asyncio.Event().wait()
            return chunk

        queue.claim = claimed_as_it_dies
        task, _ = await queue.submit(a_task(max_retries=0))

        assert (await over(queue, task)).attempt == 1
        assert pool.deaths == {"crashed": 1}

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


def test_a_child_that_says_that_it_lives_for_ever_is_stopped_by_the_limit_too(with_pool):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task())

        assert (await over(queue, task)).state == State.COMPLETED
        assert pool.deaths == {"hung": 1}

    with_pool(body, "alive for ever", max_seconds_per_chunk=0.3)


def test_what_the_engine_warns_of_stands_in_the_task_once(with_pool):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task())

        assert (await over(queue, task)).warnings == ("repetition",)

    with_pool(body, "warns")


def test_the_restarts_are_counted_by_cause(with_pool):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task())
        await over(queue, task)

        assert pool.deaths == pool.lately_died() == {"crashed": 1}

    with_pool(body, "segfault")


def test_each_worker_knows_its_restarts_by_cause_and_when_the_last_was(with_pool):
    async def body(queue, pool):
        began = datetime.now(UTC)
        task, _ = await queue.submit(a_task())
        await over(queue, task)
        os.kill(pool.workers()[0].pid, signal.SIGKILL)
        await until(lambda: pool.workers()[0].restarts == 2)
        worker = pool.workers()[0]

        assert worker.restarts_by_cause == {"hung": 1, "crashed": 1}
        assert worker.last_restart.cause == "crashed"
        at = datetime.fromisoformat(worker.last_restart.at)
        assert timedelta(seconds=-1) < at - began < timedelta(minutes=2)

    with_pool(body, "silence", silence_seconds=0.6)


def test_a_task_that_takes_too_long_fails_with_a_timeout_and_is_not_tried_again(with_pool):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task(timeout_seconds=0.5))
        task = await over(queue, task)

        assert (task.state, task.error.code, task.attempt) == (State.FAILED, "timeout", 1)
        assert pool.deaths == {"timeout": 1}

    with_pool(body, "silence")


@pytest.mark.parametrize(
    ("how", "seconds"),
    [pytest.param("well", 1e-9, id="at its claim"), pytest.param("obeys", 0.5, id="in mid-chunk")],
)
def test_a_task_whose_time_is_over_costs_no_child(with_pool, how, seconds):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle"])
        pid = pool.workers()[0].pid
        task, _ = await queue.submit(a_task(timeout_seconds=seconds))
        task = await over(queue, task)
        other, _ = await queue.submit(a_task())

        assert (task.state, task.error.code, task.attempt) == (State.FAILED, "timeout", 1)
        assert (await over(queue, other)).state == State.COMPLETED
        assert (pool.workers()[0].pid, pool.deaths) == (pid, {})

    with_pool(body, how)


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


@pytest.mark.parametrize("cause", ["cancelled", "timeout"])
def test_a_worker_that_has_to_be_killed_with_its_task_is_no_crash(with_pool, capsys, cause):
    """Each cancel with CTranslate2, which stops between two runs only, was told as a worker that hung."""

    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle"])
        pool._slots[0]._deaths = 1024  # so the next child would have to wait for half a minute
        task, _ = await queue.submit(a_task(timeout_seconds=0.5 if cause == "timeout" else None))
        if cause == "cancelled":
            await until(lambda: states(pool) == ["busy"])
            await queue.cancel(task.id)
        await until(lambda: pool.workers()[0].restarts == 1)
        after, _ = await queue.submit(a_task(max_retries=0))

        assert (await over(queue, after)).state == State.COMPLETED
        assert (pool.deaths, pool.lately_died()) == ({cause: 1}, {})
        told = await History(queue._db).timeline(task.id)
        assert "worker_died" not in [moment.kind for moment in told.moments]
        assert "warning" not in capsys.readouterr().out

    with_pool(body, "deaf")


@pytest.mark.parametrize("how", ["obeys", "deaf"])
def test_the_time_that_a_worker_spent_until_a_cancel_is_counted(with_pool, how):
    """It was nobody's: its tenant could have work for nothing, up to the last moment of each task."""

    async def body(queue, pool):
        task, _ = await queue.submit(a_task())
        await until(lambda: pool.workers()[0].state == "busy")
        began = time.monotonic()
        await asyncio.sleep(0.05)  # the time itself is what counts
        await queue.cancel(task.id)
        await until(lambda: pool.workers()[0].state != "busy")

        (used,) = await History(queue._db).usage(UsageQuery(first="1970-01-01", last="9999-12-31"))
        assert 0.05 <= used.compute_seconds <= time.monotonic() - began + 1
        assert used.cancelled == 1

    with_pool(body, how)


def test_a_cancel_that_races_with_the_result_does_not_stop_the_pool(with_pool):
    async def body(queue, pool):
        finish = queue.finish

        async def cancelled_just_before(chunk, *outcome):
            await queue.cancel(chunk.task.id)
            queue.finish = finish
            return await finish(chunk, *outcome)

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


@pytest.mark.parametrize("turns", [6, 8, 9, 10, 12])  # of the loop; the process is there after nine
def test_a_pool_that_is_cancelled_while_its_children_start_leaves_none(with_pool, turns):
    """Found by a warning of a pipe that nobody closed: asyncio leaves what it was starting."""

    async def body(queue, pool):
        for _ in range(turns):
            await asyncio.sleep(0)

    with_pool(body, "well", workers=2)
    gc.collect()  # says what was left open

    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in children if BAD_CHILD in Path(f"/proc/{pid}/cmdline").read_text()]


REFUSES = """print('{"type": "refused", "code": "model_unusable", "message": "quantised"}', flush=True)"""


@pytest.mark.parametrize(
    ("code", "reason"),
    [("raise SystemExit(3)", "exited with 3"), (f"{REFUSES}; raise SystemExit(1)", "quantised")],
    ids=["dies", "says why"],
)
def test_a_pool_whose_children_cannot_start_ends_with_the_reason(tmp_path, code, reason):
    async def main():
        command = (sys.executable, "-c", code)
        events = Events()
        spool = Spool(tmp_path / "spool", max_bytes=10)

        async def model(name):
            return Model("m", "0")

        async with Database(tmp_path / "q.db") as db:
            settings = PoolSettings(workers=2, threads=1, command=command)
            await WorkerPool(SqliteQueue(db, events), events, spool, model, "m", settings).run()

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(main())
    assert raised.group_contains(PoolFailed, match=reason)


def test_a_child_that_dies_for_a_week_stops_nothing(with_pool):
    """2 to the number of deaths became too large for a float, and took the daemon down."""

    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle"])
        pool._slots[0]._deaths = 1024
        os.kill(pool.workers()[0].pid, signal.SIGKILL)
        await until(lambda: states(pool) == ["starting"])
        pool.drain()
        await until(lambda: states(pool) == ["stopped"])

        assert pool.responsive()

    with_pool(body, "well")


# --- cancelled while its model is looked for ---


@pytest.fixture
def held_up():
    """A `find_model` that takes until `go_on` for the model "slow", and says that it was `asked` for it."""

    async def find_model(name):
        if name == "slow":
            find_model.asked.set()
            await find_model.go_on.wait()
        return Model("m", "0")

    find_model.asked, find_model.go_on = asyncio.Event(), asyncio.Event()
    return find_model


def test_a_task_that_was_cancelled_before_its_chunk_was_begun_is_not_begun(with_pool, tmp_path, held_up):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task(model="slow"))
        await held_up.asked.wait()
        await queue.cancel(task.id)
        held_up.go_on.set()
        await until(lambda: states(pool) == ["idle"])

        assert not (tmp_path / "misbehaved").exists()  # no child was asked for anything

    with_pool(body, "waits", find_model=held_up)


def test_a_task_that_was_even_cleared_away_before_its_chunk_was_begun_stops_nothing(with_pool, held_up):
    """The whole daemon ended: nobody expected that a claimed task could be gone."""

    async def body(queue, pool):
        task, _ = await queue.submit(a_task(model="slow"))
        await held_up.asked.wait()
        await queue.cancel(task.id)
        assert await queue.clear({State.CANCELLED}, float("inf")) == [task.id]
        held_up.go_on.set()
        after, _ = await queue.submit(a_task())

        assert (await over(queue, after)).state == State.COMPLETED
        assert pool.workers()[0].restarts == 0

    with_pool(body, "well", find_model=held_up)


def test_a_cancel_that_comes_just_after_the_claim_is_heard(with_pool):
    """When no slot is known to have the chunk yet: there is nothing to abort."""

    async def body(queue, pool):
        claim = queue.claim

        async def cancelled_just_after(who):
            chunk, queue.claim = await claim(who), claim
            await queue.cancel(chunk.task.id)
            for _ in range(10):  # turns of the loop, in which the pool hears of it
                await asyncio.sleep(0)
            assert not pool.held()
            return chunk

        await until(lambda: states(pool) == ["idle"])
        queue.claim = cancelled_just_after
        pool.pause()  # has it look again
        pool.resume()
        await queue.submit(a_task())
        await until(lambda: queue.claim == claim)
        await until(lambda: states(pool) == ["idle"], seconds=2)

    with_pool(body, "deaf")


def test_a_task_that_was_cancelled_and_is_run_again_is_begun(with_pool, held_up):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task(model="slow"))
        await held_up.asked.wait()
        await queue.cancel(task.id)
        await queue.retry(task.id)
        held_up.go_on.set()

        assert (await over(queue, task)).state == State.COMPLETED

    with_pool(body, "well", find_model=held_up)


# --- trouble with the database ---


def test_a_pool_whose_database_is_lost_stops_its_children_says_so_once_and_waits(
    with_pool, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("whisperd.slot.STORAGE_RETRY", 0.01)

    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle", "idle"])
        (tmp_path / "q.db-wal").unlink()
        assert queue._db.check_files()
        tries, sweep = [], queue.sweep

        async def counted(older_than):
            tries.append(older_than)
            return await sweep(older_than)

        queue.sweep = counted
        pool.pause()  # has them look again
        pool.resume()
        await until(lambda: states(pool) == ["stopped", "stopped"])
        assert not pool.responsive()
        await until(lambda: len(tries) >= 8)

        assert [(worker.pid, worker.restarts) for worker in pool.workers()] == [(None, 0)] * 2
        assert capsys.readouterr().out.count("the queue cannot be used") == 2
        pool.drain()
        assert pool.responsive()

    with_pool(body, "well", workers=2)


def test_what_cannot_be_handed_back_stays_held_until_the_queue_can_be_written(with_pool, monkeypatch):
    """It was swept or recovered as a failure, though nobody was to blame."""
    monkeypatch.setattr("whisperd.slot.STORAGE_RETRY", 0.01)

    async def body(queue, pool):
        beat, release, sweep = queue.beat, queue.release, queue.sweep

        async def fails(*args):
            raise StorageFailed("the database reported: disk I/O error")

        queue.beat = queue.release = queue.sweep = fails
        task, _ = await queue.submit(a_task(max_retries=0))
        await until(lambda: states(pool) == ["stopped"])
        (chunk,) = pool.held()
        assert (chunk.task.id, list(await sweep(float("inf"), pool.held()))) == (task.id, [])
        queue.beat, queue.release, queue.sweep = beat, release, sweep
        task = await over(queue, task)

        assert (task.state, task.attempt) == (State.COMPLETED, 1)

    with_pool(body, "alive for ever", silence_seconds=1.0)


def test_an_orderly_stop_that_could_not_hand_back_its_chunks_blames_nobody(with_pool, tmp_path):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task(max_retries=0))
        await until(lambda: pool.workers()[0].state == "busy")
        body.task, body.pool = task, pool

        async def fails(*args):
            raise StorageBusy("another program holds the database")

        queue.release = fails

    with_pool(body, "deaf")
    assert [chunk.task.id for chunk in body.pool.held()] == [body.task.id]

    async def end_of_the_stop():
        async with Database(tmp_path / "q.db") as db:
            (task,) = await SqliteQueue(db, Events()).release_all()
            return task

    task = asyncio.run(end_of_the_stop())
    assert (task.state, task.attempt, task.error) == (State.QUEUED, 1, None)


# --- poison ---


@pytest.mark.parametrize("how", ["segfault", "exit 0", "garbage"])
def test_a_task_that_kills_its_worker_each_time_fails_after_its_attempts(with_pool, tmp_path, how):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task(max_retries=2))
        task = await over(queue, task)

        assert (task.state, task.error.code) == (State.FAILED, "worker_crashed")
        assert misdeeds(tmp_path) == 3

    with_pool(body, f"{how}, always")


A_DAEMON = """
import asyncio, sys
from pathlib import Path
from tests.pool import run_beside_a_pool

async def body(queue, pool):
    await queue.recover()
    while not pool.held():
        await asyncio.sleep(0.01)
    print(flush=True)
    await asyncio.sleep(3600)

run_beside_a_pool(Path(sys.argv[1]), body, "deaf, always")
"""


def test_a_task_that_takes_the_daemon_down_with_it_each_time_fails_after_its_attempts(tmp_path):
    async def alone(verb):
        async with Database(tmp_path / "q.db") as db:
            return await verb(SqliteQueue(db, Events()))

    async def recovered(queue):
        await queue.recover()
        return await queue.get(task.id)

    task, _ = asyncio.run(alone(lambda queue: queue.submit(a_task(max_retries=2))))
    for _ in range(3):
        assert asyncio.run(alone(lambda queue: queue.get(task.id))).state != State.FAILED
        command = [sys.executable, "-c", A_DAEMON, str(tmp_path)]
        root = Path(__file__).resolve().parents[1]
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as daemon:
            assert daemon.stdout.readline() == b"\n"
            daemon.kill()
    task = asyncio.run(alone(recovered))

    assert (task.state, task.error.code) == (State.FAILED, "interrupted")


# --- models that are not what they were ---


def test_a_task_whose_model_is_gone_fails_and_the_pool_goes_on(with_pool):
    async def find_model(name):
        if name == "gone":
            raise ModelUnusable("the model gone is not installed")
        return Model("m", "0")

    async def body(queue, pool):
        bad, _ = await queue.submit(a_task(model="gone"))
        bad = await over(queue, bad)
        good, _ = await queue.submit(a_task())
        good = await over(queue, good)

        assert (bad.state, bad.error.code, bad.attempt) == (State.FAILED, "model_unusable", 1)
        assert (good.state, pool.workers()[0].restarts) == (State.COMPLETED, 0)

    with_pool(body, "well", find_model=find_model)


def test_a_model_file_that_changes_while_the_daemon_runs_is_not_used(with_pool, tmp_path):
    """The real store, on a file that nobody loads: its hash is what is looked at."""
    store = ModelStore(Config(storage=Storage(models_dir=str(tmp_path))))
    file = tmp_path / "ggml-own.bin"
    head = struct.pack("<Ii", 0x67676D6C, 51864)  # what tells the store that it is a model
    file.write_bytes(head + bytes(1000))

    async def find_model(name):
        return Model("m", "0") if name == "m" else await store.find(name)

    async def body(queue, pool):
        before, _ = await queue.submit(a_task(model="own"))
        assert (await over(queue, before)).state == State.COMPLETED
        file.write_bytes(head + bytes(999) + b"x")
        os.utime(file, (1, 1))
        after, _ = await queue.submit(a_task(model="own"))
        after = await over(queue, after)

        assert (after.state, after.error.code) == (State.FAILED, "model_unusable")
        assert pool.workers()[0].state in ("idle", "busy")

    with_pool(body, "well", find_model=find_model)


def test_a_default_model_that_vanishes_for_a_while_stops_nothing_for_good(with_pool):
    missing = []

    async def find_model(name):
        if missing:
            missing.pop()
            raise ModelUnusable("the model m is not installed")
        return Model("m", "0")

    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle"])
        missing.append(True)
        os.kill(pool.workers()[0].pid, signal.SIGKILL)
        await until(lambda: pool.deaths["model_unusable"] == 1)
        task, _ = await queue.submit(a_task())

        assert (await over(queue, task)).state == State.COMPLETED

    with_pool(body, "well", find_model=find_model)


# --- what the operator changes while it runs ---


def test_a_paused_pool_finishes_its_chunk_and_claims_nothing_until_it_is_resumed(with_pool):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle", "idle"])
        pool.pause()
        task, _ = await queue.submit(a_task())
        await asyncio.sleep(0.1)  # there is nothing to wait for: nothing happens
        assert (pool.paused, (await queue.get(task.id)).state) == (True, State.QUEUED)
        pool.resume()

        assert (await over(queue, task)).state == State.COMPLETED
        assert not pool.paused

    with_pool(body, "well", workers=2)


def test_a_chunk_in_work_is_finished_while_the_pool_is_paused(with_pool, tmp_path):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task())
        await until(pool.held)
        pool.pause()
        (tmp_path / "go on").touch()
        await until(lambda: states(pool) == ["idle"])

        assert pool.workers()[0].restarts == 0
        assert (await queue.get(task.id)).state == State.PROCESSING

    with_pool(body, "waits")


def test_a_drain_ends_a_paused_pool(with_pool):
    async def body(queue, pool):
        pool.pause()
        pool.drain()
        await until(lambda: states(pool) == ["stopped"])

    with_pool(body, "well")


def test_more_workers_start_at_once(with_pool):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle"])
        pool.resize(3)
        await until(lambda: states(pool) == ["idle"] * 3)

        assert [worker.id for worker in pool.workers()] == [1, 2, 3]

    with_pool(body, "well")


def test_superfluous_workers_end_after_their_chunks(with_pool, tmp_path):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle"] * 3)
        pids = [worker.pid for worker in pool.workers()]
        tasks = [(await queue.submit(a_task(max_retries=0)))[0] for _ in range(3)]
        await until(lambda: len(pool.held()) == 3)
        pool.resize(1)
        (tmp_path / "go on").touch()
        ended = [(await over(queue, task)).state for task in tasks]
        await until(lambda: len(pool.workers()) == 1)

        assert ended == [State.COMPLETED] * 3
        assert [worker.pid for worker in pool.workers()] == pids[:1]
        await until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids[1:]))

    with_pool(body, "waits", workers=3)


def test_a_pool_has_at_least_one_worker(with_pool):
    async def body(queue, pool):
        with pytest.raises(ValueError, match="no fewer"):
            pool.resize(-1)

    with_pool(body, "well")


def test_new_limits_hold_from_the_next_chunk_on(with_pool):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle"])
        pool.reload(replace(pool.settings, workers=2, max_seconds_per_chunk=0.3, threads=7))
        task, _ = await queue.submit(a_task())

        assert (await over(queue, task)).state == State.COMPLETED
        assert pool.deaths == {"hung": 1}
        assert (pool.settings.threads, len(pool.workers())) == (1, 2)

    with_pool(body, "busy for ever")


# --- for the watchdog ---


def test_a_pool_whose_children_only_die_is_responsive(with_pool):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle"])
        task, _ = await queue.submit(a_task(max_retries=0))
        await over(queue, task)

        assert pool.responsive()

    with_pool(body, "segfault, always")


def test_a_pool_that_hangs_in_its_starts_or_has_ended_is_not_responsive(with_pool, monkeypatch):
    asked = asyncio.Event()

    async def find_model(name):
        asked.set()
        await asyncio.Event().wait()

    async def body(queue, pool):
        body.pool = pool
        await asked.wait()
        assert pool.responsive()
        monkeypatch.setattr("whisperd.slot.STUCK_SECONDS", 0.0)
        assert not pool.responsive()

    with_pool(body, "well", find_model=find_model)
    monkeypatch.undo()
    assert not body.pool.responsive()


# --- clocks ---


def test_a_clock_that_was_set_back_gives_a_task_no_more_than_its_timeout(with_pool):
    async def body(queue, pool):
        pool.pause()
        await queue.submit(a_task(timeout_seconds=60.0))
        chunk = await queue.claim()
        chunk = replace(chunk, claimed_at=chunk.task.started_at - 86_400)

        assert orders.task_ends(chunk) <= time.monotonic() + 60
        await queue.release(chunk)

    with_pool(body, "well")
