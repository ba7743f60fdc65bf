"""The outbox: each end of a task is noted for whoever is to hear of it, in the transaction that ends it."""

import asyncio
import sqlite3
from contextlib import closing

import pytest
from msgspec.structs import replace

from tests.conftest import a_task
from tests.test_queue import BOOM, a_plan, completed, said
from whisperd.db import Database
from whisperd.delivery import DeliveryNotFound, DeliveryQuery, DeliveryState
from whisperd.events import Events
from whisperd.outbox import Outbox
from whisperd.queue import SqliteQueue
from whisperd.sql import moves
from whisperd.sql import outbox as sql
from whisperd.task import State

HERE, THERE, ELSEWHERE = "https://here.example/a?b=c", "https://there.example/", "https://else.example:8443/x"
HOUR = 3600.0
ALL = DeliveryQuery(limit=1000)


@pytest.fixture
def with_outbox(tmp_path, clock):
    """Run an async test body with a queue and its outbox, on a file that a second run finds again."""

    def run(body, *endpoints):
        async def main():
            async with Database(tmp_path / "q.db") as db:
                queue, box = SqliteQueue(db, Events(), now=clock), Outbox(db, clock)
                await box.point(endpoints)
                await body(queue, box)

        asyncio.run(main())

    return run


async def failed(queue, **fields):
    await queue.submit(a_task(**fields))
    return await queue.fail(await queue.claim(), BOOM, final=True)


async def cancelled(queue, **fields):
    task, _ = await queue.submit(a_task(**fields))
    return await queue.cancel(task.id)


async def one(box):
    (delivery,) = await box.find(ALL)
    return delivery


# --- what is noted ---


@pytest.mark.parametrize(
    ("ends", "event"),
    [(completed, "task.completed"), (failed, "task.failed"), (cancelled, "task.cancelled")],
)
def test_each_end_of_a_task_is_told_to_its_callback(with_outbox, ends, event):
    async def body(queue, box):
        task = await ends(queue, callback_url=HERE, tenant="acme")

        told = await one(box)
        assert (told.event, told.task_id, told.tenant, told.url) == (event, task.id, "acme", HERE)
        assert (told.place, told.state, told.attempts) == ("https://here.example", DeliveryState.WAITING, 0)
        assert told.task == await queue.get(task.id)

    with_outbox(body)


def test_a_task_of_which_nobody_wants_to_hear_leaves_no_trace(with_outbox):
    async def body(queue, box):
        await completed(queue)

        assert await box.find(ALL) == []

    with_outbox(body)


def test_the_endpoints_hear_of_every_task_and_each_address_once(with_outbox):
    async def body(queue, box):
        await completed(queue, callback_url=HERE)
        await completed(queue)

        assert sorted(told.url for told in await box.find(ALL)) == [HERE, HERE, THERE, THERE]

    with_outbox(body, HERE, THERE)


def test_nothing_is_told_of_a_task_that_is_not_over(with_outbox):
    async def body(queue, box):
        await queue.submit(a_task(callback_url=HERE))
        chunk = await queue.claim()
        await queue.fail(chunk, BOOM)  # it will be tried again

        assert await box.find(ALL) == []

    with_outbox(body)


def test_a_task_that_fails_and_is_completed_later_is_told_twice_under_two_ids(with_outbox):
    async def body(queue, box):
        task = await failed(queue, callback_url=HERE)
        await queue.retry(task.id)
        chunk = await queue.claim()
        await queue.fail(chunk, BOOM, final=True)
        await queue.retry(task.id)
        await queue.cancel(task.id)

        told = await box.find(ALL)
        assert [delivery.event for delivery in told] == ["task.cancelled", "task.failed", "task.failed"]
        assert len({delivery.id for delivery in told}) == 3
        assert told[1].task.state == State.FAILED  # as it was then, whatever became of it

    with_outbox(body)


def test_what_ends_a_task_at_a_start_is_told_too(with_outbox):
    async def dies(queue, box):
        await queue.submit(a_task(callback_url=HERE, max_retries=0))
        await queue.claim()

    async def starts(queue, box):
        await queue.recover()

        assert (await one(box)).event == "task.failed"

    with_outbox(dies)
    with_outbox(starts)


def test_an_end_that_was_not_committed_is_not_told(tmp_path, clock):
    """The row is part of the transaction, whatever happens behind it."""

    async def main():
        async with Database(tmp_path / "q.db") as db:
            queue, box = SqliteQueue(db, Events(), now=clock), Outbox(db, clock)
            task, _ = await queue.submit(a_task(callback_url=HERE))

            def breaks_off(conn):
                moves.cancel(conn, task.id, clock.now)
                raise KeyError

            with pytest.raises(KeyError):
                await db.write(breaks_off)
            assert await box.find(ALL) == []
            assert (await queue.get(task.id)).state == State.QUEUED

    asyncio.run(main())


