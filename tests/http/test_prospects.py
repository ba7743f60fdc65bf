"""/tasks/{id}/explain and /tasks/estimate: what keeps a task, and when it is thought to be its turn."""

from itertools import count

import pytest

from tests.http.test_tenants import Tenant
from tests.http_server import the_error
from tests.test_queue import a_plan, said
from whisperd import outlook
from whisperd.queue import SqliteQueue
from whisperd.task import Effort, Limits, Problem

BOOM = Problem("worker_crashed", "child 7 was killed by signal 11")


async def explained(server, task):
    answer = await server.client.get(f"/tasks/{task['task_id']}/explain")
    assert answer.status_code == 200, answer.text
    return answer.json()


def codes(found):
    return [reason["code"] for reason in found["reasons"]]


async def estimated(server, status=200, **asked):
    answer = await server.client.post("/tasks/estimate", json=asked)
    assert answer.status_code == status, answer.text
    return answer.json()


async def measured(server):
    """A task is done, and it is known how long that took."""
    task = await server.submit()
    chunk = await server.queue.claim()
    effort = Effort(worker=1, seconds=0.5, device="cpu", threads=1)
    await server.queue.plan(chunk, a_plan(1), effort)
    effort = Effort(worker=1, seconds=2.0, device="cpu", threads=1)
    await server.queue.finish(await server.queue.claim(), said("one"), effort=effort)
    return task


def test_a_task_in_line_is_told_its_place_and_what_is_before_it(with_server):
    async def body(server):
        last = await server.submit(priority=0)
        for _ in range(2):
            await server.submit(plan="PRO")
        await server.submit(priority=7)
        found = await explained(server, last)

        assert found["position"] == 4
        assert found["ahead"] == {"tasks": 3, "by_priority": {"7": 1, "5": 2}}
        assert found["summary"].startswith("4th in line; 1 task ahead of priority 7; 2 PRO tasks ahead")
        assert "ahead" in codes(found)
        assert "no_worker" in codes(found)  # there is none in these tests
        assert found["eta_seconds"] is None

    with_server(body)


def test_a_place_in_line_is_told_as_the_shares_of_tenants_will_have_it(with_server):
    async def body(server):
        await measured(server)
        first, second = [await server.submit(tenant="many") for _ in range(2)]
        other = await server.submit(tenant="few")
        found = {task["task_id"]: await explained(server, task) for task in (other, first, second)}

        listed = {task["task_id"]: task["position"] for task in (await server.get("/tasks")).json()["tasks"]}

        for task_id, one in found.items():
            assert (await server.task(task_id))["position"] == listed[task_id] == one["position"]
        assert sorted(one["position"] for one in found.values()) == [1, 2, 3]
        assert found[other["task_id"]]["position"] < found[second["task_id"]]["position"]
        assert found[second["task_id"]]["ahead"] == {"tasks": 2, "by_priority": {}}
        assert found[second["task_id"]]["summary"].startswith("3rd in line; ")

    with_server(body, workers=1, order="fifo")


def test_a_place_is_counted_where_the_last_forecast_is_too_old(with_server, clock, monkeypatch):
    monkeypatch.setattr(outlook, "REST", 1e9)

    async def body(server):
        await measured(server)
        for _ in range(2):
            await server.submit(tenant="many")
        other = await server.submit(tenant="few")
        foretold = (await server.task(other["task_id"]))["position"]
        clock.now += outlook.OLD + 1

        assert foretold < 3
        assert (await server.task(other["task_id"]))["position"] == 3
        assert (await explained(server, other))["position"] == 3

    with_server(body, workers=1, order="fifo", now=clock)


def test_a_file_is_estimated_without_another_play_while_the_last_one_rests(with_server, monkeypatch):
    monkeypatch.setattr(outlook, "REST", 1e9)

    async def body(server):
        await measured(server)
        await estimated(server, duration_seconds=10.0)
        for _ in range(3):
            await server.submit()
        soon, later = [await estimated(server, duration_seconds=10.0, priority=at) for at in (5, 0)]

        assert soon["eta_seconds"]["p50"] == pytest.approx(2.5, abs=0.3)
        assert 0 <= soon["starts_in_seconds"]["p50"] < later["starts_in_seconds"]["p50"]

    with_server(body, workers=1, order="fifo")


def test_a_tenant_at_its_limit_is_told_so(with_server):
    async def body(server):
        await server.submit()
        await server.queue.claim()
        found = await explained(server, await server.submit())

        assert found["tenant"] == {"running": 1, "limit": 1}
        assert "tenant at 1 of 1" in found["summary"]
        assert "tenant_limit" in codes(found)

    with_server(body, limits=lambda tenant, plan: Limits(concurrent=1))


