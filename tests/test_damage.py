"""Rows that cannot be read, as after a flipped bit: it was the end of the daemon, at each start anew."""

import asyncio

import pytest

from tests.conftest import a_task
from tests.pool import over, run_beside_a_pool
from tests.test_detections import a_detection, detections
from tests.test_queue import a_plan, planned
from whisperd.task import Claimant, ListQuery, State, StorageFailed

NO_UTF8 = "update task set {0} = cast(x'ff' || substr({0}, 2) as text) where seq = ?"
DAMAGES = {
    "its name is not UTF-8": NO_UTF8.format("audio_name"),
    "its metadata is not UTF-8": NO_UTF8.format("metadata"),
    "its model is not UTF-8": NO_UTF8.format("model"),
    "its metadata is no JSON": "update task set metadata = '{\"a\":' where seq = ?",
    "its options are another thing": "update task set options = '[]' where seq = ?",
    "its warnings are no JSON": "update task set warnings = '[' where seq = ?",
    "its kind is none": "update task set kind = 'transcriptiom' where seq = ?",
}
every_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


async def spoil(queue, sql, task):
    def spoilt(conn):
        conn.execute("pragma ignore_check_constraints = on")  # as who flips a bit does
        conn.execute(sql, (task.seq,))
        conn.execute("pragma ignore_check_constraints = off")

    await queue._db.write(spoilt)


async def has_failed(queue, task):
    """As a task that can be read again, alone and in a list."""
    found = await queue.get(task.id)
    listed = [task.id for task in await queue.list(ListQuery())]
    return (found.state, found.error.code, task.id in listed) == (State.FAILED, "damaged", True)


@every_damage
def test_a_task_that_cannot_be_read_fails_and_those_behind_it_get_their_turn(with_queue, damage):
    async def body(queue):
        behind, _ = await queue.submit(a_task())
        bad, _ = await queue.submit(a_task(metadata={"a": 1}))
        await spoil(queue, damage, bad)

        assert (await queue.claim()).task.id == behind.id
        assert await has_failed(queue, bad)
        assert queue.db.broken is None

    with_queue(body)


def test_so_does_one_with_a_chunk_that_cannot_be_read(with_queue):
    async def body(queue):
        behind, _ = await queue.submit(a_task())
        bad = await planned(queue)
        await spoil(queue, "update chunk set cut = '{' where task = ? and number = 1", bad)

        assert (await queue.claim()).task.id == behind.id
        assert await has_failed(queue, bad)

    with_queue(body)


def test_of_twins_the_one_that_cannot_be_read_fails_and_the_other_is_decoded(with_queue):
    async def body(queue):
        bad, _ = await queue.submit(a_task(model_sha256="m"))
        twin, _ = await queue.submit(a_task(model_sha256="m"))  # the newest, so it is its turn
        await spoil(queue, DAMAGES["its metadata is no JSON"], bad)

        assert (await queue.claim()).task.id == twin.id
        assert await has_failed(queue, bad)

    with_queue(body, cache_seconds=3600.0)


def test_one_that_is_due_and_cannot_be_read_fails_too(with_queue, clock):
    async def body(queue):
        behind, _ = await queue.submit(a_task())
        bad, _ = await queue.submit(a_task(model_sha256="m", run_at=clock.now + 10))
        await spoil(queue, DAMAGES["its name is not UTF-8"], bad)
        clock.now += 10

        assert (await queue.claim()).task.id == behind.id
        assert await has_failed(queue, bad)

    with_queue(body, cache_seconds=3600.0)


def test_a_worker_wakes_for_it_all_the_same(with_queue):
    async def body(queue):
        bad, _ = await queue.submit(a_task())
        await spoil(queue, DAMAGES["its model is not UTF-8"], bad)

        assert await queue.wanted() == ""

    with_queue(body)


@every_damage
@pytest.mark.parametrize("begun", ["in work", "overtaken"])
def test_a_start_does_not_fail_with_it(with_queue, damage, begun):
    async def until_the_crash(queue):
        body.good, _ = await queue.submit(a_task())
        body.bad = await planned(queue)
        chunk = await queue.claim()
        assert chunk.task.id == body.bad.id
        if begun == "overtaken":
            await queue.finish(chunk, [])
        await spoil(queue, damage, body.bad)

    async def body(queue):
        await queue.recover()

        assert await has_failed(queue, body.bad)
        assert (await queue.claim()).task.id == body.good.id

    with_queue(until_the_crash)
    with_queue(body)


