"""The audio of a task is heard on every host, also where it was never sent to."""

import asyncio
import hashlib
import os

import pytest

from tests.conftest import a_task
from whisperd.redis_queue.borrowing import Borrowing
from whisperd.redis_queue.client import RedisAway
from whisperd.redis_queue.storage import Storage
from whisperd.s3 import S3Error
from whisperd.spool import Spool
from whisperd.task import Audio

SOUND = os.urandom(300_000)


class Counting:
    """A storage that counts how often audio is asked for."""

    def __init__(self, storage):
        self._storage = storage
        self.asked = 0

    def audio_key(self, task_id):
        return self._storage.audio_key(task_id)

    def pieces(self, key):
        self.asked += 1
        return self._storage.pieces(key)


class Away(Storage):
    def __init__(self):
        pass

    async def pieces(self, key):
        raise S3Error("away")
        yield


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", max_bytes=10**6)


def of(sound):
    return a_task(
        id="t1", audio=Audio(name="a.wav", size=len(sound), sha256=hashlib.sha256(sound).hexdigest())
    )


def test_it_is_fetched_once_for_all_who_want_it_and_is_no_file_of_the_task(storage, spool):
    async def body():
        await storage.keep_audio("t1", SOUND)
        counting = Counting(storage)
        borrowing = Borrowing(spool, counting)
        ids = await asyncio.gather(*[borrowing.audio_id(of(SOUND)) for _ in range(10)])

        assert (set(ids), counting.asked) == ({"t1-borrowed"}, 1)
        assert spool.audio("t1-borrowed").read_bytes() == SOUND
        assert not spool.has_audio("t1")

    asyncio.run(body())


def test_what_is_here_is_not_fetched(spool):
    spool.audio("t1").write_bytes(SOUND)

    assert asyncio.run(Borrowing(spool, Away()).audio_id(of(SOUND))) == "t1"


@pytest.mark.parametrize("kept", [None, b"of another task"])
def test_what_is_gone_or_is_other_audio_is_not_handed_out(storage, spool, kept):
    async def body():
        if kept is not None:
            await storage.keep_audio("t1", kept)
        return await Borrowing(spool, storage).audio_id(of(SOUND))

    assert asyncio.run(body()) == "t1"
    assert list(spool.owners()) == []


def test_a_storage_that_is_away_is_said_to_be(spool):
    with pytest.raises(RedisAway):
        asyncio.run(Borrowing(spool, Away()).audio_id(of(SOUND)))
    assert list(spool.owners()) == []


def test_a_host_plays_what_another_has_done(new_host, jfk):
    asked, worker = new_host().start(), new_host().start()
    asked.http.post("/admin/pause").raise_for_status()
    task_id = asked.queued(jfk, name="talk.wav")
    asked.finished(task_id)
    part = {"Range": "bytes=100-199"}

    for host in (asked, worker):
        answer = host.http.get(f"/tasks/{task_id}/audio")
        assert answer.content == jfk.read_bytes()
        assert "talk.wav" in answer.headers["content-disposition"]
        assert host.http.get(f"/tasks/{task_id}/audio", headers=part).content == jfk.read_bytes()[100:200]
    assert asked.spool() == []  # it was passed on
