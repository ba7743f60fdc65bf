"""How many tasks of a tenant run at a time holds over all hosts, and others do not wait for it."""

import asyncio
import time

import pytest

from benchmarks.listeners import silence
from tests.redis.conftest import until
from tests.redis.test_limits import limited, run  # noqa: F401 - a fixture
from tests.redis.test_recall import comes_back_empty
from whisperd import config
from whisperd.redis_queue import turn
from whisperd.task import NO_LIMITS

FREE = {"tenant": "acme", "plan": "FREE"}


async def at_once(hosts, times=5):
    """What the hosts get that all ask together; the tenants of it."""
    asked = [host.boards.take() for _ in range(times) for host in hosts]
    return [taken for taken in await asyncio.gather(*asked) if taken]


def tenants(taken):
    return sorted(job.data.get("tenant", "default") for job in taken)


async def finish(host, *taken):
    for one in taken:
        await host.boards.complete(one.job, {"words": 1})


def test_hosts_that_ask_at_once_get_no_more_of_a_tenant_than_it_may_have(run, rounds):  # noqa: F811
    async def test(*hosts):
        for _ in range(10 * rounds):
            await asyncio.gather(*(hosts[n % 2].submits(**FREE) for n in range(6)))
            for tenant in ("b", "c"):
                await hosts[0].submits(tenant=tenant, priority=-1)

            taken = await at_once(hosts)
            assert tenants(taken) == ["acme", "acme", "b", "c"]
            while taken:
                await finish(hosts[1], *taken)
                taken = await at_once(hosts)
                assert tenants(taken) in (["acme", "acme"], [])
            assert sum((await hosts[0].boards.depths())["transcription"][:3]) == 0

    run(test, **limited(concurrent=2))


def test_over_several_queues_it_is_one_limit(run):  # noqa: F811
    async def test(one, other):
        for model in ("base", "tiny.en", "base", "tiny.en"):
            await one.submits(model=model, **FREE)
        boards = [host.boards.each()[name] for host in (one, other) for name in ("gpu", "transcription")]

        taken = await asyncio.gather(*(board.take() for board in boards))

        assert sum(job is not None for job in taken) == 1

    run(test, routes={"model:base": "gpu"}, **limited(concurrent=1))


def test_the_next_is_the_most_urgent_and_in_its_place_however_often_it_was_passed_over(run):  # noqa: F811
    async def test(one, other):
        ids = [await one.submits(priority=priority, **FREE) for priority in (5, 1, 9, 5)]
        running = await one.boards.take()
        for _ in range(20):
            assert await other.boards.take() is None
        urgent = await one.submits(priority=10, **FREE)

        order = [running.job.id]
        while running:
            await finish(one, running)
            running = await other.boards.take()
            order += [running.job.id] if running else []

        assert order == [ids[2], urgent, ids[3], ids[0], ids[1]]

    run(test, **limited(concurrent=1))


def test_what_a_host_that_died_had_counts_until_it_is_swept_and_then_goes_on_elsewhere(run, rounds):  # noqa: F811
    async def test(one, other):
        for _ in range(rounds):
            dies = await one.submits(**FREE)
            assert (await one.boards.take()).job.id == dies
            waits = await other.submits(**FREE)
            seen, until = [], time.monotonic() + 30
            other.link.well_since = 0  # or it sweeps nothing yet
            while len(seen) < 2 and time.monotonic() < until:
                await other.boards.sweep()
                if taken := await other.boards.take():
                    seen.append(taken.job.id)
                    assert await other.boards.take() is None
                    await finish(other, taken)
                await asyncio.sleep(0.05)
            assert seen == [dies, waits]

    run(test, **limited(concurrent=1))


def test_what_was_left_waits_at_the_front_while_its_tenant_is_at_its_limit(run, redis):  # noqa: F811
    async def test(one, other):
        limits = "bull:whisperd:concurrent"
        left, runs, later = [await one.submits(priority=priority, **FREE) for priority in (3, 2, 2)]
        assert (await one.boards.take()).job.id == left
        await one.link.client.hset(limits, "acme", 2)
        running = await other.boards.take()
        assert running.job.id == later
        await one.link.client.hset(limits, "acme", 1)
        await other.submits(tenant="b", priority=-5)
        await one.link.client.delete(f"bull:transcription:{left}:lock")
        other.link.well_since = 0
        for _ in range(2):  # marked, then moved
            await other.board.sweep()
            await asyncio.sleep(0.6)
        assert await one.link.client.lrange("bull:transcription:wait", 0, -1) == [left]

        assert tenants(await at_once((one, other))) == ["b"]
        await finish(other, running)
        assert (await one.boards.take()).job.id == left
        assert await one.boards.take() is None
        assert (await other.board.look(runs)).state == "prioritized"

    run(test, **limited(concurrent=1))