def test_each_of_the_tasks_that_one_completes_is_told_to_its_own_callback(with_queue, clock):
    """Twins: the others are completed with the one that was decoded, in its transaction."""

    async def body(queue):
        box = Outbox(queue.db, clock)
        for url in (HERE, THERE):
            await queue.submit(a_task(model_sha256="m", callback_url=url))
        await queue.plan(await queue.claim(), replace(a_plan(1), model_sha256="m"))
        await queue.finish(await queue.claim(), said("one"))
        await queue.submit(a_task(model_sha256="m", callback_url=ELSEWHERE))  # completed already

        told = await box.find(ALL)
        assert {delivery.url for delivery in told} == {HERE, THERE, ELSEWHERE}
        assert {delivery.event for delivery in told} == {"task.completed"}
        assert len({delivery.task_id for delivery in told}) == 3

    with_queue(body, cache_seconds=HOUR)


def test_the_task_may_be_forgotten_before_it_is_told(with_outbox, clock):
    async def body(queue, box):
        task = await completed(queue, callback_url=HERE, metadata={"yours": 1})
        await queue.clear({State.COMPLETED}, clock.now + 1)

        told = (await one(box)).task
        assert (told.id, told.state, told.metadata) == (task.id, State.COMPLETED, {"yours": 1})

    with_outbox(body)


def test_a_snapshot_of_an_older_version_has_none_where_that_knew_nothing(with_outbox):
    async def body(queue, box):
        await completed(queue, callback_url=HERE)
        older = (await one(box)).snapshot.replace('"language":"en",', "")

        def make_older(conn):
            conn.execute("update outbox set snapshot = ?", (older,))

        await queue._db.write(make_older)
        assert (await one(box)).task.language is None

    with_outbox(body)


# --- what is due ---


async def due(box, held=(), room=None, each=3, most=10):
    return [delivery.url for delivery in await box.due(held, room or {}, each, most)]


def test_of_each_place_only_so_many_are_due_at_a_time(with_outbox):
    async def body(queue, box):
        for _ in range(5):
            await cancelled(queue, callback_url=HERE)
        await cancelled(queue, callback_url=THERE)

        assert sorted(await due(box)) == [HERE, HERE, HERE, THERE]
        assert sorted(await due(box, room={"https://here.example": 1})) == [HERE, THERE]
        assert await due(box, room={"https://here.example": 0}) == [THERE]
        assert await due(box, most=2) == [HERE, HERE]

    with_outbox(body)


def test_what_is_held_is_not_due(with_outbox):
    async def body(queue, box):
        await cancelled(queue, callback_url=HERE)
        delivery = await one(box)

        assert await due(box, held=[delivery.id]) == []
        await cancelled(queue, callback_url=f"{HERE}&second")  # of the same place
        assert await due(box, held=[delivery.id]) == [f"{HERE}&second"]
        assert await box.next_due([told.id for told in await box.find(ALL)], []) is None
        assert await box.next_due([], [delivery.place]) is None
        assert await box.next_due([], []) == 0.0

    with_outbox(body)


def test_what_was_delivered_is_due_no_more(with_outbox):
    async def body(queue, box):
        await cancelled(queue, callback_url=HERE)
        await box.delivered(await one(box), 204)

        told = await one(box)
        assert (told.state, told.status, told.attempts) == (DeliveryState.DELIVERED, 204, 1)
        assert await due(box) == []
        assert await box.next_due([], []) is None

    with_outbox(body)


def test_a_failure_is_tried_again_after_its_delay_and_the_last_time_when_a_day_is_over(with_outbox, clock):
    async def body(queue, box):
        await cancelled(queue, callback_url=HERE)
        started, waits = clock.now, []
        while (delivery := await one(box)).state == DeliveryState.WAITING:
            clock.now = delivery.due_at
            waits.append(clock.now - started)
            await box.failed(delivery, 500, "it answered 500", 7 * HOUR)

        assert waits == [0, 7 * HOUR, 14 * HOUR, 21 * HOUR, 24 * HOUR]
        assert (delivery.attempts, delivery.problem) == (5, "it answered 500")
        assert delivery.state == DeliveryState.DEAD

    with_outbox(body)


