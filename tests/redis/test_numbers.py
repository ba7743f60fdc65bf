"""How many tasks there are, over all hosts: whichever is asked says the same."""

import asyncio
import contextlib
import time

import pytest

from tests.redis.conftest import until
from tests.redis.test_limits import hosts
from whisperd import config
from whisperd.redis_queue.formats import to_bullmq, to_priority
from whisperd.redis_queue.order import LAST
from whisperd.redis_queue.stats import of_all
from whisperd.task import Depth, OtherDepth, PriorityDepth, TenantDepth


@contextlib.asynccontextmanager
async def followed(folder, redis, **settings):
    """Hosts that follow what happens to jobs."""
    async with hosts(folder, redis, **settings) as made, asyncio.timeout(120):
        following = [asyncio.create_task(host.follower.run()) for host in made]
        await asyncio.sleep(0.3)  # for what happens before is not heard of
        try:
            yield made
        finally:
            for task in following:
                task.cancel()
            await asyncio.wait(following)


async def said_by(host, tenant=None):
    stats = of_all(await host.local.stats(tenant), await host.boards.tally(), tenant)
    return {state: n for state, n in stats.by_state.items() if n}


async def say(hosts, expected, tenant=None):
    """Both do, soon."""
    for _ in range(400):
        if (said := [await said_by(host, tenant) for host in hosts]) == [expected] * len(hosts):
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"{said}, not {expected}")


@pytest.fixture
def body(tmp_path, redis):
    def run(test, **settings):
        async def main():
            async with followed(tmp_path, redis, **settings) as made:
                await test(*made)

        asyncio.run(main())

    return run


def test_each_host_says_the_same_of_what_either_has_taken_in_begun_and_ended(body):
    async def test(one, other):
        for host in (one, other):
            await host.submits(tenant="acme", priority=1)
        ids = [await one.submits(tenant=tenant, priority=9) for tenant in ("acme", "b", "b", "c")]
        await one.submits(tenant="b", run_at=time.time() + 3600)
        done, failed, runs = [await other.takes() for _ in range(3)]
        await other.board.complete(done, {"words": 1})
        await other.board.fail(failed, "crashed: it died", final=True)
        await other.queue.cancel(ids[3])

        await say((one, other), {"queued": 3, "processing": 1, "completed": 1, "failed": 1, "cancelled": 1})
        await other.board.fail(runs, "cancelled", final=True)
        await say((one, other), {"queued": 3, "completed": 1, "failed": 1, "cancelled": 2})
        await one.queue.retry(ids[3])
        await say((one, other), {"queued": 4, "completed": 1, "failed": 1, "cancelled": 1})

    body(test, queue=config.Queue(order="fifo"))


def test_a_tenant_sees_numbers_of_its_own_only(body):
    async def test(one, other):
        mine = [await host.submits(tenant="acme") for host in (one, other, one)]
        theirs = await one.submits(tenant="b", priority=50)
        await one.takes()  # theirs
        await other.queue.cancel(mine[0])
        await other.submits(tenant="acme", run_at=time.time() + 3600)

        await say((one, other), {"queued": 3, "cancelled": 1}, "acme")
        await say((one, other), {"processing": 1}, "b")
        await say((one, other), {}, "nobody")
        stats = of_all(await one.local.stats("acme"), await other.boards.tally(), "acme")
        assert (stats.delayed, stats.oldest_queued_at) == (1, None)
        assert stats.depth == Depth(by_tenant=(TenantDepth("acme", 3, 0),))
        assert theirs not in str(stats)

    body(test)


def test_jobs_of_node_count_and_are_nobodys(body, node):
    job = {"transcriptionId": "cm1", "userId": "acme", "s3AudioUrl": "s3://media/a.wav"}

    async def test(one, other):
        await one.submits(tenant="acme", priority=4)
        await asyncio.to_thread(node.add, job, {"priority": 11})
        gone = await asyncio.to_thread(node.add, job | {"transcriptionId": "cm2"}, {"priority": 7})
        await other.queue.cancel(gone)
        await asyncio.to_thread(node.add, ["no job of ours"], {"priority": 1})
        await say((one, other), {"queued": 3, "cancelled": 1})

        stats = of_all(await other.local.stats(), await other.boards.tally(), None)

        assert stats.depth == Depth(
            by_priority=(PriorityDepth(10, 1), PriorityDepth(4, 1), PriorityDepth(0, 1)),
            by_tenant=(TenantDepth("acme", 1, 0),),
            others=OtherDepth(0, 2, 0),
        )
        assert time.time() - stats.oldest_queued_at < 60
        await asyncio.to_thread(node.remove, gone)
        await say((one, other), {"queued": 3})

    body(test)


def test_however_many_priorities_node_uses_redis_looks_at_few(body):
    """Each of BullMQ's two million would be a line, and hosts count every five seconds."""
    fill = "for n = 1, 3000 do redis.call('zadd', KEYS[1], n * 4294967296 + n, 'node-' .. n) end"

    async def test(one, other):
        for priority in (9, -100):
            await one.submits(priority=priority)
        await one.link.client.eval(fill, 1, "bull:transcription:prioritized")
        await one.link.client.config_resetstat()

        stats = of_all(await other.local.stats(), await other.boards.tally(), None)
        await other.board.raise_old(3600)

        looks = (await one.link.client.info("commandstats"))["cmdstat_zrevrangebyscore"]["calls"]
        assert looks <= 2 * LAST
        jobs = {line.priority: line.queued for line in stats.depth.by_priority}
        assert jobs == {10: 1, 9: 2, **dict.fromkeys(range(-99, 9), 1), -100: 2891}

    body(test)


def test_the_last_priority_of_ours_is_the_one_that_counts_for_all_behind_it():
    assert (to_bullmq(-100), to_bullmq(-99), to_priority(LAST + 1)) == (LAST, LAST - 1, -100)


def test_two_queues_are_added_up(body):
    async def test(one, other):
        for model in ("base", "base", "tiny.en"):
            await one.submits(model=model, priority=2)
        await say((one, other), {"queued": 3})

        stats = of_all(await other.local.stats(), await other.boards.tally(), None)

        assert stats.depth.by_priority == (PriorityDepth(2, 3),)

    body(test, routes={"model:base": "gpu"})


def test_every_host_answers_with_the_numbers_of_all_also_while_redis_is_away(new_host, redis, jfk):
    pair = [new_host().start() for _ in range(2)]
    for host in pair:
        host.http.post("/admin/pause").raise_for_status()
    for host in (*pair, pair[0]):
        host.queued(jfk)

    until(lambda: [host.get("/stats")["queued"] for host in pair] == [3, 3])
    known = pair[1].get("/stats")
    redis.stop()
    until(lambda: pair[1].health()["checks"]["redis"]["status"] == "degraded")
    away = pair[1].get("/stats")
    pair[1].kill()
    pair[1].start()

    assert known["total"] == away["queued"] == 3
    assert known["counted_at"] <= away["counted_at"]
    alone = pair[1].get("/stats")
    assert (alone["total"], alone["counted_at"]) == (0, None)


def test_a_host_alone_says_nothing_of_others(new_host):
    host = new_host(REDIS__URL="").start()

    assert "counted_at" not in host.get("/stats")
