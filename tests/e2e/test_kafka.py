"""Tasks from Kafka's protocol, spoken by librdkafka's mock cluster, and their ends told there."""

import asyncio
import contextlib
import json
import os
from pathlib import Path

import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED

from tests.e2e.messaging import asking_for, connected, cut_off_while_it_settles, hosts_of, tasks
from tests.kafka_server import JOIN, LEAVE, Kafka
from whisperd.brokers import lanes
from whisperd.brokers.kafka import OUT_SECONDS, check
from whisperd.brokers.kafka import connected as connected_to
from whisperd.brokers.way import BrokerAway
from whisperd.config import Brokers

pytestmark = pytest.mark.timeout(400)
PARTITIONS = range(4)  # of a topic that the mock makes


@pytest.fixture
def kafka():
    kafka = Kafka()
    try:
        yield kafka
    finally:
        kafka.close()


@pytest.fixture
def new_host(tmp_path, weights, kafka, jfk):
    with hosts_of(kafka.url, tmp_path, weights, jfk.parent) as make:
        yield make


@pytest.fixture
def clip(jfk):
    return asking_for(jfk)


def is_degraded(daemon):
    return daemon.health()["checks"]["broker"]["status"] == "degraded"


def test_a_message_becomes_a_task_and_its_end_is_told(new_host, kafka, clip):
    daemon = new_host().start()
    kafka.send(clip, "one")

    ((body, headers),) = kafka.told("whisperd.events")

    event = json.loads(body)
    (task,) = tasks(daemon)
    assert (event["type"], event["data"]["task_id"]) == ("task.completed", task["task_id"])
    assert headers["event"] == b"task.completed"
    assert headers["message_id"].startswith(b"msg_")
    assert "ask not what your country can do for you" in daemon.result(task["task_id"])
    daemon.until(lambda: kafka.committed() == 1)


def test_a_message_that_comes_twice_is_one_task(new_host, kafka, clip):
    daemon = new_host().start()
    for partition, message_id in ((0, "one"), (1, "one"), (0, "one"), (0, "two")):
        kafka.send(clip, message_id, partition=partition)
    daemon.until(lambda: (kafka.committed(0), kafka.committed(1)) == (3, 1), 60)

    assert len(tasks(daemon)) == 2


def test_messages_without_an_id_are_a_task_each(new_host, kafka, clip):
    daemon = new_host().start()
    for message_id in (None, None, ""):
        kafka.send(clip, message_id)

    daemon.until(lambda: kafka.committed() == 3, 60)
    assert len(tasks(daemon)) == 3


@pytest.mark.parametrize("message_id", ["named", None])
def test_an_offset_that_was_lost_makes_no_second_task(new_host, kafka, clip, message_id):
    daemon = new_host().start()
    kafka.send(clip, message_id)
    daemon.until(lambda: kafka.committed() == 1, 60)
    daemon.kill()
    kafka.commit(0)  # as if it had been killed before

    again = new_host().start()
    kafka.send(clip, "another")
    again.until(lambda: kafka.committed() == 2, 90)
    assert len(tasks(again)) == 2


def test_kill_9_before_there_is_a_task_loses_no_message(new_host, kafka, clip):
    daemon = connected(new_host(QUEUE__MAX_QUEUED=1).start())
    daemon.http.post("/admin/pause")
    for message_id in ("one", "two", "three"):
        kafka.send(clip, message_id)
    daemon.until(lambda: "messages wait to become tasks" in str(daemon.health()["checks"]["broker"]), 60)
    daemon.kill()

    again = new_host(QUEUE__MAX_QUEUED=9).start()
    again.until(lambda: kafka.committed() == 3, 90)
    assert len(tasks(again)) == 3


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\xff\xfe no JSON", "malformed_json"),
        (b"", "malformed_json"),
        (None, "malformed_json"),
        (b'{"audio_path": "/etc/passwd"}', "invalid_field"),
    ],
)
def test_what_is_no_task_is_a_dead_letter_with_the_reason(new_host, kafka, clip, body, code):
    daemon = new_host().start()
    kafka.send(body, b"caf\xe9")
    kafka.send(clip, "good")

    ((dead, headers),) = kafka.told("whisperd.dead")

    assert (dead or b"", headers["code"]) == (body or b"", code.encode())
    assert headers["message_id"] == rb"caf\xe9"
    assert headers["message"]
    daemon.until(lambda: kafka.committed() == 2, 60)  # that which came behind it
    assert len(tasks(daemon)) == 1


