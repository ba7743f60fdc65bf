"""A Redis with a replica and a Sentinel: hosts work with whichever is the master."""

import asyncio
import contextlib
import socket

import pytest

from tests.redis.conftest import over, until
from tests.redis.test_attacks import at_work
from tests.redis_server import Node, Redis, Sentinel
from whisperd.config import Redis as Settings
from whisperd.redis_queue.link import Link
from whisperd.task import QueueAway


@pytest.fixture
def replica(redis, tmp_path):
    replica = Redis(tmp_path / "replica", replicaof=["127.0.0.1", str(redis.port)])
    try:
        yield replica.start()
    finally:
        replica.stop()


@pytest.fixture
def sentinel(redis, replica, tmp_path):
    until(lambda: "master_link_status:up" in replica.cli("info", "replication"))
    sentinel = Sentinel(tmp_path / "sentinel", redis)
    try:
        until(lambda: str(replica.port) in sentinel.cli("sentinel", "replicas", "queue"))
        yield sentinel
    finally:
        sentinel.stop()


@pytest.fixture
def silent():
    """The port of a Sentinel whose machine has died: connections to it are made, and that is all."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_task_is_finished_on_the_replica_that_sentinels_have_made_the_master(
    sentinel, silent, new_host, redis, replica, minutes_of_speech, jfk
):
    urls = f"redis://127.0.0.1:{silent},127.0.0.1:{sentinel.port}/0"
    host = new_host(REDIS__URL=urls, REDIS__SENTINEL_MASTER="queue").start()
    running = host.queued(minutes_of_speech(1.4), priority=10)
    at_work(host, running)
    waiting = host.queued(jfk)
    until(lambda: replica.cli("exists", f"bull:transcription:{waiting}") == "1")
    redis.kill()

    assert [host.finished(task_id)["status"] for task_id in (running, waiting)] == ["completed"] * 2
    node = Node(replica)
    try:
        jobs = [over(node, task_id) for task_id in (running, waiting)]
    finally:
        node.close()
    assert [(job["state"], job["attemptsStarted"]) for job in jobs] == [("completed", 1)] * 2
    assert host.submit(jfk).status_code == 202


def test_a_sentinel_that_is_taken_for_the_server_is_refused_with_what_is_missing(sentinel, new_host):
    status, told = new_host(REDIS__URL=f"redis://127.0.0.1:{sentinel.port}").refused()

    assert status == 1
    assert "redis.sentinel_master has to name the master" in told


def test_a_master_that_no_sentinel_knows_is_waited_for_and_its_setting_named(sentinel, new_host):
    urls = f"redis://127.0.0.1:{sentinel.port}"
    host = new_host(REDIS__URL=urls, REDIS__SENTINEL_MASTER="another").start()

    check = host.health()["checks"]["redis"]

    assert check["status"] == "degraded"
    assert "redis.sentinel_master" in check["message"]


def test_a_redis_that_was_started_again_between_two_questions_has_come_back(sentinel, redis):
    """With Sentinels the client makes connections that have ended anew, and no question is in trouble."""

    async def body():
        link = Link(Settings(url=f"redis://127.0.0.1:{sentinel.port}", sentinel_master="queue"))
        try:
            async with asyncio.timeout(30):
                before = await link.identify(), link.well_since
                redis.kill()
                redis.start()  # on this loop: nothing is asked meanwhile

                while link.server in ("", before[0]):
                    with contextlib.suppress(QueueAway):  # it took so long that there was a failover
                        await link.identify()
            assert link.well_since > before[1]
        finally:
            await link.close()

    asyncio.run(body())
