"""/api/v1: what the clients of the older WhisperAPI send, and what they are answered."""

import re

import pytest

from tests.http_server import NOTHING, SOUND
from whisperd.task import Problem

BOOM = Problem("worker_crashed", "child 7 was killed by signal 11")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def transcribed(server, **fields):
    answer = await server.client.post(
        "/api/v1/transcribe", files={"file": ("a.wav", SOUND, "audio/wav")}, data=fields
    )
    return answer.status_code, answer.json()


async def looked(server, one):
    return the_data(await server.get(f"/api/v1/status/{one}"))


def the_data(answer):
    assert (answer.status_code, answer.json().keys()) == (200, {"success", "data"}), answer.text
    assert answer.json()["success"] is True
    return answer.json()["data"]


def the_refusal(answer):
    shown = answer.json()
    assert (shown.keys(), shown["error"].keys()) == ({"success", "error"}, {"code", "message"}), answer.text
    assert shown["success"] is False
    assert shown["error"]["message"]
    return answer.status_code, shown["error"]["code"]


def test_a_transcription_goes_its_way_in_the_words_of_the_older_api(with_server):
    async def body(server):
        status, accepted = await transcribed(server, language="en", priority="3")
        one = accepted["data"]["transcriptionId"]
        queued = accepted["data"]
        await server.plan(2)
        await server.finish("Ask not.")
        half = await looked(server, one)
        await server.finish("What.")
        done = await looked(server, one)

        assert (status, accepted["success"]) == (202, True)
        assert TIME.fullmatch(queued.pop("createdAt"))
        assert queued == {
            "transcriptionId": one,
            "jobId": one,
            "status": "QUEUED",
            "progress": 0,
            "jobStatus": "waiting",
            "completedAt": None,
            "cancelled": False,
        }
        assert (half["status"], half["progress"], half["jobStatus"]) == ("PROCESSING", 50, "active")
        assert "result" not in half
        assert (done["status"], done["progress"], done["jobStatus"]) == ("COMPLETED", 100, "completed")
        assert TIME.fullmatch(done["completedAt"])
        assert done["result"] == {
            "text": "Ask not. What.",
            "language": "en",
            "duration": 20.0,
            "segments": [
                {"start": 0.0, "end": 1.0, "text": "Ask not."},
                {"start": 10.0, "end": 11.0, "text": "What."},
            ],
        }
        task = await server.queue.get(one)
        assert (task.options.language, task.priority) == ("en", 3)

    with_server(body)


def test_progress_is_100_only_when_all_is_done(with_server):
    async def body(server):
        one = (await transcribed(server))[1]["data"]["transcriptionId"]
        await server.plan(200)
        for _ in range(199):
            await server.finish()

        assert (await looked(server, one))["progress"] == 99

    with_server(body)


def test_a_transcription_that_is_to_run_later_is_delayed(with_server):
    async def body(server):
        _, accepted = await transcribed(server, run_at="2100-01-01T00:00:00Z")

        assert (accepted["data"]["status"], accepted["data"]["jobStatus"]) == ("QUEUED", "delayed")

    with_server(body)


def test_what_failed_says_why(with_server):
    async def body(server):
        one = (await transcribed(server))[1]["data"]["transcriptionId"]
        await server.queue.fail(await server.queue.claim(), BOOM, final=True)
        failed = await looked(server, one)

        assert (failed["status"], failed["jobStatus"], failed["cancelled"]) == ("FAILED", "failed", False)
        assert failed["error"] == {"code": BOOM.code, "message": BOOM.message}

    with_server(body)


def test_a_cancelled_transcription_says_so_and_cannot_be_cancelled_again(with_server):
    async def body(server):
        one = (await transcribed(server))[1]["data"]["transcriptionId"]
        cancelled = the_data(await server.client.delete(f"/api/v1/transcribe/{one}"))
        again = await server.client.delete(f"/api/v1/transcribe/{one}")

        assert (cancelled["status"], cancelled["cancelled"]) == ("CANCELLED", True)
        assert "error" not in cancelled
        assert (await looked(server, one))["cancelled"] is True
        assert the_refusal(again) == (409, "WRONG_STATE")

    with_server(body)


def test_the_same_idempotency_key_answers_the_first_transcription(with_server):
    async def body(server):
        files, headers = {"file": ("a.wav", SOUND, "audio/wav")}, {"Idempotency-Key": "k"}
        first, again = [
            await server.client.post("/api/v1/transcribe", files=files, headers=headers) for _ in range(2)
        ]

        assert (first.status_code, again.status_code) == (202, 200)
        assert first.json() == again.json()

    with_server(body)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/v1/status/nosuch"), ("DELETE", "/api/v1/transcribe/nosuch")]
)
def test_an_unknown_transcription_is_not_found_by_its_own_code(with_idle_server, method, path):
    async def body(server):
        answer = await server.client.request(method, path)

        assert the_refusal(answer) == (404, "TRANSCRIPTION_NOT_FOUND")

    with_idle_server(body)


@pytest.mark.parametrize(
    ("method", "path", "refusal"),
    [
        ("GET", "/api/v1/nosuch", (404, "NOT_FOUND")),
        ("GET", "/api/v1/", (404, "NOT_FOUND")),
        ("GET", "/api/v1/transcribe", (405, "METHOD_NOT_ALLOWED")),
        ("POST", "/api/v1/transcribe", (415, "UNSUPPORTED_CONTENT_TYPE")),
    ],
)
def test_whatever_goes_wrong_below_its_path_comes_in_its_envelope(with_idle_server, method, path, refusal):
    async def body(server):
        assert the_refusal(await server.client.request(method, path)) == refusal

    with_idle_server(body)


def test_a_wrong_option_is_refused_and_leaves_nothing(with_idle_server):
    async def body(server):
        files = {"file": ("a.wav", SOUND, "audio/wav")}
        answer = await server.client.post("/api/v1/transcribe", files=files, data={"beam_size": "99"})

        assert the_refusal(answer) == (422, "INVALID_FIELD")
        assert await server.left() == NOTHING

    with_idle_server(body)


def test_a_stranger_is_refused_in_the_envelope_too(with_idle_server):
    async def body(server):
        answer = await server.ask("/api/v1/status/x", client=("192.0.2.1", 5))

        assert the_refusal(answer) == (403, "FORBIDDEN")

    with_idle_server(body)


def test_a_daemon_that_stops_says_so_in_the_envelope(with_server):
    async def body(server):
        server.services.draining = True
        status, refused = await transcribed(server)

        assert (status, refused["error"]["code"]) == (503, "SHUTTING_DOWN")

    with_server(body)
