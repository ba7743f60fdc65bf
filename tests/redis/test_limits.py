"""Limits hold over all hosts: how much may wait, of all and of a tenant, and how often it may submit."""

import asyncio
import contextlib
import time

import pytest

from tests import test_detections
from tests.redis.test_forgetting import held
from tests.redis.test_recall import LOCK_SECONDS, Host, comes_back_empty
from whisperd import config
from whisperd.config import Config
from whisperd.db import Database
from whisperd.machine import rules
from whisperd.redis_queue import room
from whisperd.redis_queue.pacing import SharedPace
from whisperd.task import Kind, QueueFull, RateLimited, TenantQueueFull


@contextlib.asynccontextmanager
async def hosts(folder, redis, n=2, routes=(), **settings):
    """They share a queue, and have no workers."""
    storage = folder / "storage"
    storage.mkdir(exist_ok=True)
    shared = config.Redis(
        url=redis.url,
        storage=str(storage),
        routes=dict(routes),
        lock_seconds=LOCK_SECONDS,
        stalled_seconds=0.5,
    )
    theirs = Config(redis=shared, **settings)
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for number in range(n):
            own = folder / f"host{number}"
            own.mkdir(exist_ok=True)
            db = await stack.enter_async_context(Database(own / "q.db"))
            made.append(host := Host(own, db, theirs))
            host.local.reload(rules(theirs))
            stack.push_async_callback(host.link.close)
        yield made


@pytest.fixture
def run(tmp_path, redis):
    """Runs an async test with hosts that share a queue."""

    def run(test, **settings):
        async def main():
            async with hosts(tmp_path, redis, **settings) as made, asyncio.timeout(120):
                await test(*made)

        asyncio.run(main())

    return run


def limited(**limits):
    """Settings: of tenants whose plan is FREE."""
    return {"limits": config.TenantLimits(FREE=config.PlanLimits(**limits))}


async def try_all(hosts, times=1, **fields):
    """Submit to all at once; returns how many were accepted, and what the others were told."""
    asked = [host.submits(**fields) for _ in range(times) for host in hosts]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    return [one for one in answers if isinstance(one, str)], [
        one for one in answers if not isinstance(one, str)
    ]


async def waits(host):
    depth = (await host.boards.depths())["transcription"]
    return depth.waiting + depth.delayed


def test_two_hosts_at_once_do_not_both_take_the_last_place_of_the_queue(run, rounds):
    async def test(*hosts):
        for _ in range(10 * rounds):
            accepted, refused = await try_all(hosts, 5)
            assert len(accepted) == 3
            assert {type(error) for error in refused} == {QueueFull}
            assert str(refused[0]) == "3 tasks are waiting already"
            assert await waits(hosts[0]) == 3
            for task_id in accepted:
                await hosts[1].queue.cancel(task_id)

    run(test, queue=config.Queue(max_queued=3))


def test_two_hosts_at_once_do_not_both_take_the_last_place_of_a_tenant(run, rounds):
    async def test(*hosts):
        for _ in range(10 * rounds):
            accepted, refused = await try_all(hosts, 5, tenant="acme", plan="FREE")
            other = await hosts[0].submits(tenant="other", plan="FREE")
            assert len(accepted) == 2
            assert {type(error) for error in refused} == {TenantQueueFull}
            assert str(refused[0]) == "2 tasks of this tenant may wait, and do"
            for task_id in [*accepted, other]:
                await hosts[1].queue.cancel(task_id)

    run(test, **limited(queued=2))


def test_what_is_refused_leaves_nothing_behind(run):
    async def test(one, other):
        task_id = await one.submits(tenant="acme", plan="FREE")

        with pytest.raises(TenantQueueFull) as refused:
            await other.submits(tenant="acme", plan="FREE", idempotency_key="k")
        for kind in Kind:
            with pytest.raises(TenantQueueFull):
                await other.queue.check_room("acme", "FREE", kind)

        assert refused.value.retry_after == 60  # nothing was completed in the last minute
        assert await held(one.storage) == [f"audio/http-{task_id}"]
        assert await waits(one) == 1
        assert await other.remembers() == []
        await one.queue.cancel(task_id)
        assert await other.submits(tenant="acme", plan="FREE", idempotency_key="k")

    run(test, **limited(queued=1))


def test_a_look_that_is_refused_leaves_the_transcript_that_it_is_about(run):
    async def test(one, other):
        await one.submits()
        await one.storage.keep_result("said", b"{}")

        with pytest.raises(QueueFull):
            await other.queue.submit(test_detections.a_detection("look", transcript="said"))

        assert await one.storage.result("said") == b"{}"

    run(test, queue=config.Queue(max_queued=1))


def test_what_is_there_already_takes_no_place_when_it_is_added_again(run):
    async def test(one, other):
        await one.submits(id="t1")

        assert await other.submits(id="t1") == "t1"
        assert await waits(one) == 1

    run(test, queue=config.Queue(max_queued=1))


