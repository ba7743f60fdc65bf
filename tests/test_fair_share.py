"""Whose turn it is: shares of tenants, what has waited too long, how much one tenant may have at once."""

import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from tests.conftest import a_task
from tests.test_queue import BOOM, SECOND, a_plan, nothing_to_claim, planned
from whisperd.db import migrate
from whisperd.history import History
from whisperd.sql import claims, moves
from whisperd.task import (
    PLAN,
    Change,
    Cut,
    Limits,
    ListQuery,
    Piece,
    Plan,
    QueueFull,
    Rules,
    State,
    TenantQueueFull,
)
from whisperd.usage import day

CHUNK_SECONDS = 28


def hours(n):
    """The plan of a recording of n hours."""
    cut = Cut(pieces=(Piece(0, CHUNK_SECONDS * SECOND),))
    return Plan(
        fingerprint="f", cuts=(cut,) * (n * 3600 // CHUNK_SECONDS), duration=n * 3600.0, language="en"
    )


def by_weight(**weights):
    """Rules under which these tenants have these weights, and others 1."""
    heaviest = float(max(weights.values()))
    return {"limits": lambda tenant, plan: Limits(weight=weights.get(tenant, 1.0)), "heaviest": heaviest}


def by_plan(**limits):
    return {"limits": lambda tenant, plan: limits.get(plan, Limits())}


async def whose(queue, n=1):
    """The tenants of the next n claims."""
    return [(await queue.claim()).task.tenant for _ in range(n)]


async def seconds_given(queue, n):
    """The seconds of audio that each tenant gets of the next n chunks."""
    given = Counter()
    for _ in range(n):
        chunk = await queue.claim()
        given[chunk.task.tenant] += CHUNK_SECONDS * (chunk.number != PLAN)
    return given


async def at_work(queue, *tenants, n=1):
    """Each of the tenants has a recording of n hours in line, its plan made."""
    for tenant in tenants:
        await queue.submit(a_task(tenant=tenant))
    for _ in tenants:
        chunk = await queue.claim()
        assert chunk.number == PLAN
        await queue.plan(chunk, hours(n))


# --- shares ---


@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_a_clip_is_next_however_much_another_tenant_sent_before_it(with_queue, order):
    async def body(queue):
        await at_work(queue, "a", n=100)
        for _ in range(20):
            await queue.submit(a_task(tenant="a"))
        await whose(queue, 7)
        await queue.submit(a_task(tenant="b"))

        clip = await queue.claim()
        assert clip.task.tenant == "b"
        await queue.plan(clip, a_plan(1, seconds=5))
        assert "b" in await whose(queue, 2)
        assert await whose(queue, 3) == ["a", "a", "a"]

    with_queue(body, order=order)


def test_tenants_get_seconds_of_audio_by_their_weights_to_within_a_chunk(with_queue):
    async def body(queue):
        await at_work(queue, "light", "heavy", n=10)
        given = Counter()
        for n in range(1, 121):
            given += await seconds_given(queue, 1)
            assert abs(given["light"] - n * CHUNK_SECONDS / 4) <= CHUNK_SECONDS

        assert given == {"light": 30 * CHUNK_SECONDS, "heavy": 90 * CHUNK_SECONDS}

    with_queue(body, **by_weight(heavy=3.0))


def test_short_chunks_count_for_less_than_long_ones(with_queue):
    async def body(queue):
        for tenant, seconds in [("short", 7), ("long", 28)]:
            await queue.submit(a_task(tenant=tenant))
            await queue.plan(await queue.claim(), a_plan(200, seconds=seconds))

        assert Counter(await whose(queue, 100)) == {"short": 80, "long": 20}

    with_queue(body)


def test_silence_without_end_is_not_for_nothing(with_queue):
    """A file without speech has no chunks: if its plan cost nothing, its tenant would always be next."""

    async def body(queue):
        for _ in range(50):
            await queue.submit(a_task(tenant="silent"))
        await at_work(queue, "speaks")
        claimed = Counter()
        for _ in range(40):
            chunk = await queue.claim()
            claimed[chunk.task.tenant] += 1
            if chunk.number == PLAN:
                await queue.plan(chunk, a_plan(0))

        assert claimed["speaks"] >= 40 // CHUNK_SECONDS

    with_queue(body)


def test_a_tenant_that_comes_back_after_idling_gets_no_burst(with_queue):
    async def body(queue):
        await at_work(queue, "a", "b")
        await whose(queue, 10)
        for task in await queue.list(ListQuery(tenant="b")):
            await queue.cancel(task.id)
        assert set(await whose(queue, 50)) == {"a"}

        await queue.submit(a_task(tenant="b"))
        await queue.plan(await queue.claim(), hours(1))
        given = await seconds_given(queue, 20)
        assert abs(given["a"] - given["b"]) <= CHUNK_SECONDS

    with_queue(body)


def test_a_tenant_that_had_all_while_it_was_alone_pays_nothing_for_it(with_queue):
    async def body(queue):
        await at_work(queue, "a")
        await whose(queue, 60)
        await at_work(queue, "b")

        given = await seconds_given(queue, 20)
        assert abs(given["a"] - given["b"]) <= CHUNK_SECONDS

    with_queue(body)


def test_going_and_coming_back_is_no_way_to_be_served_first(with_queue):
    async def body(queue):
        await at_work(queue, "patient")
        served = Counter()
        await queue.submit(a_task(tenant="quick"))
        for _ in range(100):
            chunk = await queue.claim()
            seconds = CHUNK_SECONDS if chunk.number else 0
            served[chunk.task.tenant] += seconds
            if chunk.task.tenant == "quick" and chunk.number == PLAN:
                await queue.plan(chunk, a_plan(1, seconds=CHUNK_SECONDS))
            elif chunk.task.tenant == "quick":
                await queue.finish(chunk, [])
                await queue.submit(a_task(tenant="quick"))

        assert served["quick"] <= served["patient"] + CHUNK_SECONDS

    with_queue(body)


async def until_a_new_one_is_done(queue):
    """Who was served, up to the one chunk of a tenant that came for it."""
    served = Counter()
    while True:
        chunk = await queue.claim()
        served[chunk.task.tenant] += 1
        if chunk.number == PLAN:
            await queue.plan(chunk, a_plan(1, seconds=CHUNK_SECONDS))
        elif chunk.task.tenant != "old":
            return served


def test_no_stream_of_new_tenants_keeps_an_old_one_waiting(with_queue):
    async def body(queue):
        await at_work(queue, "old")
        await queue.claim()
        served = Counter()
        for n in range(100):
            await queue.submit(a_task(tenant=f"new {n}"))  # one that has had nothing yet is always there
            served += await until_a_new_one_is_done(queue)

        assert served["old"] >= 30

    with_queue(body)


def test_shares_are_of_one_priority(with_queue):
    async def body(queue):
        await at_work(queue, "a", "b")
        urgent, _ = await queue.submit(a_task(tenant="a", priority=1))
        await queue.plan(await queue.claim(), hours(1))
        assert await whose(queue, 30) == ["a"] * 30
        await queue.cancel(urgent.id)

        given = await seconds_given(queue, 20)
        assert abs(given["a"] - given["b"]) <= CHUNK_SECONDS

    with_queue(body)


def test_what_is_handed_back_has_cost_its_tenant_nothing(with_queue):
    async def body(queue):
        await at_work(queue, "a", "b")
        for _ in range(10):
            await queue.release(await queue.claim())

        given = await seconds_given(queue, 20)
        assert abs(given["a"] - given["b"]) <= CHUNK_SECONDS

    with_queue(body)


def test_shares_survive_a_restart(with_queue):
    async def before(queue):
        await at_work(queue, "a", "b")
        assert Counter(await whose(queue, 3)) == {"a": 2, "b": 1}

    async def after(queue):
        await queue.recover()
        assert await whose(queue) == ["b"]

    with_queue(before)
    with_queue(after)


def test_each_of_a_thousand_tenants_has_its_turn_before_any_has_a_second():
    tenants = [f"tenant {n:03}" for n in range(1000)]
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        conn.row_factory = sqlite3.Row
        migrate(conn)
        for number in range(3):
            for tenant in tenants:
                moves.submit(conn, a_task(f"{number}", tenant=tenant), Rules(), 0.0, 0.0)

        for _ in range(3):
            assert {claims.claim(conn, Rules(), 0.0).task.tenant for _ in tenants} == set(tenants)


def test_what_tenants_had_is_forgotten_once_it_makes_no_difference(with_queue):
    async def body(queue):
        for n in range(30):
            await queue.submit(a_task(tenant=f"passing {n}"))
            await queue.plan(await queue.claim(), a_plan(0))
        await at_work(queue, "stays")
        await whose(queue, 3)
        await queue.prune(0.0, 0.0)

        left = await queue.db.read(lambda conn: conn.execute("select tenant from share").fetchall())
        assert [tenant for (tenant,) in left] == ["stays"]

    with_queue(body)


def test_a_plan_outlives_the_last_task_of_its_tenant(with_queue, clock):
    """A FREE tenant whose tasks had been pruned had no limit, and a PRO one no share."""

    async def body(queue):
        task, _ = await queue.submit(a_task(tenant="acme", plan="FREE"))
        await queue.cancel(task.id)
        clock.now += 1
        await queue.prune(clock.now, clock.now)
        for _ in range(2):
            await queue.submit(a_task(tenant="acme"))

        await queue.claim()
        assert await nothing_to_claim(queue)
        assert (await queue.limits("acme")).concurrent == 1

    with_queue(body, **by_plan(FREE=Limits(concurrent=1)))


def test_a_plan_is_forgotten_when_nothing_is_left_of_its_tenant(with_queue, clock):
    async def body(queue):
        for tenant in ("gone", "stays"):
            task, _ = await queue.submit(a_task(tenant=tenant, plan="FREE"))
            await queue.cancel(task.id)
        waits, _ = await queue.submit(a_task(tenant="stays"))
        clock.now += 400 * 86_400
        await queue.prune(clock.now, clock.now)
        await History(queue.db).forget_usage(day(clock.now))

        assert (await queue.limits("stays")).concurrent == 1
        assert (await queue.limits("gone")).concurrent == 0
        await queue.cancel(waits.id)
        await History(queue.db).forget_usage("9999-12-31")
        await queue.clear([State.CANCELLED], clock.now + 1)
        assert await queue.db.read(lambda conn: conn.execute("select name from tenant").fetchall()) == []

    with_queue(body, **by_plan(FREE=Limits(concurrent=1)))


# --- what has waited too long ---


def test_what_waited_too_long_goes_before_what_is_newer_the_oldest_first(with_queue, clock):
    async def body(queue):
        for name in ("first", "second"):
            await queue.submit(a_task(name))
            clock.now += 1
        clock.now += 60
        await queue.submit(a_task("new"))
        await queue.submit(a_task("newest"))

        names = [(await queue.claim()).task.audio.name for _ in range(4)]
        assert names == ["first", "second", "newest", "new"]

    with_queue(body, max_wait_seconds=60.0)


def test_newest_first_starves_nothing_that_is_begun(with_queue, clock):
    async def body(queue):
        begun = await planned(queue, 2)
        clock.now += 61
        await queue.submit(a_task())

        assert [(await queue.claim()).task.id for _ in range(2)] == [begun.id, begun.id]

    with_queue(body, max_wait_seconds=60.0)


def test_nothing_is_too_old_when_that_is_switched_off(with_queue, clock):
    async def body(queue):
        await queue.submit(a_task("old"))
        clock.now += 1e9
        await queue.submit(a_task("new"))

        assert (await queue.claim()).task.audio.name == "new"

    with_queue(body, max_wait_seconds=0.0)


def test_age_comes_after_priority(with_queue, clock):
    async def body(queue):
        await queue.submit(a_task("old"))
        clock.now += 61
        await queue.submit(a_task("urgent", priority=1))

        assert (await queue.claim()).task.audio.name == "urgent"

    with_queue(body, max_wait_seconds=60.0)


def test_what_one_tenant_has_had_in_line_for_long_takes_no_turn_from_another(with_queue, clock):
    async def body(queue):
        await at_work(queue, "a", n=100)
        await whose(queue)
        clock.now += 86_400
        await queue.submit(a_task(tenant="b"))

        assert await whose(queue) == ["b"]

    with_queue(body, max_wait_seconds=60.0)


def test_a_time_to_run_is_not_a_wait(with_queue, clock):
    async def body(queue):
        await queue.submit(a_task("scheduled", run_at=clock.now + 1000))
        clock.now += 950
        await queue.submit(a_task("waits"))
        clock.now += 61  # the scheduled one is in line since 11 s

        names = [(await queue.claim()).task.audio.name for _ in range(2)]
        assert names == ["waits", "scheduled"]

    with_queue(body, max_wait_seconds=60.0)


def test_a_wait_between_two_attempts_makes_no_task_younger(with_queue, clock):
    async def body(queue):
        await queue.submit(a_task("fails"))
        clock.now += 50
        failed = await queue.fail(await queue.claim(), BOOM)
        clock.now = failed.run_at + 5
        await queue.submit(a_task("new"))

        assert (await queue.claim()).task.audio.name == "fails"

    with_queue(body, max_wait_seconds=60.0, retry_delay_seconds=10.0)


def test_a_task_that_is_retried_is_as_young_as_a_new_one(with_queue, clock):
    async def body(queue):
        old, _ = await queue.submit(a_task("old"))
        await queue.cancel(old.id)
        clock.now += 61
        await queue.submit(a_task("new"))
        await queue.retry(old.id)

        assert (await queue.claim()).task.audio.name == "new"

    with_queue(body, max_wait_seconds=60.0)


@pytest.mark.parametrize("seconds", [-86_400.0, 86_400.0])
def test_a_clock_that_is_set_makes_no_task_older_or_younger(with_queue, clock, seconds):
    async def body(queue):
        await queue.submit(a_task("old"))
        clock.now += 50 + seconds
        await queue.clock_jumped(seconds)
        await queue.submit(a_task("new"))
        assert (await queue.claim()).task.audio.name == "new"
        clock.now += 11
        await queue.submit(a_task("newer"))

        assert (await queue.claim()).task.audio.name == "old"

    with_queue(body, max_wait_seconds=60.0)


def test_a_clock_set_back_while_nobody_ran_makes_nothing_wait_for_longer(with_queue, clock):
    async def before(queue):
        await queue.submit(a_task("old"))
        clock.now -= 86_400

    async def after(queue):
        await queue.recover()
        clock.now += 61
        await queue.submit(a_task("new"))

        assert (await queue.claim()).task.audio.name == "old"

    with_queue(before)
    with_queue(after, max_wait_seconds=60.0)


def test_a_tenant_at_its_limit_waits_however_long_it_has(with_queue, clock):
    async def body(queue):
        await queue.submit(a_task("waits", tenant="a"))
        await planned(queue, 1, tenant="a")
        await queue.claim()
        clock.now += 61

        assert await nothing_to_claim(queue)

    with_queue(body, max_wait_seconds=60.0, limits=lambda tenant, plan: Limits(concurrent=1))


# --- limits ---


def test_the_plan_that_a_submission_names_is_its_tenants_from_then_on(with_queue):
    async def body(queue):
        await queue.submit(a_task(tenant="a", plan="FREE"))
        await queue.submit(a_task(tenant="a"))
        await queue.claim()
        assert await nothing_to_claim(queue)

        await queue.submit(a_task(tenant="a", plan="PRO"))
        assert len({(await queue.claim()).task.id for _ in range(2)}) == 2

    with_queue(body, **by_plan(FREE=Limits(concurrent=1), PRO=Limits(concurrent=3)))


def test_a_plan_survives_a_restart(with_queue):
    rules = by_plan(FREE=Limits(concurrent=1))

    async def before(queue):
        await queue.submit(a_task(tenant="a", plan="FREE"))
        await queue.submit(a_task(tenant="a"))
        await queue.claim()

    async def after(queue):
        assert await nothing_to_claim(queue)

    with_queue(before, **rules)
    with_queue(after, **rules)


def test_a_tenant_without_a_plan_has_no_plans_limits(with_queue):
    async def body(queue):
        for _ in range(5):
            await queue.submit(a_task())

        assert len(await whose(queue, 5)) == 5

    with_queue(body, **by_plan(FREE=Limits(concurrent=1, queued=1)))


def test_no_more_tasks_of_a_tenant_wait_than_its_plan_allows(with_queue, clock):
    async def body(queue):
        await queue.submit(a_task(tenant="a", plan="FREE"))
        await queue.submit(a_task(tenant="a", run_at=clock.now + 99))
        with pytest.raises(TenantQueueFull):
            await queue.submit(a_task(tenant="a"))
        with pytest.raises(TenantQueueFull):
            await queue.check_room("a")
        await queue.submit(a_task(tenant="b"))  # which is another

        await queue.claim()
        await queue.check_room("a")
        await queue.submit(a_task(tenant="a"))

    with_queue(body, **by_plan(FREE=Limits(queued=2)))


def test_what_was_refused_leaves_no_plan_behind(with_queue):
    async def body(queue):
        await queue.submit(a_task(tenant="a", plan="FREE"))
        with pytest.raises(TenantQueueFull):
            await queue.submit(a_task(tenant="a", plan="NONE"))
        await queue.submit(a_task(tenant="b"))

        assert (await queue.check_room("a", "PRO")).queued == 0
        with pytest.raises(TenantQueueFull):
            await queue.check_room("a")

    with_queue(body, **by_plan(FREE=Limits(queued=1), NONE=Limits(queued=1)))


def test_the_room_is_asked_for_before_a_tenant_is_known(with_queue):
    async def body(queue):
        await queue.check_room()
        await queue.submit(a_task())

        with pytest.raises(QueueFull):
            await queue.check_room()

    with_queue(body, max_queued=1)


def test_who_is_refused_is_told_when_to_come_back(with_queue, clock):
    async def body(queue):
        for tenant in "ab":
            await queue.submit(a_task(tenant=tenant, plan="FREE"))
        with pytest.raises(TenantQueueFull) as idle:
            await queue.submit(a_task(tenant="a"))
        assert idle.value.retry_after == 120  # nothing was finished in the last minute
        for _ in range(20):
            await queue.submit(a_task(tenant="c", priority=1))
            await queue.plan(await queue.claim(), a_plan(0))

        with pytest.raises(TenantQueueFull) as busy:
            await queue.submit(a_task(tenant="a"))
        assert busy.value.retry_after == 6  # one each 3 s, and two tenants want it

    with_queue(body, **by_plan(FREE=Limits(queued=1)))


def test_a_task_moved_to_another_priority_is_handed_out_there(with_queue):
    async def body(queue):
        task, _ = await queue.submit(a_task(tenant="a"))
        await queue.submit(a_task(tenant="b"))
        await queue.change(task.id, Change(priority=5))

        assert await whose(queue, 2) == ["a", "b"]

    with_queue(body)
