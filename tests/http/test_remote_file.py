"""`audio_url`: the daemon fetches the audio itself. 127.0.0.1 is the internet here, 127.0.0.2 the inside."""

import asyncio
import contextlib
import logging

import pytest

from tests.http_server import NOTHING, SOUND, SUBMIT, a_field, refused, the_file, until
from tests.outside import Outside, an_answer, to

SECRET = "X-Amz-Signature=0123456789abcdef"


@pytest.fixture
def with_outside(with_server):
    """Run a test body against a server, with an outside that serves sound by default."""

    def run(body, **settings):
        async def main(server):
            async with Outside().serving() as outside:
                outside.url = f"http://example.org:{outside.port}"
                outside.answers["/a.wav"] = an_answer(SOUND)
                await body(server, outside)

        with_server(main, **settings)

    return run


async def by_json(server, url, **fields):
    headers = fields.pop("headers", None)
    return await server.client.post(SUBMIT, json={"audio_url": url, **fields}, headers=headers)


async def by_form(server, url, **fields):
    return await server.post_form(a_field("audio_url", url), *(a_field(*field) for field in fields.items()))


@pytest.mark.parametrize("submit", [by_json, by_form])
def test_the_audio_at_a_url_is_queued_under_the_last_part_of_its_path(with_outside, submit):
    async def body(server, outside):
        outside.answers["/x/na%C3%AFve%20talk.wav"] = an_answer(SOUND)

        answer = await submit(server, f"{outside.url}/x/na%C3%AFve%20talk.wav?{SECRET}#part", model="tiny")

        assert answer.status_code == 202, answer.text
        task = answer.json()
        assert (task["audio"]["name"], task["audio"]["size"]) == ("naïve talk.wav", len(SOUND))
        assert task["model"] == "tiny"
        assert (await server.get(f"/tasks/{task['task_id']}/audio")).content == SOUND

    with_outside(body)


@pytest.mark.parametrize("path", ["", "/", "/x/", "/?a=/b.wav", "/..%2f..%2f"])
def test_a_url_without_a_name_makes_an_audio_without_one(with_outside, path):
    async def body(server, outside):
        outside.answers["/"] = outside.answers["/x/"] = outside.answers["/..%2f..%2f"] = an_answer(SOUND)

        answer = await by_json(server, outside.url + path)

        assert answer.json()["audio"]["name"] == "audio"

    with_outside(body)


def test_the_same_audio_with_the_same_key_is_the_same_task_whatever_its_url(with_outside):
    async def body(server, outside):
        outside.answers["/b.wav"] = an_answer(SOUND)
        first = await by_json(server, f"{outside.url}/a.wav?one", headers={"Idempotency-Key": "k"})
        again = await by_json(server, f"{outside.url}/b.wav?two", headers={"Idempotency-Key": "k"})

        assert (first.status_code, again.status_code) == (202, 200)
        assert first.json()["task_id"] == again.json()["task_id"]

    with_outside(body)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.2/a.wav", "http://inside.example/a.wav", "http://169.254.169.254/latest/meta-data"),
        *("http://[::1]/", "http://2130706434/", "http://0x7f.2/", "http://localhost:8002/stats"),
        *(
            "file:///etc/passwd",
            "ftp://example.org/a.wav",
            "/etc/passwd",
            "http://user:word@example.org/",
            "",
        ),
    ],
)
def test_what_may_not_be_called_is_refused(with_outside, url):
    async def body(server, outside):
        async with Outside().serving("127.0.0.2") as inside:
            answer = await by_json(server, url.replace("127.0.0.2", f"127.0.0.2:{inside.port}"))

            code = (
                "url_refused" if not url.startswith("http://localhost") else "download_failed"
            )  # no such name
            await refused(server, answer, 422, code, "audio_url")
            assert inside.connections == outside.connections == 0

    with_outside(body)


def test_a_redirect_to_the_inside_is_refused(with_outside):
    async def body(server, outside):
        async with Outside().serving("127.0.0.2") as inside:
            outside.answers["/"] = to(f"http://inside.example:{inside.port}/a.wav")

            await refused(server, await by_json(server, outside.url), 422, "url_refused", "audio_url")
            assert inside.connections == 0

    with_outside(body)


@pytest.mark.parametrize("submit", [by_json, by_form])
@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (an_answer(b"", "404 Not Found"), 422, "download_failed"),
        (an_answer(b"", "403 Forbidden"), 422, "download_failed"),
        (an_answer(SOUND, Content_Encoding="gzip"), 422, "download_failed"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + SOUND], 422, "download_failed"),
        (b"no HTTP", 422, "download_failed"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n", None], 413, "too_large"),
        ([b"HTTP/1.1 200 OK\r\n\r\n", *[bytes(65_536)] * 17, None], 413, "too_large"),
        (an_answer(b"<!doctype html><title>Please log in</title>"), 415, "unsupported_media"),
        (an_answer(b""), 415, "unsupported_media"),
    ],
)
def test_what_goes_wrong_is_told_at_once_and_leaves_nothing(with_outside, submit, answer, status, code):
    async def body(server, outside):
        outside.answers["/a.wav"] = answer

        await refused(server, await submit(server, f"{outside.url}/a.wav"), status, code, "audio_url")

    with_outside(body, http={"max_upload_bytes": 2**20})