def test_jobs_of_node_take_places_and_are_never_refused(run, node):
    async def test(one, _):
        await asyncio.to_thread(fill, node, 3)

        with pytest.raises(QueueFull) as refused:
            await one.submits()
        await asyncio.to_thread(fill, node, 1)

        assert str(refused.value) == "3 tasks are waiting already"
        assert await waits(one) == 4

    run(test, queue=config.Queue(max_queued=2))


def fill(node, jobs, **options):
    for n in range(jobs):
        asked = {"transcriptionId": f"cm{n}", "userId": "acme", "s3AudioUrl": "s3://media/a.wav"}
        node.add(asked, {"priority": 1 + n, "delay": 1000 * 60 * (n % 2), **options})


def test_jobs_of_node_are_of_no_tenant(run, node):
    async def test(one, other):
        await asyncio.to_thread(fill, node, 3)

        await one.submits(tenant="acme", plan="FREE")

        with pytest.raises(TenantQueueFull):
            await other.submits(tenant="acme", plan="FREE")

    run(test, **limited(queued=1))


def test_what_waits_in_another_queue_of_the_hosts_counts_too(run):
    async def test(one, other):
        await one.submits(model="base")
        await one.submits()

        for model in ("base", "tiny.en"):
            with pytest.raises(QueueFull):
                await other.submits(model=model)

    run(test, queue=config.Queue(max_queued=2), routes={"model:base": "gpu"})


@pytest.mark.parametrize("gone", ["taken", "removed", "cancelled"])
def test_whoever_takes_a_job_away_makes_room_for_another(run, node, gone):
    """Also one who says nothing of it to us, like a worker of Node's."""

    async def test(one, other):
        task_id = await one.submits(tenant="acme", plan="FREE")
        with pytest.raises(TenantQueueFull):
            await other.submits(tenant="acme", plan="FREE")
        if gone == "taken":
            await other.takes()
        elif gone == "removed":
            await asyncio.to_thread(node.remove, task_id)
        else:
            await other.queue.cancel(task_id)

        await other.queue.check_room("acme", "FREE")
        assert await other.submits(tenant="acme", plan="FREE")

    run(test, **limited(queued=1))


def test_what_is_handed_back_waits_again_and_takes_its_place(run):
    async def test(one, other):
        task_id = await one.submits(tenant="acme", plan="FREE")
        job = await one.takes()
        await one.board.note([task_id])
        await other.queue.check_room("acme", "FREE")

        await one.board.hand_back(job, 60)
        await one.board.note([task_id])  # as who follows the events does

        with pytest.raises(TenantQueueFull):
            await other.submits(tenant="acme", plan="FREE")

    run(test, **limited(queued=1))


def test_more_wait_than_are_looked_at_and_those_that_are_gone_are_found_in_time(run, node, monkeypatch):
    monkeypatch.setattr(room, "LOOKED_AT", 2)

    async def test(one, other):
        ids = [await one.submits(tenant="acme", plan="FREE") for _ in range(9)]
        for task_id in ids[3:7]:
            await asyncio.to_thread(node.remove, task_id)

        for _ in range(100):
            with contextlib.suppress(TenantQueueFull):
                await other.submits(tenant="acme", plan="FREE")

        assert await waits(one) == 9

    run(test, **limited(queued=9))


def test_what_nobody_has_heard_of_is_found_by_those_who_tidy(run, redis, node):
    """Jobs that were removed, and those of before tenants were counted."""
    mine = "bull:whisperd:tenant:acme"

    async def test(one, other):
        ids = [await one.submits(tenant="acme", plan="FREE") for _ in range(3)]
        await asyncio.to_thread(node.remove, ids[1])
        await other.boards.tidy()
        assert sorted(await one.link.client.zrange(mine, 0, -1)) == [
            f"transcription:{ids[n]}" for n in (0, 2)
        ]
        await one.link.client.delete(mine)

        await other.boards.tidy()

        assert await one.link.client.zcard(mine) == 2
        for task_id in (ids[0], ids[2]):
            await asyncio.to_thread(node.remove, task_id)
        await other.boards.tidy()
        left = (mine, *(f"bull:whisperd:{name}" for name in ("tenants", "plans", "concurrent")))
        assert await one.link.client.exists(*left) == 0

    run(test, **limited(concurrent=9))


def test_whose_a_job_is_is_read_once(run):
    """Its data may be long, with rules in it, and each job is gone through again and again."""

    async def test(one, other):
        task_id = await one.submits(tenant="acme")
        await one.link.client.hdel(f"bull:transcription:{task_id}", "data")
        await one.link.client.delete("bull:whisperd:tenant:acme")

        await other.board.note([task_id])

        assert (await other.boards.tally()).tenants["acme"].waiting == 1

    run(test)


