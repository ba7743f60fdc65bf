"""Transcripts that are written to a bucket: once they are there, whatever comes in between."""

import asyncio
import json
import subprocess
import sys
from time import time

import pytest
import structlog

from tests.s3_server import KEY, SECRET, a_free_port, client, serving
from tests.test_deliveries import Post
from tests.test_outbox import ALL, cancelled, failed
from tests.test_queue import completed
from whisperd.buckets import Buckets
from whisperd.config import S3
from whisperd.db import Database
from whisperd.deliveries import Deliveries
from whisperd.detections import Detections
from whisperd.redacting import Redacting
from whisperd.results import Results
from whisperd.task import FINAL, TaskNotFound

URL = "s3://media/out/a.json"


@pytest.fixture(scope="module")
def port():
    with serving(bucket="media") as port:
        yield port


@pytest.fixture(autouse=True)
def logs():
    with structlog.testing.capture_logs() as logs:
        yield logs


class Owing(Post):
    def __init__(self, db, clock, port, bucket):
        super().__init__(db, clock)
        endpoint = f"http://127.0.0.1:{port}"
        settings = S3(endpoint=endpoint, access_key_id=KEY, secret_access_key=SECRET, buckets=(bucket,))
        redacting = Redacting(self.queue, Detections(db, self.queue.told_all, clock))
        senders = {"result": Results(Buckets(settings), self.queue, redacting)}
        self.deliveries = Deliveries(self.box, self.events, senders, (), jitter=lambda: 1.0, steady=clock)

    async def one(self):
        (delivery,) = await self.box.find(ALL)
        return delivery

    async def until_failed(self, n=1):
        async with asyncio.timeout(30):
            while (await self.one()).attempts < n or self.deliveries._held:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def pruned(self):
        """What retention takes of the tasks that are over."""
        return await self.queue.clear(FINAL, time() + 1e9)


@pytest.fixture
def owing(tmp_path, clock):
    def run(body, port, bucket="media"):
        async def main():
            async with Database(tmp_path / "q.db") as db:
                await body(Owing(db, clock, port, bucket))

        asyncio.run(main())

    return run


def read(port, key):
    found = client(port).get_object(Bucket="media", Key=key)
    return found["ContentType"], found["Body"].read().decode()


@pytest.mark.parametrize(
    ("key", "media_type", "start"),
    [
        ("a.json", "application/json", '{"task_id":'),
        ("a.SRT", "text/plain; charset=utf-8", "1\n00:00:"),
        ("a.vtt", "text/vtt; charset=utf-8", "WEBVTT"),
        ("a.txt", "text/plain; charset=utf-8", "a.wav"),
        ("a.tsv", "text/tab-separated-values; charset=utf-8", "start\tend\ttext"),
        ("srt", "application/json", '{"task_id":'),
        ("x.srt/%2e naïve+?#", "application/json", '{"task_id":'),
    ],
)
def test_a_transcript_is_written_as_its_key_ends(owing, port, key, media_type, start):
    async def body(post):
        await completed(post.queue, result_url=f"s3://media/{key}")
        async with post.running():
            await post.until_settled(1)

        assert await post.states() == ["delivered"]
        found = read(port, key)
        assert found[0] == media_type
        assert found[1].startswith(start)

    owing(body, port)


@pytest.mark.parametrize("ends", [failed, cancelled])
def test_a_task_without_a_transcript_writes_nothing(owing, port, ends):
    async def body(post):
        await ends(post.queue, result_url=URL)

        assert await post.box.find(ALL) == []

    owing(body, port)


def test_a_bucket_that_is_away_gets_the_transcript_when_it_is_back_though_the_task_was_to_go(owing):
    port = a_free_port()

    async def body(post):
        task = await completed(post.queue, result_url=URL)
        async with post.running():
            await post.until_failed()
            assert "cannot be reached" in (await post.one()).problem
            assert await post.pruned() == []
            with serving(port, bucket="media"):
                post.later(24 * 3600)  # beyond every pause
                await post.until_settled(1)
                assert json.loads(read(port, "out/a.json")[1])["task_id"] == task.id

        assert await post.states() == ["delivered"]
        assert await post.pruned() == [task.id]
        with pytest.raises(TaskNotFound):
            await post.queue.get(task.id)

    owing(body, port)


def test_a_daemon_that_died_before_it_wrote_leaves_it_to_the_next(owing, port):
    """Between the commit and the write: nothing ran in between."""

    async def dies(post):
        await completed(post.queue, result_url="s3://media/later.txt")

    async def starts(post):
        async with post.running():
            await post.until_settled(1)

    owing(dies, port)
    owing(starts, port)
    assert read(port, "later.txt")[1].strip() == "a.wav"


def test_tasks_that_are_owed_do_not_keep_others(owing, port):
    async def body(post):
        for _ in range(3):
            await completed(post.queue, result_url=URL)
        other = await completed(post.queue)

        assert await post.queue.clear(FINAL, time() + 1e9, limit=2) == [other.id]

    owing(body, port)


def test_one_whose_task_is_gone_says_so(owing, port):
    async def body(post):
        await completed(post.queue, result_url=URL)
        async with post.running():
            await post.until_settled(1)
            await post.pruned()
            await post.deliveries.resend((await post.one()).id)
            await post.until_failed()

        assert (await post.one()).problem == "the task is not kept any more"

    owing(body, port)


def test_a_bucket_that_was_taken_off_the_list_is_written_no_more(owing, port):
    async def body(post):
        await completed(post.queue, result_url="s3://media/off.json")
        async with post.running():
            await post.until_failed()

        assert (await post.one()).problem == "its bucket is none of those in s3.buckets"

    owing(body, port, bucket="other")
    assert "off.json" not in [f["Key"] for f in client(port).list_objects_v2(Bucket="media")["Contents"]]


def test_a_refusal_tells_no_key(owing, logs):
    async def body(post):
        await completed(post.queue, result_url=URL)
        async with post.running():
            await post.until_failed()

        assert (await post.one()).problem == "the bucket media refuses the access key"
        assert SECRET not in str(logs)
        assert KEY not in str(logs)
        assert "out/a.json" not in str(logs)

    with serving(bucket="media", refuses=lambda environ: environ["REQUEST_METHOD"] == "PUT") as port:
        owing(body, port)


def test_who_has_not_the_library_is_told_how_to_get_it():
    code = (
        "import sys; sys.modules['obstore'] = sys.modules['obstore.store'] = None\n"
        "from whisperd.buckets import Buckets; from whisperd.config import S3\n"
        "from whisperd.s3 import S3Missing\n"
        "Buckets(S3())\n"
        "try: Buckets(S3(buckets=('b',)))\n"
        "except S3Missing as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "pip install 'whisperd[s3]'" in done.stdout