def test_a_header_whose_name_is_not_utf_8_stops_nothing(new_host, kafka, clip):
    daemon = new_host().start()
    kafka.send_latin(clip, b"no JSON", clip)

    ((dead, headers),) = kafka.told("whisperd.dead")

    assert (dead, headers["code"]) == (b"no JSON", b"malformed_json")
    daemon.until(lambda: kafka.committed() == 3, 60)
    assert len(tasks(daemon)) == 2


def test_a_dead_letter_that_its_topic_does_not_take_goes_there_cut_and_holds_up_nothing(
    new_host, kafka, clip
):
    body = b"no JSON" * 9999
    kafka.send(body, "n" * 5000)
    kafka.send(clip)
    kafka.refuse_next()
    daemon = new_host().start()

    ((dead, headers),) = kafka.told("whisperd.dead")

    assert (len(dead), body.startswith(dead)) == (16384, True)
    assert headers["code"] == b"malformed_json"
    assert [headers[name] for name in ("topic", "partition", "offset", "body_bytes")] == [
        *(b"whisperd.tasks", b"0", b"0", str(len(body)).encode())
    ]
    assert headers["message_id"] == b"n" * 1000
    daemon.until(lambda: kafka.committed() == 2, 60)
    assert len(tasks(daemon)) == 1


def test_what_cannot_be_taken_now_is_kept_in_its_order(new_host, kafka, clip):
    daemon = connected(new_host(QUEUE__MAX_QUEUED=1).start())
    daemon.http.post("/admin/pause")
    for beam in (1, 2, 3):
        kafka.send(json.dumps({**json.loads(clip), "beam_size": beam}).encode())
    daemon.until(lambda: "messages wait to become tasks" in str(daemon.health()["checks"]["broker"]), 60)
    assert kafka.committed() == 1
    daemon.http.post("/admin/resume")

    daemon.until(lambda: kafka.committed() == 3, 120)
    by_age = sorted(tasks(daemon), key=lambda task: task["created_at"])
    assert len(by_age) == 3
    beams = daemon.rows("select json_extract(options, '$.beam_size') from task order by seq")
    assert [beam for (beam,) in beams] == [1, 2, 3]
    assert kafka.count("whisperd.dead") == 0
    connected(daemon)


def test_a_host_that_is_full_stays_in_its_group_and_goes_on_in_order_once_there_is_room(
    new_host, kafka, clip
):
    full = full_of_one(new_host, kafka, clip)
    refused, joined = refusals(full), kafka.asked(JOIN)

    full.until(lambda: refusals(full) >= refused + 9, 90)

    assert (kafka.asked(JOIN), kafka.asked(LEAVE)) == (joined, 0)
    full.http.post("/admin/resume")
    full.until(lambda: all(kafka.committed(part) == 1 for part in PARTITIONS), 120)
    assert len(tasks(full)) == len(PARTITIONS)


def test_what_a_host_could_not_take_for_long_another_takes(new_host, kafka, clip, monkeypatch):
    monkeypatch.setattr(lanes, "PATIENCE_SECONDS", 0)
    settings, paused = Brokers(url=kafka.url), []
    check(settings)
    kafka.send(clip)

    async def refuse(letter):
        return False

    def pause(least):
        paused.append(least)
        return least

    async def main():
        async with connected_to(settings) as way, asyncio.timeout(120):
            taking = asyncio.create_task(way.take(refuse, pause))
            while OUT_SECONDS not in paused:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            other = await asyncio.to_thread(new_host().start)
            await asyncio.to_thread(other.until, lambda: kafka.committed() == 1, 60)
            taking.cancel()

    asyncio.run(main())


