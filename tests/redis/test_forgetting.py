"""Retention of the shared storage: what goes, and what stays. Against a real Redis, folder and bucket."""

import asyncio
import contextlib
import time

import obstore
import pytest

from tests.redis.conftest import in_s3
from tests.s3_server import a_free_port, serving
from whisperd.config import Redis as Settings
from whisperd.config import Retention
from whisperd.redis_queue.board import Board
from whisperd.redis_queue.boards import Boards
from whisperd.redis_queue.client import RedisAway
from whisperd.redis_queue.forgetting import SETTLED_SECONDS, YOUNG_SECONDS, Forgetting
from whisperd.redis_queue.link import Link
from whisperd.redis_queue.storage import Storage
from whisperd.s3 import S3Error
from whisperd.task import QueueAway

HOUR = 3600.0
KEPT = 168 * HOUR  # by the settings, of what failed
ONE, OTHER = "01KB5Y3M6QW8Z1T4R7N9P2X0AC", "01KB5Y3M6QW8Z1T4R7N9P2X0AD"


@contextlib.asynccontextmanager
async def a_host(redis, **settings):
    """What a host knows of the shared queue."""
    settings = Settings(url=redis.url, **settings)
    link = Link(settings)
    try:
        yield Boards(settings, lambda queue: Board(link, settings, (24.0, 168.0), queue))
    finally:
        await link.close()


def forgetting(boards, storage, later, keep=None):
    """As if so many seconds had gone by."""
    keep = keep or Retention()
    return Forgetting(boards, storage, lambda: keep, lambda: time.time() + later)


async def filled(storage, jfk, *task_ids):
    """What hosts write for a task."""
    for task_id in task_ids:
        await storage.keep_audio(task_id, jfk)
        await storage.keep_result(task_id, b"{}")
        await storage.keep_look(task_id, "look", b"{}")
        await obstore.put_async(storage.checkpoints, f"{task_id}/f00d/12", b"{}")
    return await held(storage)


async def held(storage):
    found = await obstore.list(storage._store).collect_async()
    return sorted(entry["path"] for entry in found)


def lose_everything(redis):
    redis.stop()
    redis.forget()
    redis.start()


def of(task_id):
    return [
        f"audio/http-{task_id}",
        f"checkpoints/{task_id}/f00d/12",
        f"looks/{task_id}/look",
        f"results/{task_id}",
    ]


def test_what_is_older_than_tasks_are_kept_goes_unless_its_job_is_there(redis, storage, jfk):
    """The job is in a queue that only another host knows."""

    async def body():
        before = await filled(storage, jfk, ONE, OTHER)
        assert before == sorted(of(ONE) + of(OTHER))
        async with a_host(redis, routes={"tenant:acme": "acme"}) as another, a_host(redis) as boards:
            await another.add(ONE, "transcription", {"tenant": "acme"})
            await forgetting(another, storage, 0.0).look()

            await forgetting(boards, storage, KEPT - HOUR).forget()
            assert await held(storage) == before
            await forgetting(boards, storage, KEPT + HOUR).forget()
            assert await held(storage) == of(ONE)

    asyncio.run(body())


def test_a_job_of_node_keeps_what_is_stored_under_the_id_of_its_task(redis, node, storage, jfk):
    job_id = node.add({"transcriptionId": "cm3", "s3AudioUrl": "s3://media/a.wav"}, {"priority": 1})

    async def body():
        before = await filled(storage, jfk, "cm3")
        async with a_host(redis) as boards:
            await boards.name(await boards.look(job_id), "cm3")  # as the host does that takes it
            await forgetting(boards, storage, KEPT + HOUR).forget()

        assert await held(storage) == before

    asyncio.run(body())


def test_what_others_have_put_there_stays_and_what_a_job_of_node_was_answered_with(redis, storage):
    others = [
        f"audio/{ONE}",
        "audio/cm3-talk.mp3",
        "checkpoints/notes.txt",
        "looks/notes.txt",
        "notes.txt",
        "other/http-a",
        f"results/2026/{ONE}",
        "results/cm3.srt",
    ]

    async def body():
        for name in others[:-1]:
            await obstore.put_async(storage._store, name, b"of others")
        await storage.keep_rendered("cm3.srt", b"1", "text/plain")
        async with a_host(redis) as boards:
            await forgetting(boards, storage, KEPT + HOUR).forget()

        assert await held(storage) == others

    asyncio.run(body())


