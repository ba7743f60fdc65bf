"""What tenants had done for them, by day and model: noted at the end of each task, kept after it."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from tests.conftest import a_task
from tests.stand_in import USAGE, standing_in
from tests.terminal import command_line
from tests.test_effort import effort
from tests.test_queue import BOOM, a_plan, said
from whisperd.client import AsyncClient
from whisperd.history import History
from whisperd.task import Change, LostClaim, State
from whisperd.usage import UsageQuery, day

DAY = 86_400.0
ALWAYS = UsageQuery(first="1970-01-01", last="2999-12-31")


async def used(queue, **query):
    """By what is asked for: seconds of audio and of work; tasks completed, failed, cancelled."""
    rows = await History(queue.db).usage(UsageQuery(first=ALWAYS.first, last=ALWAYS.last, **query))
    return {
        (row.day, row.tenant, row.model): (
            row.audio_seconds,
            row.compute_seconds,
            (row.completed, row.failed, row.cancelled),
        )
        for row in rows
    }


async def completed(queue, **fields):
    await queue.submit(a_task(**fields))
    plan = replace(a_plan(1), model_sha256=fields.get("model_sha256", ""))
    await queue.plan(await queue.claim(), plan, effort(0.5))
    return await queue.finish(await queue.claim(), said("hello"), effort=effort(2.0))


def test_a_task_counts_for_its_tenant_and_model_on_the_day_of_its_end(with_queue, clock):
    first, second = day(clock.now), day(clock.now + DAY)

    async def body(queue):
        await completed(queue, tenant="acme")
        await completed(queue, tenant="acme", model="base")
        waiting, _ = await queue.submit(a_task(tenant="other"))
        clock.now += DAY
        await queue.cancel(waiting.id)
        await completed(queue, tenant="acme")

        assert await used(queue) == {
            (first, "acme", "base"): (10.0, 2.5, (1, 0, 0)),
            (first, "acme", "tiny.en"): (10.0, 2.5, (1, 0, 0)),
            (second, "acme", "tiny.en"): (10.0, 2.5, (1, 0, 0)),
            (second, "other", "tiny.en"): (0.0, 0.0, (0, 0, 1)),
        }
        assert await used(queue, tenant="acme", by=("model",)) == {
            (None, None, "base"): (10.0, 2.5, (1, 0, 0)),
            (None, None, "tiny.en"): (20.0, 5.0, (2, 0, 0)),
        }
        assert await used(queue, by=()) == {(None, None, None): (30.0, 7.5, (3, 0, 1))}

    with_queue(body)


def test_each_end_counts_with_the_work_since_the_one_before(with_queue, clock):
    async def body(queue):
        task, _ = await queue.submit(a_task(max_retries=1))
        await queue.fail(await queue.claim(), BOOM, effort=effort(1.0))
        await queue.change(task.id, Change(run_at=clock.now))
        await queue.fail(await queue.claim(), BOOM, effort=effort(1.0))
        assert await used(queue, by=()) == {(None, None, None): (0.0, 2.0, (0, 1, 0))}

        await queue.retry(task.id)
        await queue.plan(await queue.claim(), a_plan(1), effort(0.25))
        await queue.finish(await queue.claim(), said("hello"), effort=effort(0.25))
        assert await used(queue, by=()) == {(None, None, None): (10.0, 2.5, (1, 1, 0))}

    with_queue(body)


@pytest.mark.parametrize("meanwhile", ["cancelled", "and run again", "and cleared away"])
def test_the_work_that_a_cancel_stopped_counts_once_its_worker_lets_go(with_queue, clock, meanwhile):
    async def body(queue):
        task, _ = await queue.submit(a_task(tenant="acme"))
        await queue.plan(await queue.claim(), a_plan(1), effort(0.5))
        chunk = await queue.claim()
        await queue.cancel(task.id)
        if meanwhile == "and run again":
            await queue.retry(task.id)
        elif meanwhile == "and cleared away":
            await queue.clear([State.CANCELLED], clock.now + 1)
        with pytest.raises(LostClaim):
            await queue.release(chunk, effort(2.0))
        await queue.write_off(chunk, effort(2.0))
        if meanwhile == "and run again":
            assert await used(queue, by=()) == {(None, None, None): (0.0, 0.5, (0, 0, 1))}
            await queue.cancel(task.id)

        ends = 2 if meanwhile == "and run again" else 1
        assert await used(queue) == {(day(clock.now), "acme", "tiny.en"): (0.0, 2.5, (0, 0, ends))}

    with_queue(body)


def test_a_copy_counts_with_its_audio_and_without_work(with_queue):
    async def body(queue):
        await completed(queue, model_sha256="m")
        copy, _ = await queue.submit(a_task(model_sha256="m"))

        assert copy.state == State.COMPLETED
        assert await used(queue, by=()) == {(None, None, None): (20.0, 2.5, (2, 0, 0))}

    with_queue(body, cache_seconds=60.0)


def test_the_usage_outlives_the_tasks_and_not_its_own_retention(with_queue, clock):
    async def body(queue):
        for _ in range(3):
            await completed(queue)
            clock.now += DAY
        await queue.clear([State.COMPLETED], clock.now)
        assert await used(queue, by=()) == {(None, None, None): (30.0, 7.5, (3, 0, 0))}

        await History(queue.db).forget_usage(day(clock.now - DAY))
        assert await used(queue, by=("day",)) == {(day(clock.now - DAY), None, None): (10.0, 2.5, (1, 0, 0))}

    with_queue(body)


def test_a_day_begins_at_midnight_utc():
    noon = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()

    assert [day(noon - 12.1 * 3600), day(noon), day(noon + 12 * 3600)] == [
        "2026-11-27",
        "2026-11-28",
        "2026-11-29",
    ]


# --- the command, and the call of the client behind it ---


@pytest.fixture(scope="module")
def server():
    with standing_in() as server:
        yield server


@pytest.fixture
def run(monkeypatch, capfd, tmp_path, server):
    server.reset()
    command = command_line(monkeypatch, capfd, tmp_path)
    return lambda *args: command("usage", *args, url=server.url)


def test_the_usage_is_a_line_a_sum_in_a_pipe(run):
    assert run().lines == ["2026-11-22\tacme\ttiny.en\t1:02:03\t1:01\t3\t1\t0"]


def test_days_tenant_and_parts_go_to_the_daemon(run, server):
    run("--from", "2026-11-01", "--to", "2026-11-30", "--tenant", "acme", "--by", "model,day")

    ((_, asked),) = server.seen
    assert asked == "/usage?from=2026-11-01&to=2026-11-30&tenant=acme&group_by=day%2Cmodel"


def test_what_there_is_no_sum_of_is_wrong_usage(run):
    outcome = run("--by", "colour")

    assert (outcome.status, "must be some of day, tenant, model" in outcome.err) == (2, True)


def test_as_json_the_usage_comes_whole(run):
    found = json.loads(run("--json").out)

    assert (found["total"], found["usage"]) == (USAGE["total"], USAGE["usage"])


def test_the_async_client_asks_alike(server):
    async def body():
        async with AsyncClient(server.url) as client:
            return await client.usage(tenant="acme")

    assert asyncio.run(body()).rows[0].tenant == "acme"
