"""`s3://` as `audio_url` and as `result_url`: what is fetched, what is refused. Against a real server."""

import pytest

from tests.http_server import SOUND, SUBMIT, a_field, refused
from tests.s3_server import KEY, SECRET, a_free_port, client, serving
from whisperd import links
from whisperd.config import Config, Redis

ODD = "x/%2e%2e/naïve talk+1?a=b#c&d.wav"


@pytest.fixture(scope="module")
def port():
    with serving(bucket="media") as port:
        client(port).create_bucket(Bucket="private")
        for bucket in ("media", "private"):
            for name in ("a.wav", ODD):
                client(port).put_object(Bucket=bucket, Key=name, Body=SOUND)
        client(port).put_object(Bucket="media", Key="page.html", Body=b"<!DOCTYPE html><html></html>")
        client(port).put_object(Bucket="media", Key="large.wav", Body=SOUND * 600)
        yield port


def settings(port, **fields):
    keys = {"access_key_id": KEY, "secret_access_key": SECRET, "buckets": ("media", "gone")}
    return {"endpoint": f"http://127.0.0.1:{port}", **keys, **fields}


async def by_json(server, url):
    return await server.client.post(SUBMIT, json={"audio_url": url})


async def by_form(server, url):
    return await server.post_form(a_field("audio_url", url))


@pytest.mark.parametrize("submit", [by_json, by_form])
@pytest.mark.parametrize(("key", "name"), [("a.wav", "a.wav"), (ODD, "naïve talk+1?a=b#c&d.wav")])
def test_the_audio_of_an_object_is_queued_its_key_taken_as_it_is_written(
    with_server, port, submit, key, name
):
    async def body(server):
        answer = await submit(server, f"s3://media/{key}")

        assert answer.status_code == 202, answer.text
        task = answer.json()
        assert (task["audio"]["name"], task["audio"]["size"]) == (name, len(SOUND))
        assert (await server.get(f"/tasks/{task['task_id']}/audio")).content == SOUND

    with_server(body, s3=settings(port))


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("s3://private/a.wav", 422, "url_refused"),
        ("s3://media@private/a.wav", 422, "url_refused"),
        ("s3://MEDIA/a.wav", 422, "url_refused"),
        ("s3:///a.wav", 422, "url_refused"),
        ("s3://media", 422, "url_refused"),
        ("s3://media/", 422, "url_refused"),
        ("s3://media/../private/a.wav", 422, "url_refused"),
        ("s3://media/x/../../private/a.wav", 422, "url_refused"),
        ("s3://media/./a.wav", 422, "url_refused"),
        ("s3://media//a.wav", 422, "url_refused"),
        ("s3://media/a.wav/", 422, "url_refused"),
        ("s3://media/a\x00.wav", 422, "url_refused"),
        ("s3://media/a\r\nHost: x", 422, "url_refused"),
        ("s3://media/" + "ä" * 513, 422, "url_refused"),
        ("s3://media/none.wav", 422, "download_failed"),
        ("s3://gone/a.wav", 422, "download_failed"),
        ("s3://media/large.wav", 413, "too_large"),
        ("s3://media/page.html", 415, "unsupported_media"),
    ],
)
def test_an_object_that_may_or_can_not_be_had_is_refused_and_nothing_is_kept(
    with_server, port, url, status, code
):
    async def body(server):
        await refused(server, await by_json(server, url), status, code, "audio_url")

    with_server(body, s3=settings(port))


def test_without_buckets_there_is_no_s3(with_idle_server):
    async def body(server):
        await refused(server, await by_json(server, "s3://media/a.wav"), 422, "url_refused", "audio_url")
        answer = await server.post(result_url="s3://media/a.json")
        await refused(server, answer, 422, "invalid_field", "result_url")

    with_idle_server(body)


def test_what_is_not_there_is_said_to_be_so(with_server, port):
    async def body(server):
        answer = await by_json(server, "s3://media/none.wav")
        assert answer.json()["error"]["message"].endswith("there is no such object in the bucket media")

    with_server(body, s3=settings(port))


def test_no_trouble_tells_the_keys_or_the_endpoint(with_server, nothing_broke):
    async def body(server):
        answer = await by_json(server, "s3://media/a.wav?secret")

        await refused(server, answer, 422, "download_failed", "audio_url")
        for secret in (KEY, SECRET, str(server.config.s3.endpoint), "127.0.0.1"):
            assert secret not in answer.text
            assert secret not in str(nothing_broke)
        assert SECRET not in repr(server.config)

    with_server(body, s3=settings(a_free_port()))


@pytest.mark.parametrize(
    "url",
    [
        "https://media.example/a.json",
        "file:///etc/passwd",
        "media/a.json",
        "s3://private/a.json",
        "s3://media/",
        "s3://media/../private/a.json",
        "s3://media/links/01KAY6.srt",  # where only whisperd writes
    ],
)
def test_a_result_that_would_never_be_written_is_refused_and_nothing_is_kept(with_server, url):
    async def body(server):
        for answer in (await server.post(result_url=url), await server.post_json(result_url=url)):
            await refused(server, answer, 422, "invalid_field", "result_url")

    with_server(body, s3={**settings(1), "links": "s3://media/links"})


@pytest.mark.parametrize("storage", ["s3://media/shared", "s3://media/shared/"])
def test_what_hosts_share_is_written_by_them_alone(storage):
    config = Config(redis=Redis(url="redis://localhost", storage=storage))
    ours = tuple(
        f"s3://media/shared/{name}" for name in ("links/", "audio/http-", "results/", "checkpoints/")
    )

    assert links.reserved(config) == ours
    assert links.reserved(Config()) == ()


def test_a_result_is_owed_from_the_moment_its_task_is_completed(with_server):
    async def body(server):
        await server.completed(result_url="s3://media/x/a.srt")

        (owed,) = (await server.get("/admin/webhooks")).json()["deliveries"]
        assert (owed["kind"], owed["to"], owed["state"]) == ("result", "s3://media", "waiting")

    with_server(body, s3=settings(1))


def test_a_key_that_is_refused_is_said_to_be_so(with_server):
    async def body(server):
        answer = await by_json(server, "s3://media/a.wav")
        await refused(server, answer, 422, "download_failed", "audio_url")
        assert "refuses the access key" in answer.json()["error"]["message"]

    # The last of this file: what the servers hold is one, and is gone with the next.
    with serving(bucket="media", refuses=lambda environ: True) as port:
        with_server(body, s3=settings(port))
