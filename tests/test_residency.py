"""Which worker gets which model, how long it keeps to it, and when it lets go of it."""

import asyncio
import os
from functools import partial

import pytest
from msgspec.structs import replace

from tests.conftest import a_task
from tests.pool import over, run_beside_a_pool, states, until
from tests.test_queue import planned
from whisperd.residency import Residency
from whisperd.sql import claims
from whisperd.task import Claimant, ModelUnusable, State
from whisperd.worker_pool import Model

HAS_BASE = Claimant(model="base", stays=True)
SOON = 0.2  # seconds


@pytest.fixture
def with_pool(tmp_path):
    return partial(run_beside_a_pool, tmp_path, find_model=lambda name: asyncio.sleep(0, Model(name, "0")))


async def submitted(queue, *models, **fields):
    return [(await queue.submit(a_task(model=model, **fields)))[0] for model in models]


async def whose(queue, claimant):
    return (await queue.claim(lambda: claimant)).task.id


# --- the claim ---


@pytest.mark.parametrize(("order", "expected"), [("fifo", [1, 3, 0]), ("lifo", [3, 1, 2])])
def test_a_claimant_keeps_to_its_model_near_the_front_of_the_line(with_queue, order, expected):
    async def body(queue):
        tasks = await submitted(queue, "tiny.en", "base", "tiny.en", "base")

        claimed = [await whose(queue, HAS_BASE) for _ in range(3)]

        assert claimed == [tasks[n].id for n in expected]

    with_queue(body, order=order)


def test_one_that_has_kept_to_its_model_for_long_takes_the_first_in_line(with_queue):
    async def body(queue):
        first, _ = await submitted(queue, "tiny.en", "base")

        assert await whose(queue, Claimant(model="base", stays=False)) == first.id

    with_queue(body, order="fifo")


def test_neither_a_higher_priority_nor_another_tenants_turn_is_passed_over(with_queue):
    async def body(queue):
        await submitted(queue, "base", tenant="b")
        (urgent,) = await submitted(queue, "tiny.en", priority=5, tenant="b")
        assert await whose(queue, HAS_BASE) == urgent.id
        (other,) = await submitted(queue, "tiny.en", tenant="a")  # has had nothing, its tenant

        assert await whose(queue, HAS_BASE) == other.id

    with_queue(body)


def test_what_has_waited_too_long_is_not_passed_over(with_queue, clock):
    async def body(queue):
        (old,) = await submitted(queue, "tiny.en")
        clock.now += 100
        await submitted(queue, "base")

        assert await whose(queue, HAS_BASE) == old.id

    with_queue(body, order="lifo", max_wait_seconds=60)


def test_only_so_many_tasks_are_passed_over(with_queue):
    async def body(queue):
        first, *_ = await submitted(queue, *["tiny.en"] * claims.NEAR, "base")

        assert await whose(queue, HAS_BASE) == first.id

    with_queue(body, order="fifo")


def test_chunks_of_a_begun_task_are_kept_to_as_well(with_queue):
    async def body(queue):
        long = await planned(queue, model="base")
        await submitted(queue, "tiny.en")

        assert await whose(queue, HAS_BASE) == long.id

    with_queue(body, order="lifo")


def test_what_another_idle_worker_has_loaded_is_left_to_it_for_a_moment_only(with_queue):
    async def body(queue):
        with_tiny = Claimant(model="tiny.en", elsewhere=frozenset({"base"}))
        with_base = Claimant(model="base", elsewhere=frozenset({"tiny.en"}))
        waiting = [asyncio.create_task(queue.claim(lambda who=who: who)) for who in (with_tiny, with_base)]
        await asyncio.sleep(0)
        await submitted(queue, "base")
        done, (left,) = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert done == {waiting[1]}

        await submitted(queue, "base")  # the other does not ask any more
        assert (await left).task.model == "base"

    with_queue(body)


def test_who_looks_for_work_learns_the_model_and_takes_nothing(with_queue):
    async def body(queue):
        claiming, looking = asyncio.create_task(queue.claim()), asyncio.create_task(queue.wanted())
        await asyncio.sleep(0.05)
        await submitted(queue, "base")

        assert await looking == "base"
        assert (await claiming).task.model == "base"

    with_queue(body)


def test_who_looks_for_work_hears_of_what_falls_due(with_queue, clock):
    async def body(queue):
        await submitted(queue, "base", run_at=clock.now + 0.1)
        looking = asyncio.create_task(queue.wanted())
        await asyncio.sleep(0)
        clock.now += 1

        async with asyncio.timeout(10):
            assert await looking == "base"

    with_queue(body)


# --- how long it keeps to it ---


def test_it_keeps_to_its_model_for_so_long_after_it_took_what_was_first():
    now = 100.0
    residency = Residency(lambda: now)
    assert not residency.stays(10)
    residency.claimed(10)
    now = 109.0
    residency.claimed(10)  # perhaps past others: it counts for nothing
    assert residency.stays(10)
    now = 110.0
    assert not residency.stays(10)
    residency.claimed(10)

    assert residency.stays(10)
    assert not residency.stays(0)