def test_what_is_due_waits_too_and_others_that_are_due_do_not(run):  # noqa: F811
    async def test(one, other):
        await one.submits(**FREE)
        running = await one.boards.take()
        for tenant in ("acme", "b"):
            await one.submits(tenant=tenant, priority=9, run_at=time.time() + 0.2)
        await asyncio.sleep(1.3)

        assert tenants(await at_once((one, other))) == ["b"]
        await finish(one, running)
        assert tenants(await at_once((one, other))) == ["acme"]
        assert await one.link.client.hget("bull:transcription:meta", "paused") is None

    run(test, **limited(concurrent=1))


def test_a_paused_queue_hands_out_nothing_and_is_not_resumed_by_a_look(run, node):  # noqa: F811
    async def test(one, other):
        await one.submits(run_at=time.time() + 0.1, **FREE)
        await asyncio.to_thread(node.pause)
        await asyncio.sleep(1.2)

        assert await at_once((one, other)) == []
        await asyncio.to_thread(node.resume)
        assert len(await at_once((one, other))) == 1

    run(test, **limited(concurrent=1))


def test_what_a_worker_of_node_has_counts_and_what_node_adds_does_not(run, node):  # noqa: F811
    async def test(one, other):
        await one.submits(**FREE)
        for n in range(3):
            job = {"transcriptionId": f"cm{n}", "userId": "acme", "s3AudioUrl": "s3://media/a.wav"}
            await asyncio.to_thread(node.add, job, {"priority": 1})
        theirs = await at_once((one, other))
        assert len(theirs) == 4

        await finish(one, *theirs)
        await one.submits(**FREE)
        taken = await one.board._queue.backend.moveToActive("a worker of node", {"lockDuration": 60_000})
        assert taken[0]
        await other.board.note([taken[1]])  # as who follows the events does
        await other.submits(**FREE)
        assert await at_once((one, other)) == []

    run(test, **limited(concurrent=1))


def test_more_in_line_than_are_looked_at_with_one_question_hide_nobody(run, monkeypatch):  # noqa: F811
    monkeypatch.setattr(turn, "PASSED_OVER", 100)

    async def test(one, other):
        for _ in range(350):
            await one.submits(priority=5, **FREE)
        await one.submits(tenant="b", priority=1)

        assert tenants(await at_once((one, other), 2)) == ["acme", "b"]

    run(test, **limited(concurrent=1))


def test_a_line_that_was_gone_through_in_vain_is_not_at_once_gone_through_again(run, redis, monkeypatch):  # noqa: F811
    monkeypatch.setattr(turn, "PASSED_OVER", 100)
    monkeypatch.setattr(turn, "RESTS", 1000)

    async def test(one, other):
        for _ in range(350):
            await one.submits(priority=5, **FREE)
        assert tenants([await one.boards.take()]) == ["acme"]
        asked = []
        for _ in range(3):
            redis.cli("config", "resetstat")
            assert await other.boards.take() is None
            asked.append(
                int(redis.cli("info", "commandstats").split("cmdstat_evalsha:calls=")[1].split(",")[0])
            )
        assert asked == [4, 1, 1]

        behind = await one.submits(tenant="b", priority=1)
        before = await one.submits(tenant="b", priority=9)
        assert (await other.boards.take()).job.id == before
        async with asyncio.timeout(20):
            while not (taken := await other.boards.take()):
                await other.boards.wait()
        assert taken.job.id == behind

    run(test, **limited(concurrent=1))


def test_who_rests_wakes_for_what_is_behind(run, monkeypatch):  # noqa: F811
    monkeypatch.setattr(turn, "PASSED_OVER", 100)
    monkeypatch.setattr(turn, "RESTS", 1000)
    monkeypatch.setattr(turn, "REST_SECONDS", 0.5)

    async def test(one, other):
        for _ in range(150):
            await one.submits(priority=5, **FREE)
        await one.boards.take()
        assert await other.boards.take() is None
        behind = await one.submits(tenant="b", priority=1)
        began = time.monotonic()

        while not (taken := await other.boards.take()):
            await other.boards.wait()

        assert taken.job.id == behind
        assert time.monotonic() - began < 3  # and not five

    run(test, **limited(concurrent=1))


async def node_adds(node, host, n, tenant="acme", **options):
    """Jobs as whisperd writes them; returns their ids, once the host has seen them."""
    job = {"task_id": "t", "tenant": tenant}
    ids = [await asyncio.to_thread(node.add, job, options) for _ in range(n)]
    await host.board.note(ids)
    return ids


async def in_order(host, running):
    """The ids of what the host gets, one after the other."""
    ids = []
    while running:
        await finish(host, running)
        running = await host.boards.take()
        ids += [running.job.id] if running else []
    return ids