def test_what_stands_in_the_bucket_beside_the_prefix_stays(redis, bucket, jfk):
    async def body():
        ours, theirs = in_s3(bucket, "beside/ours"), in_s3(bucket, "beside/ours-not")
        await filled(ours, jfk, ONE)
        before = await filled(theirs, jfk, ONE)
        async with a_host(redis) as boards:
            await forgetting(boards, ours, KEPT + HOUR).forget()

        assert await held(ours) == []
        assert await held(theirs) == before == of(ONE)

    asyncio.run(body())


def test_what_has_just_been_written_stays_however_short_tasks_are_kept(redis, storage, jfk):
    """Its submission is under way: the audio is there before the job."""
    nothing = Retention(job_hours=0, failed_job_hours=0)

    async def body():
        before = await filled(storage, jfk, ONE)
        async with a_host(redis) as boards:
            await forgetting(boards, storage, YOUNG_SECONDS - 60, nothing).forget()
            assert await held(storage) == before
            await forgetting(boards, storage, YOUNG_SECONDS + 60, nothing).forget()
            assert await held(storage) == []

    asyncio.run(body())


def test_soon_after_redis_has_come_nothing_goes_since_it_may_have_lost_jobs(redis, storage, jfk):
    async def body():
        before = await filled(storage, jfk, ONE)
        async with a_host(redis) as boards:
            await forgetting(boards, storage, KEPT + HOUR).look()

        assert await held(storage) == before

    asyncio.run(body())


def test_on_another_redis_than_before_nothing_goes_though_none_was_seen_to_be_away(redis, storage, jfk):
    """One that was started again between two questions: none of them was in trouble."""

    async def body():
        before = await filled(storage, jfk, ONE)
        async with a_host(redis) as boards:
            await boards.add(ONE, "transcription", {})
            await boards.identify()
            link = boards._base._link
            link.well_since = time.monotonic() - SETTLED_SECONDS - 1  # as if it had answered for so long
            await asyncio.to_thread(lose_everything, redis)
            await link.client.connection_pool.disconnect()  # idle connections that ended are made anew
            await forgetting(boards, storage, KEPT + HOUR).look()

        assert await held(storage) == before

    asyncio.run(body())


class Slow(Storage):
    """Its list takes until something has happened."""

    async def kept(self):
        async for some in super().kept():
            await self.meanwhile()
            yield some


def test_where_redis_comes_back_empty_in_the_middle_of_a_round_nothing_goes(redis, bucket, jfk):
    async def body():
        storage = in_s3(bucket, "midway", Slow)
        before = await filled(storage, jfk, ONE)
        async with a_host(redis) as boards:
            await boards.add(ONE, "transcription", {})

            async def meanwhile():
                await asyncio.to_thread(lose_everything, redis)
                with contextlib.suppress(QueueAway):  # as what else the host asks may be told
                    await boards.queues()

            storage.meanwhile = meanwhile
            with pytest.raises(RedisAway, match="has come back anew"):
                await forgetting(boards, storage, KEPT + HOUR).forget()

        assert await held(storage) == before

    asyncio.run(body())


def test_one_host_does_it_for_all(redis):
    async def body():
        async with a_host(redis) as one, a_host(redis) as other:
            assert [await host.first_within("forgetting", 60) for host in (one, other)] == [True, False]

    asyncio.run(body())


def test_what_cannot_be_removed_now_goes_in_the_next_round(redis, jfk):
    refused = []

    def refuses(environ):
        return not refused and "delete" in environ["QUERY_STRING"] and not refused.append(environ)

    async def body(port):
        storage = in_s3(port, "later")
        before = await filled(storage, jfk, ONE)
        async with a_host(redis) as boards:
            with pytest.raises(S3Error, match="refuses the access key"):
                await forgetting(boards, storage, KEPT + HOUR).forget()
            assert await held(storage) == before
            await forgetting(boards, storage, KEPT + HOUR).forget()

        assert await held(storage) == []

    with serving(bucket="media", refuses=refuses) as port:
        asyncio.run(body(port))


def test_a_bucket_that_is_away_is_said_to_be_so(redis):
    async def body():
        async with a_host(redis) as boards:
            with pytest.raises(S3Error, match="the shared storage cannot be reached"):
                await forgetting(boards, in_s3(a_free_port(), "away"), KEPT + HOUR).forget()

    asyncio.run(body())
