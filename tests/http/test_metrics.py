"""/metrics, read as Prometheus reads it."""

from prometheus_client.parser import text_string_to_metric_families

from whisperd import __version__
from whisperd.arrival import Arrival
from whisperd.condition import Condition
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
        assert (found["tasks_delayed",], found["oldest_queued_seconds",]) == (1, 7)
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


def test_metrics_name_no_task_tenant_or_file(with_server):
    async def body(server):
        task = await server.completed(tenant="acme", name="secret talk.wav")
        shown = (await server.get("/metrics")).text

        for secret in (task["task_id"], "acme", "secret talk", str(server.folder)):
            assert secret not in shown

    with_server(body)
