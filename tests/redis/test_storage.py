"""The shared storage: a folder or a bucket, and what is written there is written once."""

import asyncio

import httpx
import pytest

from tests.e2e.test_first_slice import JFK, words
from tests.redis.conftest import in_bucket, over
from tests.s3_server import client
from whisperd.s3 import S3NotFound


def test_who_comes_second_with_a_transcript_gets_that_of_the_first(storage):
    async def body():
        assert await storage.result("t1") is None
        first = await storage.keep_result("t1", b"first")
        second = await storage.keep_result("t1", b"second")

        assert (first, second, await storage.result("t1")) == (b"first", b"first", b"first")

    asyncio.run(body())


def test_what_was_found_in_a_transcript_is_noted_look_by_look(storage):
    async def body():
        assert await storage.looks("t1") == {}
        for transcription, look in (("t1", "b"), ("t1", "a"), ("t10", "c"), ("t1", "b")):
            await storage.keep_look(transcription, look, look.encode())

        assert list((await storage.looks("t1")).items()) == [("a", b"a"), ("b", b"b")]

    asyncio.run(body())


def test_audio_comes_back_as_it_went_in(storage, jfk):
    async def body():
        key = storage.key_of(await storage.keep_audio("t1", jfk))
        pieces = [piece async for piece in storage.pieces(key)]

        assert b"".join(pieces) == jfk.read_bytes()
        assert len(pieces) > 1 or len(pieces[0]) < 512 * 1024

    asyncio.run(body())


@pytest.mark.parametrize("key", ["audio/../secret", "audio/a/b", "audio/..", "other/a", "", "audio/"])
def test_nothing_beside_audio_and_results_is_ours(storage, key):
    assert storage.key_of(storage.result_url("x").replace("results/x", key)) is None


def test_audio_from_a_bucket_and_the_transcript_back_into_it(new_host, node, bucket, jfk):
    client(bucket).put_object(Bucket="media", Key="in/talk.wav", Body=jfk.read_bytes())
    host = new_host(**in_bucket(bucket)).start()
    asked = {"transcriptionId": "cm3", "userId": 7, "s3AudioUrl": "s3://media/in/talk.wav", "format": "vtt"}

    job = over(node, node.add(asked, {"priority": 10}))

    assert job["state"] == "completed", job
    assert job["returnvalue"]["s3ResultUrl"] == "s3://media/whisperd/results/cm3.vtt"
    written = client(bucket).get_object(Bucket="media", Key="whisperd/results/cm3.vtt")
    assert written["Body"].read().startswith(b"WEBVTT")
    assert host.task("cm3")["tenant"] == "7"


def test_a_link_made_on_one_host_lets_anybody_read_what_another_has_done(new_host, bucket, jfk):
    asked, worker = new_host(**in_bucket(bucket)).start(), new_host(**in_bucket(bucket))
    asked.http.post("/admin/pause").raise_for_status()
    task_id = asked.queued(jfk)
    worker.start()
    asked.finished(task_id)

    link = asked.get(f"/tasks/{task_id}/link", format="text")

    assert f"/media/whisperd/links/{task_id}.text?" in link["url"]
    assert words(httpx.get(link["url"], trust_env=False).text) == words(JFK)


def test_a_folder_that_hosts_share_has_no_links(new_host, jfk):
    host = new_host().start()
    task_id = host.queued(jfk)
    host.finished(task_id)

    answer = host.http.get(f"/tasks/{task_id}/link")

    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "not_supported")


def test_a_part_of_audio_is_of_what_it_was_when_somebody_began_to_listen(storage, jfk):
    async def body():
        key = storage.key_of(await storage.keep_audio("t1", jfk))
        head = await storage.part(key, 0, 10)
        assert (head.content, head.size) == (jfk.read_bytes()[:10], jfk.stat().st_size)
        assert (await storage.part(key, 10, 10**9, head.version)).content == jfk.read_bytes()[10:]

        await storage.keep_audio("t1", b"other audio")

        with pytest.raises(S3NotFound, match="other audio"):
            await storage.part(key, 0, 10, head.version)
        with pytest.raises(S3NotFound):
            await storage.part("audio/http-none", 0, 10)

    asyncio.run(body())
