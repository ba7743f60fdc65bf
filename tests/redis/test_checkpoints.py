"""What a host has finished of a task, and another one goes on from."""

import asyncio
import contextlib

import pytest

from tests.conftest import a_task
from tests.s3_server import KEY, SECRET, serving
from whisperd.config import S3, Config, Redis
from whisperd.db import Database
from whisperd.events import Events
from whisperd.job import Job
from whisperd.queue import SqliteQueue
from whisperd.redis_queue.checkpoints import Checkpoints
from whisperd.redis_queue.ledger import Ledger
from whisperd.redis_queue.storage import Storage
from whisperd.task import Cut, Piece, Plan, Segment, State

JOB = Job(id="t1", token="ours:1", begun=2)
CUTS = tuple(Cut(pieces=(Piece(start * 10, start * 10 + 10),)) for start in range(4))


@pytest.fixture(scope="module")
def bucket():
    with serving(bucket="media") as port:
        yield port


@pytest.fixture(params=["folder", "bucket"])
def storage(request, tmp_path, bucket):
    (tmp_path / "shared").mkdir()
    if request.param == "folder":
        return Storage(Config(redis=Redis(storage=str(tmp_path / "shared"))))
    s3 = S3(
        endpoint=f"http://127.0.0.1:{bucket}", access_key_id=KEY, secret_access_key=SECRET, buckets=("media",)
    )
    return Storage(Config(redis=Redis(storage=f"s3://media/{tmp_path.name}"), s3=s3))


class Host:
    """A queue and its checkpoints; no workers."""

    def __init__(self, db, events, storage):
        self.queue = SqliteQueue(db, events)
        self.checkpoints = Checkpoints(storage, Ledger(db), events)

    async def takes(self, known=None):
        return await self.queue.take(a_task(id="t1"), JOB, known)

    async def plans(self, cuts=CUTS, fingerprint="f"):
        plan = Plan(fingerprint=fingerprint, cuts=cuts, duration=4.0, language="en")
        return await self.queue.plan(await self.queue.claim(), plan)

    async def finishes(self, chunks=1, warnings=()):
        for _ in range(chunks):
            chunk = await self.queue.claim()
            said = Segment(start=chunk.number, end=chunk.number + 1, text=f"chunk {chunk.number}")
            task = await self.queue.finish(chunk, [said], warnings)
        return task

    async def text(self):
        return [segment.text for _, segment in await self.queue.segments("t1")]


@contextlib.asynccontextmanager
async def a_host(tmp_path, name, storage, *held):
    """While the block lasts; it keeps what is finished of those that it has `held`."""
    events = Events()
    async with Database(tmp_path / f"{name}.db") as db:
        host = Host(db, events, storage)
        running = asyncio.create_task(host.checkpoints.run(lambda: held))
        yield host
        running.cancel()
        await asyncio.wait([running])


async def found(host, chunks):
    """What another host finds, once there are so many chunks of it; None of them: nothing."""
    async with asyncio.timeout(30):
        while True:
            known = await host.checkpoints.find("t1")
            if chunks == (None if known is None else len(known.chunks)):
                return known
            await asyncio.sleep(0.01)


def test_another_host_goes_on_from_what_is_finished(tmp_path, storage):
    async def body():
        async with a_host(tmp_path, "first", storage, "t1") as first:
            await first.takes()
            await first.plans()
            await first.finishes(2, warnings=["partial_audio"])
            await found(first, 2)
        async with a_host(tmp_path, "second", storage) as second:
            task = await second.takes(await found(second, 2))

            assert (task.state, task.progress) == (State.QUEUED, 0.5)
            assert (await second.plans()).warnings == ("partial_audio",)
            assert await second.text() == ["chunk 1", "chunk 2"]
            assert (await second.finishes(2)).state is State.COMPLETED
            assert await second.text() == [f"chunk {number}" for number in range(1, 5)]

    asyncio.run(body())


def test_of_another_plan_nothing_is_taken(tmp_path, storage):
    async def body():
        async with a_host(tmp_path, "first", storage, "t1") as first:
            await first.takes()
            await first.plans()
            await first.finishes(2)
            await found(first, 2)
        async with a_host(tmp_path, "second", storage) as second:
            await second.takes(await found(second, 2))
            await second.plans(CUTS[:3], "g")

            assert await second.text() == []
            assert (await second.finishes(3)).state is State.COMPLETED

    asyncio.run(body())


def test_a_task_whose_every_chunk_was_finished_is_completed_by_its_plan(tmp_path, storage):
    async def body():
        async with a_host(tmp_path, "first", storage, "t1") as first:
            await first.takes()
            await first.plans()
            await first.finishes(3)
            known = await found(first, 3)
            chunks = {**known.chunks, 4: known.chunks[1]}
        async with a_host(tmp_path, "second", storage) as second:
            await second.takes(type(known)(fingerprint="f", cuts=known.cuts, chunks=chunks))

            assert (await second.plans()).state is State.COMPLETED

    asyncio.run(body())


def test_what_a_restart_finds_stored_is_not_stored_again(tmp_path):
    storage = Storage(Config(redis=Redis(storage=str(tmp_path))))

    def written():
        return {file.name: file.stat().st_mtime_ns for file in (tmp_path / "checkpoints/t1/f").iterdir()}

    async def body():
        async with a_host(tmp_path, "host", storage, "t1") as host:
            await host.takes()
            await host.plans()
            await host.finishes(2)
            await found(host, 2)
        before = written()
        async with a_host(tmp_path, "host", storage, "t1") as again:
            await again.finishes(1)
            await found(again, 3)

        assert {name: at for name, at in written().items() if name != "3"} == before

    asyncio.run(body())


def test_with_the_transcript_it_goes_and_leaves_nothing(tmp_path, storage):
    async def body():
        async with a_host(tmp_path, "first", storage, "t1") as first:
            await first.takes()
            await first.plans()
            await first.finishes(2)
            await found(first, 2)

            first.checkpoints.completed("t1")

            assert await found(first, None) is None

    asyncio.run(body())
    assert not (tmp_path / "shared" / "checkpoints" / "t1").exists()


def test_a_chunk_that_cannot_be_read_is_done_again(tmp_path):
    storage = Storage(Config(redis=Redis(storage=str(tmp_path))))

    async def body():
        async with a_host(tmp_path, "first", storage, "t1") as first:
            await first.takes()
            await first.plans()
            await first.finishes(3)
            await found(first, 3)
        (tmp_path / "checkpoints" / "t1" / "f" / "2").write_bytes(b'{"segments": [{"start"')
        async with a_host(tmp_path, "second", storage) as second:
            await second.takes(await second.checkpoints.find("t1"))
            await second.plans()

            assert (await second.queue.claim()).number == 2

    asyncio.run(body())


def test_a_storage_that_is_away_stops_nothing_and_gets_it_later(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    storage = Storage(Config(redis=Redis(storage=str(folder))))

    async def body():
        async with a_host(tmp_path, "host", storage, "t1") as host:
            await host.takes()
            await host.plans()
            (folder / "checkpoints").rmdir()
            (folder / "checkpoints").write_bytes(b"in the way")
            await host.finishes(1)
            async with asyncio.timeout(30):
                while host.checkpoints.trouble is None:  # noqa: ASYNC110 - it signals nothing
                    await asyncio.sleep(0.01)
            (folder / "checkpoints").unlink()

            assert (await found(host, 1)).chunks[1].segments[0].text == "chunk 1"
            assert host.checkpoints.trouble is None

    asyncio.run(body())