def test_what_node_adds_above_the_limit_goes_by_age(run, node):  # noqa: F811
    async def test(one, other):
        await one.submits(**FREE)
        running = await one.boards.take()
        ids = await node_adds(node, other, 12)
        assert await other.boards.take() is None
        ids += await node_adds(node, other, 1, priority=1)

        assert ids != sorted(ids)
        assert await in_order(other, running) == ids

    run(test, **limited(concurrent=1))


def test_what_was_begun_goes_before_what_node_added(run, node):  # noqa: F811
    async def test(one, other):
        await one.submits(**FREE)
        running = await one.boards.take()
        ids = await node_adds(node, other, 3)
        assert await other.boards.take() is None
        key = "bull:transcription:"
        await one.link.client.hset(f"{key}{ids[2]}", "ats", 1)
        await one.link.client.zrem(f"{key}prioritized", ids[2])
        await one.link.client.rpush(f"{key}wait", ids[2])
        assert await other.boards.take() is None

        assert await in_order(other, running) == [ids[2], *ids[:2]]

    run(test, **limited(concurrent=1))


def test_more_of_node_than_are_passed_over_with_one_question_hide_nobody(run, node, monkeypatch):  # noqa: F811
    monkeypatch.setattr(turn, "PASSED_OVER", 10)

    async def test(one, other):
        await one.submits(**FREE)
        running = await one.boards.take()
        ids = await node_adds(node, other, 35)
        others = [
            *await node_adds(node, other, 1, "b", priority=1),
            await one.submits(tenant="b", priority=-5),
        ]
        take = other.board._turn._asked
        left = []

        async def asked(*args):
            answer = await take(*args)
            left.append(await one.link.client.llen("bull:transcription:wait"))
            return answer

        monkeypatch.setattr(other.board._turn, "_asked", asked)
        assert [(await other.boards.take()).job.id for _ in range(2)] == others
        assert left == [25, 15, 5, 0, 0]
        assert await in_order(other, running) == ids

    run(test, **limited(concurrent=1))


def test_a_redis_that_has_lost_its_data_knows_the_limit_again(run, redis):  # noqa: F811
    async def test(one, other):
        ids = [await one.submits(**FREE) for _ in range(3)]
        held = await one.takes()
        await comes_back_empty(redis, one)
        await other.finds_redis()
        await one.recall.look()

        assert await at_once((one, other)) == []
        await one.board.complete(held, {"words": 1})
        assert len(await at_once((one, other))) == 1
        assert held.id in ids

    run(test, **limited(concurrent=1))


def test_other_settings_hold_for_what_waits_already_and_no_limit_is_none(run):  # noqa: F811
    async def test(one, other):
        for _ in range(4):
            await one.submits(tenant="acme")
        await one.boards.take()

        await other.boards.limit(other.local.rules.limits)
        assert await one.boards.take() is None
        await other.boards.limit(lambda tenant, plan: NO_LIMITS)
        assert len(await at_once((one, other))) == 3

    run(test, queue=config.Queue(tenants={"acme": 1}))


@pytest.mark.timeout(300)
def test_two_hosts_at_work_never_run_two_of_a_tenant_that_may_have_one(new_host, node, tmp_path):
    path = tmp_path / "silence.wav"
    path.write_bytes(silence())
    pair = [new_host().start() for _ in range(2)]
    for host in pair:
        host.http.post("/admin/pause").raise_for_status()
    ids = {pair[n % 2].queued(path, tenant="acme", plan="FREE") for n in range(20)}
    others = {pair[n % 2].queued(path, tenant="b", plan="PRO", priority=-5) for n in range(20)}

    for host in pair:
        host.http.post("/admin/resume").raise_for_status()
    until(lambda: node.counts()["completed"] == 40, 200)

    heard = [(kind, job in ids) for kind, job, _ in node.heard() if kind in ("active", "completed")]
    assert [kind for kind, mine in heard if mine] == ["active", "completed"] * 20
    first, _ = heard.index(("active", False)), others
    assert ("active", True) in heard[first:]  # those of a lower priority did not wait for them all


def test_who_may_not_be_taken_now_by_bullmqs_own_limit_keeps_its_place(run):  # noqa: F811
    async def test(one, other):
        await one.submits(priority=5, **FREE)
        running = await one.boards.take()
        await one.link.client.hset("bull:transcription:meta", "concurrency", 1)
        await one.submits(priority=4, **FREE)
        ids = [await one.submits(tenant="b", priority=priority) for priority in (3, 2)]
        before = await one.link.client.zrange("bull:transcription:prioritized", 0, -1, withscores=True)

        assert await other.boards.take() is None
        after = await one.link.client.zrange("bull:transcription:prioritized", 0, -1, withscores=True)
        assert after == before
        await one.link.client.hdel("bull:transcription:meta", "concurrency")
        assert (await other.boards.take()).job.id == ids[0]
        assert running.data["tenant"] == "acme"

    run(test, **limited(concurrent=1))
