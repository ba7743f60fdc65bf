"""/metrics, read as Prometheus reads it."""

from typing import get_args

import pytest
import websockets.exceptions
from prometheus_client.parser import text_string_to_metric_families

from whisperd import __version__
from whisperd.arrival import Arrival
from whisperd.condition import Condition
from whisperd.config import with_values
from whisperd.counts import Refused
from whisperd.lag import Lag
from whisperd.task import Problem


async def scrape(server):
    """The samples: name and labels -> value."""
    answer = await server.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(answer.text))
    assert all(family.documentation for family in families)
    assert all(family.name.startswith("whisperd") for family in families)
    return {
        (sample.name.removeprefix("whisperd_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_daemon_with_nothing_to_do(with_idle_server):
    async def body(server):
        found = await scrape(server)

        assert found["info", __version__] == 1
        assert {state: found["tasks", state] for state in ("queued", "processing", "completed")} == {
            "queued": 0,
            "processing": 0,
            "completed": 0,
        }
        assert found["database_up",] == 1
        assert found["oldest_queued_seconds",] == found["paused",] == 0
        assert found["disk_free_bytes",] > 0
        assert found["recovered", "clean"] == 0
        assert ("backup_bytes",) not in found

    with_idle_server(body)


def test_tasks_and_workers_are_counted_by_their_state(with_server, clock):
    async def body(server):
        await server.completed()
        await server.submit()
        await server.queue.fail(await server.queue.claim(), Problem("no_audio", "no audio"), final=True)
        await server.submit(run_at="2100-01-01T00:00:00Z")
        await server.submit()
        server.services.pool.deaths["crashed"] += 2
        server.services.pool.pause()
        clock.now += 7
        found = await scrape(server)

        assert (found["tasks", "completed"], found["tasks", "failed"], found["tasks", "queued"]) == (1, 1, 2)
        assert found["oldest_queued_seconds",] == 7
        assert (found["queue_depth", "normal", "waiting"], found["queue_depth", "normal", "delayed"]) == (
            1,
            1,
        )
        assert (found["workers", "starting"], found["workers", "idle"]) == (2, 0)
        assert found["worker_restarts_total", "crashed"] == 2
        assert found["paused",] == 1

    with_server(body, now=clock, workers=2)


def test_webhooks_that_wait_and_those_that_were_given_up_are_counted(with_server):
    async def body(server):
        await server.outbox.point(["https://gone.example/", "https://slow.example/"])
        await server.completed()
        await server.outbox.disable("https://gone.example/")
        found = await scrape(server)

        assert (found["webhooks", "waiting"], found["webhooks", "dead"]) == (1, 1)

    with_server(body)


def test_the_age_and_the_size_of_the_last_backup(with_server, clock):
    async def body(server):
        backup = await server.services.back_up()
        server.services.backup_results.update(ok=3, failed=1)
        clock.now += 60
        found = await scrape(server)

        assert (found["backup_age_seconds",], found["backup_bytes",]) == (60, backup.bytes)
        assert (found["backups_total", "ok"], found["backups_total", "failed"]) == (3, 1)
        clock.now -= 3600
        assert (await scrape(server))["backup_age_seconds",] == 0  # a clock that was set back

    with_server(body, now=clock)


def test_a_recovery_is_a_number_that_can_raise_an_alarm(with_server):
    async def body(server):
        server.services.arrival = Arrival(Condition.TORN, "restored", 0.0, recovered=True)

        assert (await scrape(server))["recovered", "torn"] == 1

    with_server(body)


def test_a_daemon_whose_database_failed_still_has_metrics(with_server):
    async def body(server):
        server.db._broken = "the database reported: disk I/O error"
        found = await scrape(server)

        assert found["database_up",] == 0
        assert ("tasks", "queued") not in found
        assert found["disk_free_bytes",] > 0

    with_server(body)


def test_a_database_that_does_not_answer_is_not_up(with_server):
    async def body(server):
        await server.submit()
        server.services.pulse_trouble = lambda: "another program holds the database"
        found = await scrape(server)

        assert found["database_up",] == 0
        assert found["tasks", "queued"] == 1  # reading goes on

    with_server(body)


def test_the_line_is_counted_by_three_classes_of_priority(with_server):
    async def body(server):
        for priority in (-100, -1, 0, 4, 5, 100):
            await server.submit(priority=priority)
        await server.plan()
        found = await scrape(server)

        assert [found["queue_depth", name, "waiting"] for name in ("low", "normal", "high")] == [2, 2, 1]
        assert [found["queue_depth", name, "processing"] for name in ("low", "normal", "high")] == [0, 0, 1]

    with_server(body)


def test_no_more_tenants_are_named_than_the_operator_asks_for(with_server):
    async def body(server):
        for tenant, tasks in (("acme", 3), ("beta", 2), ("gamma", 1), ("delta", 1)):
            for _ in range(tasks):
                await server.submit(tenant=tenant)
        before = await scrape(server)
        server.services.config = with_values(server.config, {"metrics.tenants": 2})
        found = await scrape(server)

        assert not [name for name, *_ in before if name == "tenant_depth"]
        named = {labels[0]: value for (name, *labels), value in found.items() if name == "tenant_depth"}
        assert named == {"acme": 3, "beta": 2, "": 2}

    with_server(body)


def test_a_task_is_counted_from_its_start_to_its_end(with_server, clock):
    async def body(server):
        await server.submit(priority=10)
        clock.now += 4
        await server.plan(2)
        await server.finish("Ask")
        clock.now += 20
        await server.finish("not.")
        failed = await server.submit()
        await server.queue.fail(await server.queue.claim(), Problem("worker_crashed", "boom"))
        await server.client.delete(f"/tasks/{failed['task_id']}")
        found = await scrape(server)

        assert (found["task_wait_seconds_count", "high"], found["task_wait_seconds_sum", "high"]) == (1, 4)
        assert found["task_wait_seconds_count", "normal"] == 1
        assert (found["task_processing_seconds_count",], found["task_processing_seconds_sum",]) == (1, 20)
        ended = {state: found["tasks_ended_total", state] for state in ("completed", "failed", "cancelled")}
        assert ended == {"completed": 1, "failed": 0, "cancelled": 1}
        assert found["retries_total",] == 1
        assert found["database_commit_seconds_count",] > 5

    with_server(body, now=clock)


def test_a_request_is_counted_by_its_route_and_not_by_its_path(with_server):
    async def body(server):
        task = await server.submit()
        for path in (f"/tasks/{task['task_id']}", "/tasks/other", "/nowhere/at/all"):
            await server.get(path)
        await server.client.request("BREW", "/stats")
        found = await scrape(server)

        assert found["http_requests_total", "POST", "/tasks/transcription", "2xx"] == 1
        assert found["http_requests_total", "GET", "/tasks/{task_id}", "2xx"] == 1
        assert found["http_requests_total", "GET", "/tasks/{task_id}", "4xx"] == 1
        assert found["http_requests_total", "GET", "other", "4xx"] == 1
        assert found["http_requests_total", "other", "/stats", "4xx"] == 1
        assert found["http_answer_seconds_count", "/tasks/{task_id}"] == 2

    with_server(body)


def test_who_is_turned_away_at_the_door_is_counted_and_so_are_websockets(with_server):
    async def body(server):
        before = await scrape(server)
        assert {before["http_refusals_total", why] for why in get_args(Refused)} == {0}
        await server.client.get("/stats", headers={"Host": "elsewhere.example"})
        async with server.websocket():
            pass
        with pytest.raises(websockets.exceptions.InvalidStatus):
            async with server.websocket(origin="https://elsewhere.example"):
                pass
        found = await scrape(server)

        assert found["http_refusals_total", "guard"] == 2
        assert (found["websockets_total", "opened"], found["websockets_total", "refused"]) == (1, 1)

    with_server(body)


def test_an_error_of_ours_is_counted_as_one(with_server, nothing_broke, caplog):
    async def body(server):
        async def break_it():
            raise RuntimeError("a bug")

        server.services.sweep = break_it
        answer = await server.client.post("/admin/cleanup-stuck-tasks")
        found = await scrape(server)

        assert answer.status_code == 500
        assert found["http_requests_total", "POST", "/admin/cleanup-stuck-tasks", "5xx"] == 1

    with_server(body)
    nothing_broke.clear()
    caplog.clear()


def test_the_worst_lag_of_the_loop_is_told_for_a_minute(clock):
    lag = Lag(now=clock)
    for seconds in (0.1, 2.0, 0.3):
        lag.note(seconds)
        clock.now += 25

    assert lag.worst() == 2.0
    clock.now += 15
    assert lag.worst() == 0.3
    clock.now += 60
    assert lag.worst() == 0.0


def test_what_the_spool_holds_is_weighed_once_a_minute(with_server):
    async def body(server):
        task = await server.submit()
        held = (await scrape(server))["spool_bytes",]
        (server.folder / f"{task['task_id']}.parts").mkdir()
        (server.folder / f"{task['task_id']}.parts" / "1").write_bytes(bytes(1000))

        assert (await scrape(server))["spool_bytes",] == held
        assert server.spool.used_bytes(0) == held + 1000

    with_server(body)


def test_metrics_name_no_task_tenant_or_file(with_server):
    async def body(server):
        task = await server.completed(tenant="acme", name="secret talk.wav")
        shown = (await server.get("/metrics")).text

        for secret in (task["task_id"], "acme", "secret talk", str(server.folder)):
            assert secret not in shown

    with_server(body)