def full_of_one(new_host, kafka, clip):
    """A host that cannot take what is in the other partitions."""
    full = connected(new_host("full", QUEUE__MAX_QUEUED=1).start())
    full.http.post("/admin/pause")
    for part in PARTITIONS:
        kafka.send(clip, f"in {part}", partition=part)
    full.until(lambda: "messages wait to become tasks" in str(full.health()["checks"]["broker"]), 60)
    return full


def refusals(daemon):
    return daemon.said_now().count('"route": "/tasks/transcription", "status": 503')


def test_while_the_broker_is_away_all_goes_on_and_is_told_later(new_host, kafka, jfk, clip):
    daemon = connected(new_host().start())
    kafka.away()
    daemon.until(lambda: is_degraded(daemon), 60)
    task_id = daemon.queued(jfk)
    assert daemon.finished(task_id)["status"] == "completed"
    kafka.back()

    ((body, _),) = kafka.told("whisperd.events")
    assert json.loads(body)["data"]["task_id"] == task_id
    kafka.send(clip, "one")
    daemon.until(lambda: kafka.committed() == 1, 120)
    connected(daemon)


def test_a_connection_that_is_lost_leaves_no_task_and_no_socket_behind(kafka):
    settings = Brokers(url=kafka.url)

    async def main():
        taken = asyncio.Event()

        async def settle(letter):
            taken.set()
            await asyncio.Event().wait()

        async def lose(way):
            await taken.wait()
            kafka.away()
            await way.tell("task.completed", b"x" * 2**20, "msg_1")

        async def work():
            async with connected_to(settings) as way, asyncio.TaskGroup() as group:
                for one in (way.watch(), way.take(settle, float), lose(way)):
                    group.create_task(one)

        before = len(sockets())
        with pytest.raises(ExceptionGroup) as raised:
            await work()
        assert raised.group_contains(BrokerAway)
        return len(sockets()) - before, asyncio.all_tasks() - {asyncio.current_task()}

    check(settings)
    kafka.send(b"{}")
    assert asyncio.run(main()) == (0, set())


@pytest.mark.parametrize("failing", [False, True])
def test_what_is_cut_off_with_its_task_on_the_disk_is_committed(kafka, clip, failing):
    settings = Brokers(url=kafka.url)
    check(settings)
    for part, body in enumerate((clip, *([b"fails"] if failing else []))):
        kafka.send(body, partition=part)

    cut_off_while_it_settles(connected_to(settings), failing)

    assert kafka.committed() == 1


def test_nothing_is_asked_for_that_is_not_committed(kafka, clip):
    settings = Brokers(url=kafka.url)
    check(settings)
    kafka.send(clip)

    async def main():
        asked = asyncio.get_running_loop().create_future()

        async def settle(letter):
            asked.set_result(way._consumer()._fetcher._isolation_level)
            await asyncio.Event().wait()

        async with connected_to(settings) as way, asyncio.timeout(60):
            taking = asyncio.create_task(way.take(settle, float))
            level = await asked
            taking.cancel()
        return level

    assert asyncio.run(main()) == READ_COMMITTED


def sockets():
    """Of this process."""
    found = []
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(one))
    return [what for what in found if what.startswith("socket:")]


def test_a_daemon_starts_without_its_broker(new_host, kafka, clip):
    kafka.send(clip, "one")
    kafka.away()
    daemon = new_host().start()
    assert is_degraded(daemon)
    kafka.back()

    daemon.until(lambda: kafka.committed() == 1, 120)
    assert len(tasks(daemon)) == 1