def test_a_file_of_just_the_allowed_size_is_taken(with_outside):
    async def body(server, outside):
        outside.answers["/a.wav"] = an_answer(SOUND + bytes(2**20 - len(SOUND)))

        assert (await by_json(server, f"{outside.url}/a.wav")).status_code == 202

    with_outside(body, http={"max_upload_bytes": 2**20})


def test_a_file_that_does_not_come_in_time_is_given_up(with_outside):
    async def body(server, outside):
        outside.answers["/a.wav"] = [an_answer(SOUND)[:-1], None]

        answer = await by_json(server, f"{outside.url}/a.wav")

        await refused(server, answer, 422, "download_failed", "audio_url")
        assert "longer than 0.2 seconds" in answer.json()["error"]["message"]

    with_outside(body, outbound={"download_seconds": 0.2})


@pytest.mark.parametrize(
    ("fetching", "status", "code"),
    [(["default"] * 8, 429, "concurrency_limit"), (list("aaaaaaaabbbbccde"), 503, "too_many_downloads")],
)
def test_a_file_whose_turn_does_not_come_is_to_be_asked_for_again(with_outside, fetching, status, code):
    async def body(server, outside):
        async with contextlib.AsyncExitStack() as others:
            for tenant in fetching:
                await others.enter_async_context(server.services.sources._turns.hold(tenant, 0))
            answer = await by_json(server, f"{outside.url}/a.wav")

        await refused(server, answer, status, code, "audio_url")
        assert 1 <= int(answer.headers["retry-after"]) <= 120
        assert outside.connections == 0

    with_outside(body, outbound={"download_seconds": 0.2})


def test_a_file_that_does_not_fit_on_the_disk_is_refused(with_outside):
    async def body(server, outside):
        await refused(server, await by_json(server, f"{outside.url}/a.wav"), 507, "storage_full")

    with_outside(body, storage={"min_free_mb": 2**30})


@pytest.mark.parametrize("other", [{"audio_path": "a.wav"}, {"model": "nonsense"}, {"priority": 1000}])
def test_a_request_that_is_wrong_otherwise_is_refused(with_outside, other):
    async def body(server, outside):
        answer = await by_json(server, f"{outside.url}/a.wav", **other)

        (name,) = other
        param = {"audio_path": "audio_url"}.get(name, name)
        code = "model_not_found" if name == "model" else "invalid_field"
        await refused(server, answer, 422, code, param)
        assert outside.connections == (name == "model")

    with_outside(body)


def test_a_form_has_a_file_or_a_url(with_outside):
    async def body(server, outside):
        both = await server.post_form(a_field("audio_url", f"{outside.url}/a.wav"), the_file())
        await refused(server, both, 422, "invalid_field", "audio_url")
        await refused(server, await by_form(server, ""), 422, "missing_field", "file")

        empty = await server.post_form(a_field("audio_url", ""), the_file())  # an input of a page left empty
        assert empty.status_code == 202
        assert outside.connections == 0

    with_outside(body)


def test_nothing_of_a_url_is_kept_or_logged(with_outside, caplog, tmp_path, nothing_broke):
    caplog.set_level(logging.DEBUG)

    async def body(server, outside):
        outside.answers["/gone"] = an_answer(b"", "404 Not Found")
        outside.answers["/inside"] = to(f"http://inside.example/?{SECRET}")
        said = ""
        for path in ("/a.wav", "/gone", "/inside", "/b.wav"):
            said += (await by_json(server, f"{outside.url}{path}?{SECRET}")).text
        said += (await by_json(server, f"ftp://example.org/?{SECRET}")).text

        assert SECRET not in said
        for name in ("q.db", "q.db-wal"):
            with contextlib.suppress(FileNotFoundError):
                assert SECRET.encode() not in (tmp_path / name).read_bytes()

    with_outside(body)
    kept = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert SECRET not in "".join(record.getMessage() for record in kept)
    assert SECRET not in str(nothing_broke)


async def by_whisper_api(server, url):
    return await server.client.post("/api/v1/transcribe", json={"audio_url": url})


@pytest.mark.parametrize("submit", [by_json, by_form, by_whisper_api])
def test_a_client_that_leaves_in_mid_fetch_leaves_no_file_and_no_task(with_outside, submit):
    """Its task was queued once all was fetched."""

    async def body(server, outside):
        outside.answers["/a.wav"] = [an_answer(SOUND)[:-1], None]  # it ends when the daemon hangs up
        asking = asyncio.create_task(submit(server, f"{outside.url}/a.wav"))
        await until(lambda: server.receives and outside.asked)
        asking.cancel()
        await asyncio.wait([asking])

        await until(lambda: not server.receives)
        assert await server.left() == NOTHING

    with_outside(body)