def test_what_has_waited_for_more_than_a_day_is_given_up_tried_or_not(with_outbox, clock):
    """A place that is dead, or just too slow for all that it is told: nothing grows without bound."""

    async def body(queue, box):
        for _ in range(3):
            await cancelled(queue, callback_url=HERE)
        clock.now += 23 * HOUR
        await cancelled(queue, callback_url=HERE)
        clock.now += HOUR
        await box.prune(0.0, 0.0)
        states = {delivery.state for delivery in await box.find(ALL)}
        assert states == {"waiting"}  # the last attempt is still to come

        clock.now += HOUR / 2
        await box.prune(0.0, 0.0, limit=2)
        assert [delivery.state for delivery in await box.find(ALL)] == ["waiting", *["dead"] * 3]

    with_outbox(body)


def test_an_address_that_is_gone_hears_nothing_more_until_something_is_resent_to_it(with_outbox):
    async def body(queue, box):
        for url in (HERE, HERE, THERE):
            await cancelled(queue, callback_url=url)
        await box.disable(HERE)
        await cancelled(queue, callback_url=HERE)
        told = await box.find(ALL)
        assert [(delivery.url, delivery.state) for delivery in told] == [
            (THERE, "waiting"),
            (HERE, "dead"),
            (HERE, "dead"),
        ]

        await box.resend(told[1].id)
        await cancelled(queue, callback_url=HERE)
        assert sorted(await due(box)) == [HERE, HERE, THERE]

    with_outbox(body)


def test_what_is_resent_has_its_old_id_and_a_day_more(with_outbox, clock):
    async def body(queue, box):
        await cancelled(queue, callback_url=HERE)
        before = await one(box)
        await box.delivered(before, 200)
        clock.now += 30 * HOUR
        resent = await box.resend(before.id)

        assert (resent.id, resent.attempts, resent.created_at) == (before.id, 0, before.created_at)
        assert (resent.due_at, resent.expires_at) == (clock.now, clock.now + 24 * HOUR)
        for wrong in (("msg_none", None), (before.id, "another tenant")):
            with pytest.raises(DeliveryNotFound):
                await box.resend(*wrong)

    with_outbox(body)


def test_an_endpoint_that_is_taken_out_of_the_settings_is_told_nothing_more(with_outbox):
    async def body(queue, box):
        await completed(queue)
        await box.point([THERE])
        await completed(queue)

        assert {(told.url, told.state) for told in await box.find(ALL)} == {
            (THERE, "waiting"),
            (HERE, "dead"),
        }

    with_outbox(body, HERE, THERE)


# --- time, retention ---


@pytest.mark.parametrize("seconds", [-24 * HOUR, 24 * HOUR])
def test_a_clock_that_is_set_neither_hurries_nor_delays_nor_ends_what_waits(with_outbox, clock, seconds):
    async def body(queue, box):
        await cancelled(queue, callback_url=HERE)
        await box.failed(await one(box), 500, "it answered 500", HOUR)
        clock.now += seconds
        await queue.clock_jumped(seconds)

        assert await box.next_due([], []) == HOUR
        clock.now += HOUR
        await box.failed(await one(box), 500, "it answered 500", HOUR)
        assert (await one(box)).state == DeliveryState.WAITING

    with_outbox(body)


def test_a_clock_set_back_while_nobody_looked_makes_no_wait_longer_than_the_longest(with_outbox, clock):
    async def body(queue, box):
        await cancelled(queue, callback_url=HERE)
        clock.now -= 365 * 24 * HOUR
        await box.recover(3 * HOUR)

        assert await box.next_due([], []) == 3 * HOUR
        assert (await one(box)).expires_at == clock.now + 24 * HOUR

    with_outbox(body)


def test_after_a_week_without_a_daemon_there_is_an_hour_left_to_try(with_outbox, clock):
    async def body(queue, box):
        await cancelled(queue, callback_url=HERE)
        clock.now += 7 * 24 * HOUR
        await box.recover(3 * HOUR)
        await box.failed(await one(box), None, "it cannot be reached", 60.0)

        assert (await one(box)).state == DeliveryState.WAITING

    with_outbox(body)


def test_retention_forgets_what_is_settled_and_never_what_waits(with_outbox, clock):
    async def body(queue, box):
        for url in (HERE, THERE, ELSEWHERE):
            await cancelled(queue, callback_url=url)
        _, there, here = await box.find(ALL)
        await box.delivered(here, 200)
        await box.disable(there.url)
        clock.now += 2 * HOUR
        await box.prune(clock.now - HOUR, clock.now - 3 * HOUR)
        assert [told.url for told in await box.find(ALL)] == [ELSEWHERE, THERE]

        await box.prune(clock.now - HOUR, clock.now - HOUR, limit=1)
        assert [told.url for told in await box.find(ALL)] == [ELSEWHERE]
        await cancelled(queue, callback_url=THERE)  # gone for as long as its dead were kept
        assert [told.url for told in await box.find(ALL)] == [THERE, ELSEWHERE]

    with_outbox(body)