# --- the pool ---


def test_workers_start_with_the_models_to_preload_in_turn(with_pool):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle"] * 3)

        assert [worker.model for worker in pool.workers()] == ["base", "small", "base"]

    with_pool(body, "well", workers=3, preload=("base", "small"))


def test_a_worker_with_nothing_to_do_ends_and_starts_again_with_the_model_that_is_wanted(with_pool):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["asleep"])
        (worker,) = pool.workers()
        assert (worker.pid, worker.model, worker.rss_bytes) == (None, None, None)
        assert pool.at_hand == 1

        (task,) = await submitted(queue, "base")

        assert (await over(queue, task)).state == State.COMPLETED
        (worker,) = pool.workers()
        assert (worker.restarts, worker.chunks_done) == (0, 2)
        await until(lambda: states(pool) == ["asleep"])

    with_pool(body, "well", ttl_seconds=SOON)


def test_one_clip_wakes_one_worker_and_a_long_line_all(with_pool, tmp_path):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["asleep"] * 3)
        (clip,) = await submitted(queue, "base")
        await until(lambda: "busy" in states(pool))
        assert states(pool) == ["asleep", "asleep", "busy"]  # its plan is all there is to do

        await submitted(queue, *["base"] * 3)
        await until(lambda: states(pool) == ["busy"] * 3)
        (tmp_path / "go on").touch()
        await over(queue, clip)

    with_pool(body, "waits", workers=3, ttl_seconds=SOON)


def test_it_is_tempted_by_work_that_waits_for_so_long_without_a_break():
    now = 100.0
    residency = Residency(lambda: now)
    assert not residency.tempted(2, every=0.5)
    now = 101.0  # for longer there was nothing to do
    assert not residency.tempted(2, every=0.5)
    for _ in range(3):
        now += 0.5
        assert not residency.tempted(2, every=0.5)
    now += 0.5

    assert residency.tempted(2, every=0.5)
    assert Residency(lambda: now).tempted(0, every=0.5)


def test_a_pool_has_as_many_processes_as_there_is_work_for_between_two_numbers(with_pool, tmp_path):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["asleep", "asleep", "idle"])
        await asyncio.sleep(2 * SOON)
        assert states(pool) == ["asleep", "asleep", "idle"]  # with nothing to do one stays
        assert pool.at_hand == 3

        tasks = await submitted(queue, *["base"] * 3)
        await until(lambda: states(pool) == ["busy"] * 3)
        (tmp_path / "go on").touch()
        for task in tasks:
            await over(queue, task)

        await until(lambda: states(pool) == ["asleep", "asleep", "idle"])

    with_pool(body, "waits", workers=3, least=1, ttl_seconds=SOON)


def test_another_process_is_not_started_for_what_the_first_takes_soon(with_pool):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["asleep", "idle"])

        for task in await submitted(queue, *["base"] * 5):
            await over(queue, task)

        assert [worker.chunks_done for worker in pool.workers()] == [10, 0]

    with_pool(body, "well", workers=2, least=1, ttl_seconds=SOON, patience_seconds=60.0)


def test_a_reload_of_the_least_number_starts_what_is_missing(with_pool):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["asleep", "asleep", "idle"])

        pool.reload(replace(pool.settings, least=2))

        await until(lambda: states(pool) == ["asleep", "idle", "idle"])

    with_pool(body, "well", workers=3, least=1, ttl_seconds=60.0)


def test_a_sleeping_pool_wakes_up_to_stop_to_shrink_and_to_wait_for_a_resume(with_pool):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["asleep"] * 2)
        pool.resize(1)
        await until(lambda: states(pool) == ["asleep"])
        pool.pause()
        (task,) = await submitted(queue, "base")
        await asyncio.sleep(0.1)
        assert states(pool) == ["asleep"]
        pool.resume()
        assert (await over(queue, task)).state == State.COMPLETED
        await until(lambda: states(pool) == ["asleep"])
        pool.drain()
        await until(lambda: states(pool) == ["stopped"])

    with_pool(body, "well", workers=2, ttl_seconds=SOON)


def test_a_task_whose_model_is_gone_fails_and_not_the_worker_that_woke_for_it(tmp_path):
    async def find(name):
        if name == "lost":
            raise ModelUnusable("the model lost is not there")
        return Model(name, "0")

    async def body(queue, pool):
        await until(lambda: states(pool) == ["asleep"])
        lost, kept = await submitted(queue, "lost", "base")

        assert (await over(queue, lost)).error.code == "model_unusable"
        assert (await over(queue, kept)).state == State.COMPLETED

    run_beside_a_pool(tmp_path, body, "well", find_model=find, ttl_seconds=SOON)


def test_a_reload_sets_the_time_anew(with_pool):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle"])
        pid = pool.workers()[0].pid
        pool.reload(pool.settings.__class__(workers=1, threads=1, ttl_seconds=SOON))
        await until(lambda: states(pool) == ["asleep"])

        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    with_pool(body, "well")
