"""Whose turn it is in the shared queue: by priority, and within one as `queue.order` says."""

import asyncio
import time

import pytest

from tests.redis.test_limits import run  # noqa: F401 - a fixture
from tests.redis.test_recall import comes_back_empty
from whisperd import config
from whisperd.task import Change

LIFO, FIFO = config.Queue(order="lifo"), config.Queue(order="fifo")


async def taken(host):
    """In the order in which a host gets them."""
    ids = []
    while job := await host.board.take():
        ids.append(job.job.id)
    return ids


async def submitted(hosts, priorities, **fields):
    """One after the other, to the hosts in turn; by priority."""
    ids = {}
    for n, priority in enumerate(priorities):
        ids.setdefault(priority, []).append(await hosts[n % len(hosts)].submits(priority=priority, **fields))
    return ids


@pytest.mark.parametrize(("queue", "step"), [(LIFO, -1), (FIFO, 1)])
def test_within_a_priority_it_is_the_newest_first_or_the_oldest(run, queue, step):  # noqa: F811
    async def test(*hosts):
        ids = await submitted(hosts, [3, 9, 3, -100, 9, 3, 10, -100])

        assert await taken(hosts[1]) == [
            *ids[10][::step],
            *ids[9][::step],
            *ids[3][::step],
            *ids[-100][::step],
        ]

    run(test, queue=queue)


def test_priorities_are_not_mixed_however_much_was_counted(run, node):  # noqa: F811
    async def test(one, other):
        for key, value in (("pc", 2**32 - 3), ("whisperd:newest", 2**31 - 3)):
            await one.link.client.set(f"bull:transcription:{key}", value)
        ids = await submitted((one, other), [5, 4, 6] * 3)
        for theirs in (6, 7, 5):
            await asyncio.to_thread(node.add, {}, {"priority": theirs, "jobId": f"node-{theirs}"})

        assert await asyncio.to_thread(node.countsOf, [5, 6, 7]) == {"5": 4, "6": 4, "7": 4}
        order = await taken(other)
        assert [set(order[n : n + 4]) for n in (0, 4, 8)] == [
            {*ids[6], "node-5"},
            {*ids[5], "node-6"},
            {*ids[4], "node-7"},
        ]

    run(test, queue=LIFO)


def test_jobs_of_node_go_first_in_their_priority_and_by_age(run, node):  # noqa: F811
    async def test(one, other):
        first = await one.submits(priority=5)
        for name in ("a", "b"):
            await asyncio.to_thread(node.add, {}, {"priority": 6, "jobId": name})
        last = await other.submits(priority=5)

        assert await taken(one) == ["a", "b", last, first]

    run(test, queue=LIFO)


def test_what_has_waited_too_long_goes_before_what_came_later_the_oldest_first(run):  # noqa: F811
    async def test(one, other):
        ids = await submitted((one, other), [2, 2, 2, 7, 7])
        for n, task_id in enumerate([*ids[2][:2], ids[7][0]]):
            job = f"bull:transcription:{task_id}"
            await one.link.client.hset(job, "timestamp", round(time.time() * 1000) - 3_700_000 + n)

        assert await other.board.raise_old(3600) == 3
        assert await one.board.raise_old(3600) == 0
        newest = await one.submits(priority=2)

        assert await taken(one) == [ids[7][0], ids[7][1], *ids[2][:2], newest, ids[2][2]]

    run(test, queue=LIFO)


@pytest.mark.parametrize(("seconds", "first"), [(1, 0), (0, -1)])
def test_hosts_see_to_it_that_nothing_is_left_behind_unless_that_is_off(run, seconds, first):  # noqa: F811
    async def test(one, other):
        ids = (await submitted((one,), [5] * 3))[5]
        job = f"bull:transcription:{ids[0]}"
        await one.link.client.hset(job, "timestamp", round(time.time() * 1000) - 60_000)
        await other.works_until(lambda: asyncio.sleep(1.2), slots=0)

        assert (await one.takes()).id == ids[first]

    run(test, queue=config.Queue(max_wait_seconds=seconds))


def test_a_changed_priority_and_another_try_keep_the_place_that_age_gives(run):  # noqa: F811
    async def test(one, other):
        ids = (await submitted((one, other), [5] * 4))[5]
        moved = (await submitted((one,), [1]))[1][0]
        ids += (await submitted((one, other), [5] * 2))[5]
        await other.queue.cancel(ids[1])

        await other.queue.retry(ids[1])
        await change(other, moved, 5)
        await change(one, ids[0], 6)
        await change(one, ids[0], 5)

        assert await taken(one) == [ids[5], ids[4], moved, ids[3], ids[2], ids[1], ids[0]]

    run(test, queue=LIFO)


async def change(host, task_id, priority):
    await host.queue.change(task_id, Change(priority=priority))


def test_what_is_handed_back_or_due_goes_before_what_came_meanwhile(run):  # noqa: F811
    async def test(one, other):
        due = await one.submits(run_at=time.time() + 0.2)
        begun = await other.submits()
        job = await one.takes()
        newer = await other.submits()
        await one.board.hand_back(job, 0)
        await asyncio.sleep(1.2)

        assert sorted((order := await taken(one))[:2]) == sorted([due, begun])
        assert order[2:] == [newer]

    run(test, queue=LIFO)


def test_what_a_redis_without_its_data_is_told_again_is_in_order_again(run, redis):  # noqa: F811
    async def test(one, other):
        ids = (await submitted((one,), [5] * 4))[5]
        await one.queue.cancel(ids[0])
        await one.queue.retry(ids[0])
        await comes_back_empty(redis, one)
        await one.recall.look()

        assert await taken(one) == ids[::-1]

    run(test, queue=LIFO)


def test_a_job_that_is_taken_between_its_addition_and_a_change_of_it_is_not_put_back(run):  # noqa: F811
    async def test(one, other):
        task_id = await one.submits()
        await other.takes()

        await one.board._order.place(task_id)

        assert await taken(other) == []
        assert (await one.board.look(task_id)).state == "active"

    run(test, queue=LIFO)