def test_deliveries_are_found_by_state_task_and_tenant_page_by_page(with_outbox):
    async def body(queue, box):
        tasks = [await cancelled(queue, callback_url=HERE, tenant=f"t{n % 2}") for n in range(4)]
        found = await box.find(ALL)
        await box.delivered(found[0], 200)

        async def ids(**query):
            return [delivery.task_id for delivery in await box.find(DeliveryQuery(**query))]

        assert await ids(task=tasks[1].id) == [tasks[1].id]
        assert await ids(tenant="t0") == [tasks[2].id, tasks[0].id]
        assert await ids(states=frozenset({DeliveryState.DELIVERED})) == [tasks[3].id]
        assert await ids(limit=2) == [tasks[3].id, tasks[2].id]
        assert await ids(limit=2, before=found[1].seq) == [tasks[1].id, tasks[0].id]

    with_outbox(body)


# --- what it costs ---


@pytest.mark.parametrize("verb", ["due", "next_due"])
def test_what_waits_for_one_place_costs_the_others_nothing(tmp_path, verb):
    """Steps of SQLite, with 10 and with 10,000 waiting."""
    costs = []
    for n in (10, 10_000):
        with closing(a_full_outbox(tmp_path / f"{n}.db", n)) as conn:
            costs.append(cost(conn, verb))

    assert costs[1] <= 1.5 * costs[0] + 20


@pytest.mark.parametrize("verb", ["due", "next_due"])
@pytest.mark.parametrize("due_at", [1, 3], ids=["all due", "one due"])
def test_how_many_places_are_waited_for_costs_a_look_nothing(tmp_path, verb, due_at):
    """Steps of SQLite, with 10 and with 10,000 places of which all are due, or but one."""
    costs = []
    for n in (10, 10_000):
        with closing(a_full_outbox(tmp_path / f"{n}.db", n, "https://h' || n || '")) as conn:
            conn.execute("update outbox set due_at = ? where id <> '1'", (due_at,))
            costs.append(cost(conn, verb))

    assert costs[1] <= 1.5 * costs[0] + 20


def a_full_outbox(path, n, place="https://a"):
    async def made():
        async with Database(path):
            pass

    asyncio.run(made())
    conn = sqlite3.connect(path, isolation_level=None)
    conn.row_factory = sqlite3.Row
    conn.execute(
        f"""
        with recursive number (n) as (select 1 union all select n + 1 from number where n < :n)
        insert into outbox
          (id, kind, event, task, tenant, url, place, snapshot, created_at, due_at, expires_at)
        select n, 'webhook', 'task.completed', 't' || n, 'default', 'u' || n,
          iif(n = 5, 'https://b', '{place}'), '{{}}', 1, 1, 2 from number
        """,
        {"n": n},
    )
    return conn


def cost(conn, verb):
    ticks = 0

    def tick():
        nonlocal ticks
        ticks += 1
        return 0

    conn.set_progress_handler(tick, 10)
    if verb == "due":
        assert sql.due(conn, 2.0, [], {"https://a": 0}, 3, 10)
    else:
        assert sql.next_due(conn, [], ["https://a"]) == 1.0
    conn.set_progress_handler(None, 0)
    return ticks


# --- what is known of each place ---


def test_of_each_place_the_time_of_its_first_is_known_whatever_happens(with_outbox, clock):
    async def body(queue, box):
        async def known():
            first = "select place, min(due_at) from outbox where state = 'waiting' group by place"
            noted, there = await box._db.read(
                lambda conn: [
                    {row[0]: row[1] for row in conn.execute(f"select * from ({of})")}
                    for of in ("select place, due_at from outbox_place", first)
                ]
            )
            assert noted == there
            return len(noted)

        for url in (HERE, HERE, THERE):
            await cancelled(queue, callback_url=url)
            clock.now += 1
        assert await known() == 2
        here, also_here, there = sorted(await box.find(ALL), key=lambda delivery: delivery.seq)
        await box.failed(here, None, "it cannot be reached", 60.0)
        assert await known() == 2
        await queue.clock_jumped(-3600.0)
        assert await known() == 2
        await box.delivered(also_here, 200)
        await box.disable(THERE)
        assert await known() == 1
        await box.resend(there.id)
        assert await known() == 2
        clock.now += 2 * 24 * HOUR
        await box.prune(clock.now, clock.now)
        assert await known() == 0

    with_outbox(body)