@every_damage
def test_a_sweep_finds_it_too(with_queue, clock, damage):
    async def body(queue):
        bad, _ = await queue.submit(a_task())
        await queue.claim()
        await spoil(queue, damage, bad)

        assert [task.id for task in await queue.sweep(clock.now + 1)] == [bad.id]
        assert await has_failed(queue, bad)

    with_queue(body)


async def twins(queue):
    leader, _ = await queue.submit(a_task(model_sha256="m", metadata={"a": 1}))
    follower, _ = await queue.submit(a_task(model_sha256="m", metadata={"a": 1}))
    return leader, follower


@every_damage
@pytest.mark.parametrize("how", ["completed", "cancelled"])
def test_who_leads_one_that_cannot_be_read_is_done_and_that_one_fails(with_queue, damage, how):
    async def body(queue):
        leader, follower = await twins(queue)
        await queue.plan(await queue.claim(), a_plan(1))
        chunk = await queue.claim()
        assert chunk.task.id == leader.id
        await spoil(queue, damage, follower)
        if how == "completed":
            await queue.finish(chunk, [])
        else:
            await queue.cancel(leader.id)

        assert (await queue.get(leader.id)).state == how
        with pytest.raises(TimeoutError):  # nothing else is left to do
            await asyncio.wait_for(queue.claim(), 0.3)
        assert await has_failed(queue, follower)

    with_queue(body, cache_seconds=3600.0)


@pytest.mark.parametrize("whose", ["leader", "follower"])
def test_a_model_that_cannot_be_read_fails_its_own_task(with_queue, whose):
    async def body(queue):
        leader, follower = await twins(queue)
        bad, good = (leader, follower) if whose == "leader" else (follower, leader)
        await spoil(queue, DAMAGES["its model is not UTF-8"], bad)

        assert (await queue.claim(lambda: Claimant(model="other"))).task.id == good.id
        assert await has_failed(queue, bad)

    with_queue(body, cache_seconds=3600.0)


@every_damage
@pytest.mark.parametrize("begun", [False, True])
def test_a_look_that_cannot_be_read_fails_and_the_next_begins(with_queue, damage, begun):
    async def body(queue):
        looks = detections(queue)
        bad, _ = await queue.submit(a_detection("bad", metadata={"a": 1}))
        await queue.submit(a_detection("good"))
        if begun:
            await looks.claim()
        await spoil(queue, damage.replace("transcriptiom", "risk_detectiom"), bad)
        if begun:
            await queue.recover()

        assert (await looks.claim()).task.id == "good"
        assert await has_failed(queue, bad)

    with_queue(body)


def test_a_stop_hands_back_what_is_beside_one_with_two_chunks_that_cannot_be_read(with_queue):
    async def body(queue):
        good = await planned(queue, 1)
        bad = await planned(queue, 2)
        for task in (bad, bad, good):
            assert (await queue.claim()).task.id == task.id
        await spoil(queue, "update chunk set cut = '{' where task = ? and number = 2", bad)
        await queue.release_all()

        assert await has_failed(queue, bad)
        assert (await queue.claim()).task.id == good.id

    with_queue(body)


def test_a_pool_goes_on_beside_it(tmp_path):
    async def body(queue, pool):
        pool.pause()
        good, _ = await queue.submit(a_task(max_retries=0))
        bad, _ = await queue.submit(a_task())
        await spoil(queue, DAMAGES["its metadata is no JSON"], bad)
        pool.resume()

        assert (await over(queue, good)).state == State.COMPLETED
        assert await has_failed(queue, bad)
        assert pool.responsive()

    run_beside_a_pool(tmp_path, body, "well")


def test_what_it_holds_is_not_told(with_queue):
    """Python's own message quotes the text that it cannot decode."""

    async def body(queue):
        bad, _ = await queue.submit(a_task(metadata={"a": "secret"}))
        await spoil(queue, DAMAGES["its metadata is not UTF-8"], bad)
        with pytest.raises(StorageFailed) as raised:
            await queue.get(bad.id)

        assert "secret" not in str(raised.value)

    with_queue(body)
