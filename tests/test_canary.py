"""The canary: idle workers are asked for a second of sound, and nobody who has work notices."""

import os
import signal
from functools import partial

import pytest
from msgspec.structs import replace

from tests.child import Child
from tests.conftest import a_task
from tests.pool import misdeeds, over, run_beside_a_pool, states, until
from whisperd.engine.protocol import Abort, Aborted, Probe, Transcribed
from whisperd.events import Event
from whisperd.task import State

OFTEN = 0.05  # seconds


@pytest.fixture
def with_pool(tmp_path):
    return partial(run_beside_a_pool, tmp_path, canary_after_seconds=OFTEN)


def test_workers_with_nothing_to_do_are_asked_and_nothing_is_left_of_it(with_pool):
    async def body(queue, pool):
        with queue._events.subscribe() as subscription:
            await until(lambda: None not in [worker.canary_seconds for worker in pool.workers()])
            heard = subscription._queue.qsize()
        before = await queue._db.changes()
        sung = [slot.canary._well_at for slot in pool._slots]
        await until(lambda: all(s.canary._well_at > at for s, at in zip(pool._slots, sung, strict=True)))

        assert heard == 0
        assert await queue._db.changes() == before
        assert [(w.chunks_done, w.restarts, w.real_time_factor) for w in pool.workers()] == [(0, 0, None)] * 2
        assert pool.canary_trouble is None

    with_pool(body, "well", workers=2)


def test_a_worker_that_stands_still_is_found_with_nothing_to_do_and_replaced(with_pool):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle"])
        stopped = pool.workers()[0].pid
        os.kill(stopped, signal.SIGSTOP)
        await until(lambda: pool.canary_trouble)

        assert f"child {stopped} gave no sign of life" in pool.canary_trouble
        await until(lambda: pool.canary_trouble is None)
        assert pool.workers()[0].pid != stopped
        assert pool.deaths == {"hung": 1}

    with_pool(body, "well", silence_seconds=0.6)


def test_one_that_takes_too_long_is_replaced_however_alive_it_looks(with_pool, tmp_path):
    async def body(queue, pool):
        await until(lambda: pool.canary_trouble)

        assert "worked for 0 s" in pool.canary_trouble
        await until(lambda: pool.canary_trouble is None)
        assert misdeeds(tmp_path) == 1

    with_pool(body, "alive for ever", canary_limit_seconds=0.3)


@pytest.mark.parametrize("how", ["kill", "garbage", "exit 0", "bad_alloc"])
def test_one_that_dies_of_it_is_replaced_and_asked_again_at_once(with_pool, how):
    async def body(queue, pool):
        pool.reload(replace(pool.settings, canary_after_seconds=3600.0))
        pool._slots[0].test()
        await until(lambda: pool.canary_trouble)
        await until(lambda: pool._untested(3600.0))
        pool._slots[0].test()
        await until(lambda: pool.canary_trouble is None)

        assert pool.workers()[0].restarts == 1

    with_pool(body, how)


def test_one_that_fails_again_is_not_started_over_and_over(with_pool):
    async def body(queue, pool):
        pool.reload(replace(pool.settings, canary_after_seconds=3600.0))
        for restarts in (1, 2):
            await until(lambda: pool._slots[0].free)
            pool._slots[0].test()
            await until(lambda n=restarts: pool.workers()[0].restarts == n)
        await until(lambda: pool._slots[0].free)

        assert pool._untested(3600.0) is None
        assert pool.canary_trouble

    with_pool(body, "kill, always")


def test_a_task_that_comes_meanwhile_has_its_way(with_pool, tmp_path):
    """The child sings until it is told to stop, and is not killed for it."""

    async def body(queue, pool):
        await until(lambda: (tmp_path / "misbehaved").exists())
        task, _ = await queue.submit(a_task())

        pool.reload(replace(pool.settings, canary_after_seconds=3600.0))
        assert (await over(queue, task)).attempt == 1
        assert (pool.workers()[0].restarts, pool.canary_trouble) == (0, None)
        assert pool.workers()[0].canary_seconds is None  # it was never heard out

    with_pool(body, "obeys")


