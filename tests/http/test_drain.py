"""/admin/drain, where a host has a queue of its own: it finishes what it has, and accepts nothing."""

import pytest

from tests.http_server import the_error


async def drained(server):
    return (await server.get("/admin/drain")).json()["drained"]


async def ready(server):
    return (await server.get("/health/ready")).status_code


def test_a_host_is_drained_once_all_that_it_had_is_done(with_server):
    async def body(server):
        await server.submit()
        began = (await server.client.post("/admin/drain")).json()
        assert began == {
            "draining": True,
            "drained": False,
            "paused": False,
            "queued": 1,
            "processing": 0,
            "held": 0,
            "seconds_left": None,
        }

        await server.plan(1)
        assert not await drained(server)
        await server.finish("Ask not.")

        assert await drained(server)

    with_server(body)


def test_what_is_left_on_a_paused_host_is_said_to_wait_for_somebody(with_server):
    async def body(server):
        async def paused():
            return (await server.get("/admin/drain")).json()["paused"]

        await server.client.post("/admin/pause")
        await server.client.post("/admin/drain")
        assert (await drained(server), await paused()) == (True, False)
        await server.client.post("/admin/undrain")
        await server.submit()

        await server.client.post("/admin/drain")
        assert (await drained(server), await paused()) == (False, True)

        await server.client.post("/admin/resume")
        assert (await drained(server), await paused()) == (False, False)

    with_server(body)


@pytest.mark.parametrize("path", ["/tasks/transcription", "/v1/audio/transcriptions", "/asr"])
def test_a_drained_host_refuses_what_is_new_wherever_it_comes(with_server, path):
    async def body(server):
        await server.client.post("/admin/drain")

        answer = await server.client.post(path, files={"file": ("a.wav", b"RIFF")})

        assert answer.status_code == 503
        assert "emptied" in answer.text
        assert int(answer.headers["retry-after"]) > 0
        assert (await server.left())["task"] == 0

    with_server(body)


def test_an_estimate_says_that_a_drained_host_would_refuse(with_server):
    async def body(server):
        await server.client.post("/admin/drain")

        answer = await server.client.post("/tasks/estimate", json={"duration_seconds": 10})

        assert answer.json()["refusal"]["code"] == "draining"

    with_server(body)


def test_a_drained_host_is_not_ready_and_says_how_that_is_ended(with_server):
    async def body(server):
        server.services.pool.ready.set()
        assert await ready(server) == 200
        await server.client.post("/admin/drain")

        assert await ready(server) == 503
        checks = (await server.get("/health")).json()["checks"]
        assert "whisperd drain --off" in checks["workers"]["message"]

        assert (await server.client.post("/admin/undrain")).json()["draining"] is False
        assert await ready(server) == 200
        assert (await server.post()).status_code == 202

    with_server(body)


def test_what_is_to_run_later_does_not_keep_a_host_from_being_drained(with_server):
    async def body(server):
        await server.submit(run_at="2099-01-01T00:00:00Z")
        await server.client.post("/admin/drain")

        assert await drained(server)

    with_server(body)


@pytest.mark.parametrize("seconds", ["-1", "nan", "soon", "1e99"])
def test_a_time_that_is_none_is_refused_and_drains_nothing(with_idle_server, seconds):
    async def body(server):
        answer = await server.client.post("/admin/drain", params={"timeout_seconds": seconds})

        assert the_error(answer) == (422, "invalid_field", "timeout_seconds")
        assert (await server.get("/admin/drain")).json()["draining"] is False

    with_idle_server(body)
