"""/stats, /workers."""

import pytest

from tests.http_server import Server, the_error
from whisperd.task import Problem
from whisperd.worker_pool import WorkerInfo


def test_statistics_of_nothing(with_idle_server):
    async def body(server):
        assert (await server.get("/stats")).json() == {
            "total": 0,
            "queued": 0,
            "processing": 0,
            "completed": 0,
            "failed": 0,
            "cancelled": 0,
            "delayed": 0,
            "success_rate": None,
            "throughput": {"tasks_per_minute": 0, "audio_seconds_per_second": 0},
            "wait_seconds": {"p50": None, "p95": None},
            "workers": [],
            "oldest_queued_seconds": None,
            "paused": False,
            "depth": {
                "by_priority": [],
                "by_tenant": [],
                "others": {"tenants": 0, "queued": 0, "processing": 0},
            },
        }

    with_idle_server(body)


def test_statistics_count_tasks_by_their_state(with_server, clock):
    async def body(server: Server):
        await server.completed()
        await server.completed()
        await server.submit()
        clock.now += 30
        await server.queue.fail(await server.queue.claim(), Problem("no_audio", "no audio"), final=True)
        await server.queue.cancel((await server.submit())["task_id"])
        await server.submit()
        await server.plan(2)
        await server.submit()
        await server.submit(run_at="2100-01-01T00:00:00Z")
        clock.now += 5
        stats = (await server.get("/stats")).json()

        counted = {name: stats[name] for name in ("completed", "failed", "cancelled", "processing", "queued")}
        assert counted == {"completed": 2, "failed": 1, "cancelled": 1, "processing": 1, "queued": 2}
        assert (stats["total"], stats["delayed"], stats["success_rate"]) == (7, 1, 0.6667)
        assert stats["oldest_queued_seconds"] == 5.0
        assert stats["throughput"] == {"tasks_per_minute": 2, "audio_seconds_per_second": 0.333}
        assert stats["wait_seconds"] == {"p50": 0.0, "p95": 30.0}

        clock.now += 60
        assert (await server.get("/stats")).json()["throughput"]["tasks_per_minute"] == 0

    with_server(body, now=clock)


def test_each_worker_is_listed(with_server):
    async def body(server):
        workers = (await server.get("/workers")).json()["workers"]

        assert [(worker["id"], worker["state"], worker["task_id"]) for worker in workers] == [
            (1, "starting", None),
            (2, "starting", None),
        ]
        assert set(workers[0]) == set(WorkerInfo.__struct_fields__)
        assert (await server.get("/stats")).json()["workers"] == workers

    with_server(body, workers=2)


@pytest.mark.parametrize("path", ["/workers", "/stats"])
def test_a_bug_of_ours_tells_the_outside_nothing(with_server, nothing_broke, caplog, path):
    async def body(server):
        server.services.pool = None
        answer = await server.get(path)

        assert the_error(answer) == (500, "internal_error", None)
        assert [entry["event"] for entry in nothing_broke] == ["request", "a request broke"]
        assert (await server.get("/health/live")).status_code == 200

    with_server(body)
    nothing_broke.clear()  # that was meant
    caplog.clear()


def test_the_depth_is_told_by_priority_and_by_tenant(with_server):
    async def body(server):
        for tenant, priority in [("b", 1), ("a", 1), ("a", 5), ("c", -3)]:
            await server.submit(tenant=tenant, priority=priority)
        await server.submit(tenant="a", priority=5, run_at="2999-01-01T00:00:00Z")
        await server.plan(1)
        depth = (await server.get("/stats")).json()["depth"]

        assert depth["by_priority"] == [
            {"priority": 5, "queued": 1},
            {"priority": 1, "queued": 2},
            {"priority": -3, "queued": 1},
        ]
        assert depth["by_tenant"] == [
            {"tenant": "a", "queued": 2, "processing": 1},
            {"tenant": "b", "queued": 1, "processing": 0},
            {"tenant": "c", "queued": 1, "processing": 0},
        ]
        assert depth["others"] == {"tenants": 0, "queued": 0, "processing": 0}

    with_server(body)


def test_beyond_twenty_tenants_the_others_are_told_together(with_server):
    async def body(server):
        for n in range(22):
            await server.submit(tenant=f"t{n:02}")
        await server.submit(tenant="t21")
        depth = (await server.get("/stats")).json()["depth"]

        assert [one["tenant"] for one in depth["by_tenant"]] == ["t21", *(f"t{n:02}" for n in range(19))]
        assert depth["others"] == {"tenants": 2, "queued": 2, "processing": 0}

    with_server(body)


def test_the_history_is_told_in_points(with_server):
    async def body(server):
        assert (await server.get("/stats/history")).json() == {"step_seconds": 360, "points": []}
        await server.submit()
        await server.services.minutes.record(
            {"busy": 1.0, "rss_bytes": 1, "gpu_bytes": None, "free_bytes": 2}
        )
        told = (await server.get("/stats/history", hours=1, points=60)).json()

        assert told["step_seconds"] == 60
        (point,) = told["points"]
        assert (point["queued"], point["done"], point["busy"], point["gpu_bytes"]) == (1, 0, 1, None)
        assert point["at"].endswith("Z")

    with_server(body)


@pytest.mark.parametrize("query", ["hours=0", "hours=169", "hours=nan", "points=0", "points=2001"])
def test_a_history_that_there_is_not_is_refused(with_idle_server, query):
    async def body(server):
        answer = await server.client.get(f"/stats/history?{query}")
        assert the_error(answer)[:2] == (422, "invalid_field")

    with_idle_server(body)
