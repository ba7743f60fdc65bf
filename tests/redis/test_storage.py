"""The shared storage: a folder or a bucket, and what is written there is written once."""

import asyncio

import pytest

from tests.redis.conftest import over
from tests.s3_server import KEY, SECRET, client, serving
from whisperd.config import S3, Config, Redis
from whisperd.redis_queue.storage import Storage


@pytest.fixture(scope="module")
def bucket():
    with serving(bucket="media") as port:
        yield port


@pytest.fixture(params=["folder", "bucket"])
def storage(request, tmp_path, bucket):
    if request.param == "folder":
        return Storage(Config(redis=Redis(storage=str(tmp_path))))
    s3 = S3(
        endpoint=f"http://127.0.0.1:{bucket}", access_key_id=KEY, secret_access_key=SECRET, buckets=("media",)
    )
    return Storage(Config(redis=Redis(storage="s3://media/whisperd"), s3=s3))


def test_who_comes_second_with_a_transcript_gets_that_of_the_first(storage):
    async def body():
        assert await storage.result("t1") is None
        first = await storage.keep_result("t1", b"first")
        second = await storage.keep_result("t1", b"second")

        assert (first, second, await storage.result("t1")) == (b"first", b"first", b"first")

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
    host = new_host(
        REDIS__STORAGE="s3://media/whisperd",
        S3__ENDPOINT=f"http://127.0.0.1:{bucket}",
        S3__BUCKETS="media",
        S3__ACCESS_KEY_ID=KEY,
        S3__SECRET_ACCESS_KEY=SECRET,
    ).start()
    asked = {"transcriptionId": "cm3", "userId": 7, "s3AudioUrl": "s3://media/in/talk.wav", "format": "vtt"}

    job = over(node, node.add(asked, {"priority": 10}))

    assert job["state"] == "completed", job
    assert job["returnvalue"]["s3ResultUrl"] == "s3://media/whisperd/results/cm3.vtt"
    written = client(bucket).get_object(Bucket="media", Key="whisperd/results/cm3.vtt")
    assert written["Body"].read().startswith(b"WEBVTT")
    assert host.task("cm3")["tenant"] == "7"