def test_a_stop_does_not_wait_for_it(with_pool, tmp_path):
    async def body(queue, pool):
        await until(lambda: (tmp_path / "misbehaved").exists())
        pool.drain()
        await until(lambda: states(pool) == ["stopped"])

        assert pool.workers()[0].restarts == 0

    with_pool(body, "obeys")


def test_nobody_is_asked_at_work_or_while_the_pool_is_paused(with_pool, tmp_path):
    async def body(queue, pool):
        pool.reload(replace(pool.settings, canary_after_seconds=3600.0))
        await until(lambda: states(pool) == ["idle", "idle"])
        assert pool._untested(0.0) is not None
        pool.pause()
        assert pool._untested(0.0) is None
        pool.resume()

        task, _ = await queue.submit(a_task())
        await until(lambda: "busy" in states(pool))
        assert states(pool) == ["busy", "idle"]
        assert pool._untested(0.0).chunk is None
        (tmp_path / "go on").touch()
        assert (await over(queue, task)).state == State.COMPLETED

    with_pool(body, "waits", workers=2)


def test_a_worker_that_stands_still_is_found_beside_one_that_is_busy(with_pool):
    async def body(queue, pool):
        pool.reload(replace(pool.settings, canary_after_seconds=3600.0))
        await until(lambda: states(pool) == ["idle", "idle"])
        await queue.submit(a_task())
        await until(lambda: "busy" in states(pool))
        (idle,) = [worker for worker in pool.workers() if worker.state == "idle"]
        (busy,) = [worker for worker in pool.workers() if worker.state == "busy"]
        os.kill(idle.pid, signal.SIGSTOP)
        pool.reload(replace(pool.settings, canary_after_seconds=OFTEN))
        await until(lambda: pool.canary_trouble)

        assert f"child {idle.pid} gave no sign of life" in pool.canary_trouble
        assert busy.pid in [worker.pid for worker in pool.workers() if worker.state == "busy"]

    with_pool(body, "alive for ever", workers=2, silence_seconds=0.6)


def test_the_chunks_of_a_plan_do_not_wait_for_a_canary(with_pool):
    async def body(queue, pool):
        pool.reload(replace(pool.settings, canary_after_seconds=3600.0))
        await until(lambda: states(pool) == ["idle", "idle"])
        planned, _ = await queue.submit(a_task(run_at=4e9))
        pool._slots[0].canary.wanted = True  # as between the wish and its beginning
        for slot in pool._slots:
            slot._state = "busy"
        queue._events.publish(Event("task", replace(planned, state=State.PROCESSING)))
        await until(lambda: not pool._slots[0].canary.wanted)

    with_pool(body, "well", workers=2)


def test_an_idle_neighbour_takes_what_comes_and_the_canary_goes_on(with_pool):
    async def body(queue, pool):
        pool.reload(replace(pool.settings, canary_after_seconds=3600.0))
        await until(lambda: states(pool) == ["idle", "idle"])
        pool._slots[0].canary.wanted = True  # as between the wish and its beginning
        queued, _ = await queue.submit(a_task(run_at=4e9))
        pool._make_way()
        assert pool._slots[0].canary.wanted

        pool._slots[1]._state = "busy"
        pool._slots[0]._state = "busy"
        queue._events.publish(Event("task", queued))
        await until(lambda: not pool._slots[0].canary.wanted)

    with_pool(body, "well", workers=2)


def test_a_real_child_sings_and_stops_when_it_is_told_to(tmp_path, weights):
    with Child(tmp_path, weights / "ggml-tiny.en.bin") as child:
        child.send(Probe(number=1, model=child.model, model_sha256="m"))
        sung = child.answer(90)
        child.send(Probe(number=2, model=child.model, model_sha256="m"))
        child.send(Abort(2))

        assert isinstance(sung, Transcribed)
        assert (sung.segments, sung.seconds > 0) == ([], True)
        assert isinstance(child.answer(90), Aborted)