def test_however_many_tenants_there_are_few_are_asked_for_to_refuse_one(run):
    fill = """
    for n = 1, 2000 do
      redis.call('sadd', KEYS[1], n)
      redis.call('zadd', 'bull:whisperd:tenant:' .. n, n % 2 * 3, 'transcription:1')
    end
    """

    async def test(one, other):
        await one.submits(tenant="acme", plan="FREE")
        await one.link.client.eval(fill, 1, "bull:whisperd:tenants")
        await one.link.client.zadd(
            "bull:transcription:completed", {f"j{n}": time.time() * 1000 for n in range(1000)}
        )
        await one.link.client.config_resetstat()

        with pytest.raises(TenantQueueFull) as refused:
            await other.queue.check_room("acme", "FREE")

        counted = (await one.link.client.info("commandstats"))["cmdstat_zcount"]["calls"]
        assert counted <= room.SAMPLED + 10
        assert 20 <= refused.value.retry_after <= 100  # half of them wait, and 1,000 tasks a minute are done

    run(test, **limited(queued=1))


def test_what_is_retried_needs_the_room_of_another_submission(run):
    async def test(one, other):
        cancelled = await one.submits(tenant="acme", plan="FREE")
        await one.queue.cancel(cancelled)
        await one.submits(tenant="acme", plan="FREE")

        with pytest.raises(TenantQueueFull):
            await other.queue.retry(cancelled)

        assert (await other.queue.get(cancelled)).state == "cancelled"
        await one.takes()
        assert (await other.queue.retry(cancelled)).state == "queued"
        with pytest.raises(TenantQueueFull):
            await one.submits(tenant="acme", plan="FREE")

    run(test, **limited(queued=1))


def test_a_plan_that_was_named_to_one_host_holds_on_all(run):
    async def test(one, other):
        await one.submits(tenant="acme", plan="FREE")

        with pytest.raises(TenantQueueFull):
            await other.submits(tenant="acme")
        assert await other.queue.per_minute("acme") == 7

    run(test, **limited(queued=1, per_minute=7))


def test_a_redis_that_has_lost_its_data_counts_anew_what_is_added_again(run, redis):
    async def test(one, other):
        ids = [await host.submits(tenant="acme", plan="FREE") for host in (one, other)]
        await comes_back_empty(redis, one)
        await other.finds_redis()
        await one.recall.look()
        await other.recall.look()

        with pytest.raises(TenantQueueFull):
            await other.submits(tenant="acme", plan="FREE")
        assert await waits(one) == len(ids)

    run(test, **limited(queued=2))


def test_what_is_put_back_into_a_redis_that_has_lost_it_counts_for_its_tenant_at_once(run, redis):
    async def test(one, other):
        await one.submits(tenant="acme")
        job = await one.takes()
        await comes_back_empty(redis, one)

        assert await one.board.put_back(job)

        assert (await one.boards.tally()).tenants["acme"].active == 1

    run(test)


def test_a_tenant_may_submit_only_so_often_whichever_host_it_asks(run, rounds):
    async def test(*hosts):
        paces = [SharedPace(host.link, "bull") for host in hosts]
        for n in range(5 * rounds):
            asked = [pace.count(f"tenant-{n}", 5) for _ in range(10) for pace in paces]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            refused = [error for error in answers if error is not None]
            assert len(answers) - len(refused) == 5
            assert {type(error) for error in refused} == {RateLimited}
            assert str(refused[0]) == "at most 5 submissions a minute"
            assert {error.retry_after for error in refused} == {12}
        await paces[0].count("others", 5)

    run(test)


def test_who_waits_as_long_as_he_is_told_is_let_in_and_is_then_forgotten(run, redis):
    async def test(one, other):
        paces = [SharedPace(host.link, "bull") for host in (one, other)]
        for _ in range(60):
            await paces[0].count("acme", 60)
        with pytest.raises(RateLimited) as refused:
            await paces[1].count("acme", 60)
        await asyncio.sleep(refused.value.retry_after)
        await paces[1].count("acme", 60)
        with pytest.raises(RateLimited):
            await paces[0].count("acme", 60)
        assert 0 < await one.link.client.pttl("bull:whisperd:pace:acme") <= 60_000

    run(test)


def test_both_hosts_answer_as_one_box_does(new_host, jfk):
    limits = {"LIMITS__FREE__QUEUED": 2, "LIMITS__PRO__PER_MINUTE": 2}
    pair = [new_host(**limits).start() for _ in range(2)]
    for host in pair:
        host.http.post("/admin/pause").raise_for_status()

    queued = [host.submit(jfk, tenant="acme", plan="FREE") for host in (*pair, *pair)]
    often = [host.submit(jfk, tenant="other", plan="PRO") for host in (*pair, *pair)]

    assert [answer.status_code for answer in queued] == [202, 202, 429, 429]
    assert [answer.status_code for answer in often] == [202, 202, 429, 429]
    for answer, code, seconds in ((queued[2], "tenant_queue_full", 60), (often[3], "rate_limited", 30)):
        assert answer.json()["error"]["code"] == code
        assert abs(int(answer.headers["Retry-After"]) - seconds) <= 2
    assert all(host.spool() == [] for host in pair)