def test_a_tenants_tasks_at_work_are_counted_once_so_that_number_and_reason_agree(with_server, monkeypatch):
    more = count(1)  # each time that somebody looks

    async def running(queue, tenant):
        return next(more)

    monkeypatch.setattr(SqliteQueue, "running", running)

    async def body(server):
        found = await explained(server, await server.submit())

        assert found["tenant"] == {"running": 1, "limit": 1}
        assert found["reasons"][-1]["message"].startswith("its tenant has 1 task at work")

    with_server(body, limits=lambda tenant, plan: Limits(concurrent=1))


def test_each_state_is_told_what_keeps_it_and_what_to_do(with_server):
    async def body(server):
        delayed = await server.submit(run_at="2100-01-01T00:00:00Z")
        assert codes(await explained(server, delayed))[-1] == "delayed"

        task = await server.submit()
        await server.queue.fail(await server.queue.claim(), BOOM)
        found = await explained(server, task)
        assert codes(found)[-1] == "retry"
        assert BOOM.message in found["summary"]

        ended = await server.submit()
        await server.queue.fail(await server.queue.claim(), BOOM, final=True)
        found = await explained(server, ended)
        assert codes(found) == ["worker_crashed"]
        assert f"or `whisperd retry {ended['task_id']}`, runs it again" in found["summary"]
        assert found["tenant"] is None

        done = await server.completed()
        assert f"or `whisperd result {done['task_id']}`, shows" in (await explained(server, done))["summary"]

        gone = await server.submit()
        await server.client.delete(f"/tasks/{gone['task_id']}")
        assert codes(await explained(server, gone)) == ["cancelled"]
        server.services.pool.pause()
        assert "paused" in codes(await explained(server, delayed))

    with_server(body, retry_delay_seconds=100.0)


def test_another_tenants_task_is_not_explained(with_server):
    async def body(server):
        own, other = Tenant(server, "a"), Tenant(server, "b")
        task = await own.submit()
        answer = await other.ask("GET", f"/tasks/{task['task_id']}/explain")

        assert the_error(answer)[:2] == (404, "not_found")

    with_server(body)


def test_an_end_is_foretold_with_a_likely_and_a_late_time(with_server):
    async def body(server):
        done = await measured(server)
        assert (await explained(server, done))["eta_seconds"] is None
        waits = await server.submit()
        eta = (await server.task(waits["task_id"]))["eta_seconds"]
        found = await explained(server, waits)

        assert eta == pytest.approx(found["eta_seconds"]["p50"], abs=0.5)
        assert 0 < found["eta_seconds"]["p50"] <= found["eta_seconds"]["p90"]
        assert found["starts_in_seconds"]["p50"] < found["eta_seconds"]["p50"]

    with_server(body, workers=1)


def test_a_file_is_estimated_before_it_is_sent(with_server):
    async def body(server):
        assert (await estimated(server, duration_seconds=10.0))["eta_seconds"] is None
        await measured(server)
        short = await estimated(server, duration_seconds=10.0)
        long = await estimated(server, duration_seconds=600.0)

        assert short["accepted"] is True
        assert short["audio_seconds"] == 10.0
        assert short["eta_seconds"]["p50"] == pytest.approx(2.5, abs=0.3)
        assert long["eta_seconds"]["p50"] > 10 * short["eta_seconds"]["p50"]
        assert (await server.client.get("/tasks")).json()["tasks"][1:] == []

    with_server(body, workers=1)


def test_an_estimate_says_what_would_be_refused(with_server):
    async def body(server):
        await server.submit()
        found = await estimated(server, duration_seconds=10.0)
        assert (found["accepted"], found["refusal"]["code"]) == (False, "queue_full")
        found = await estimated(server, size_bytes=2**52)
        assert found["refusal"]["code"] == "too_large"

    with_server(body, max_queued=1)


@pytest.mark.parametrize("asked", [{}, {"duration_seconds": 1, "size_bytes": 1}])
def test_an_estimate_needs_one_of_two_fields_and_names_both(with_idle_server, asked):
    async def body(server):
        answer = await server.client.post("/tasks/estimate", json=asked)

        assert the_error(answer) == (422, "invalid_field", "duration_seconds")
        assert "duration_seconds or size_bytes" in answer.text
        assert ("both" if asked else "neither") in answer.text

    with_idle_server(body)


@pytest.mark.parametrize(
    "asked", [{}, {"duration_seconds": -1}, {"duration_seconds": 1, "size_bytes": 1}, {"size_bytes": "big"}]
)
def test_an_estimate_of_nothing_is_refused(with_server, asked):
    async def body(server):
        answer = await server.client.post("/tasks/estimate", json=asked)
        assert answer.status_code == 422

    with_server(body)
