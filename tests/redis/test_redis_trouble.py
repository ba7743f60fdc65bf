"""A Redis that is away, crashes, forgets or is cut off: what it made durable is not lost, or done twice."""

import contextlib
import threading
import time
from collections import Counter

import pytest

from benchmarks.listeners import silence
from tests.redis.conftest import over, until
from tests.redis.test_attacks import MOST_SECONDS, at_work, ends_of
from tests.relay import Relay

LOCK_SECONDS = 3  # as new_host sets them
pytestmark = pytest.mark.timeout(MOST_SECONDS)


@pytest.fixture
def away_seconds(request):
    """As issue 7 has it; else twice as long as a lock holds."""
    return 30 if request.config.getoption("--long") else 2 * LOCK_SECONDS


@pytest.fixture
def taking(new_host):
    """A host that takes requests and no jobs."""
    host = new_host().start()
    host.http.post("/admin/pause").raise_for_status()
    return host


@pytest.fixture
def relay(redis):
    relay = Relay(redis.port)
    try:
        yield relay
    finally:
        relay.close()


@pytest.fixture
def behind(new_host, relay):
    """A host that is to be cut off from Redis."""
    return new_host(REDIS__URL=f"redis://127.0.0.1:{relay.port}").start()


def passed(seconds):
    """Of Redis's own clock, which nobody can move."""
    ends = time.monotonic() + seconds
    until(lambda: time.monotonic() > ends, seconds + 30)


def refused(host, path):
    """Whether it says that it can accept nothing now, and when to come again."""
    answer = host.submit(path)
    return answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0


def is_done_here(host, task_id):
    return host.rows("select state from task where id = ?", task_id) == [("completed",)]


def test_a_redis_that_was_away_for_longer_than_locks_hold_costs_no_work(
    new_host, redis, node, submitted, minutes_of_speech, jfk, away_seconds
):
    hosts = new_host().start(), new_host().start()
    job_id = submitted(hosts[0], "away", minutes_of_speech(0.4))
    until(lambda: any(host.workers()[0]["task_id"] == "away" for host in hosts))
    redis.stop()
    assert all(refused(host, jfk) for host in hosts)
    passed(away_seconds)
    redis.start()

    job = over(node, job_id)

    assert (job["state"], job["attemptsStarted"]) == ("completed", 1)
    assert sum(len(host.rows("select 1 from task")) for host in hosts) == 1
    for host in hosts:
        until(lambda host=host: host.submit(jfk).status_code == 202)


def test_a_redis_that_takes_nothing_without_its_replicas_lets_nothing_in(taking, redis, jfk):
    redis.cli("config", "set", "min-replicas-to-write", 1)
    assert refused(taking, jfk)

    redis.cli("config", "set", "min-replicas-to-write", 0)

    until(lambda: taking.submit(jfk).status_code == 202)


@contextlib.contextmanager
def submitting(hosts, path):
    """While the block lasts, one client a host; yields the ids of what was acknowledged."""
    acknowledged, stop = [], threading.Event()

    def submit(host):
        while not stop.is_set():
            answer = host.submit(path)
            if answer.status_code == 202:
                acknowledged.append(answer.json()["task_id"])
            else:
                assert answer.status_code == 503, answer.text

    threads = [threading.Thread(target=submit, args=[host]) for host in hosts]
    for thread in threads:
        thread.start()
    try:
        yield acknowledged
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_what_was_acknowledged_around_crashes_of_redis_is_done_and_done_once(
    new_host, redis, rounds, tmp_path
):
    hosts = [new_host().start() for _ in range(2)]
    path = tmp_path / "silence.wav"
    path.write_bytes(silence())
    with submitting(hosts, path) as acknowledged:
        for _ in range(rounds):
            enough = len(acknowledged) + 10
            until(lambda enough=enough: len(acknowledged) >= enough, 90)
            redis.kill()
            redis.start()

    until(lambda: hosts[0].http.get("/tasks").is_success)  # for a moment it may still say 503
    assert {hosts[0].finished(task_id, 300)["status"] for task_id in acknowledged} == {"completed"}
    done = Counter(task_id for host in hosts for (task_id,) in host.rows("select id from task"))
    assert [done[task_id] for task_id in acknowledged] == [1] * len(acknowledged)


def test_a_redis_that_comes_back_empty_is_told_what_waits_and_what_is_at_work(
    taking, new_host, redis, node, submitted, minutes_of_speech, jfk
):
    worker = new_host().start()
    theirs = submitted(worker, "theirs", minutes_of_speech(1.4), priority=1)
    at_work(worker, "theirs")
    waiting = [taking.queued(jfk, priority=n) for n in (3, 9)]
    redis.stop()
    redis.forget()
    redis.start()

    until(lambda: all(node.look(job_id) for job_id in (theirs, *waiting)))
    assert [node.look(job_id)["priority"] for job_id in waiting] == [8, 2]
    for job_id in (theirs, *waiting):
        job = over(node, job_id)
        assert (job["state"], job["attemptsStarted"]) == ("completed", 1)
        assert ends_of(node, job_id) == ["completed"]
    assert node.look(theirs)["returnvalue"]["s3ResultUrl"] == "shared://results/theirs.json"
    until(lambda: taking.rows("select count(*) from submitted") == [(0,)])


def test_a_host_behind_a_network_that_drops_all_packets_says_so_and_tells_later_what_it_did(
    behind, relay, node, submitted, minutes_of_speech, jfk
):
    job_id = submitted(behind, "cut-off", minutes_of_speech(0.4))
    at_work(behind, "cut-off")
    relay.drop()

    assert refused(behind, jfk)  # before anybody knew
    assert behind.health()["checks"]["redis"]["status"] == "degraded"
    behind.until(lambda: is_done_here(behind, "cut-off"), 60)
    assert node.look(job_id)["state"] == "active"
    relay.pass_on()

    assert over(node, job_id)["state"] == "completed"
    assert ends_of(node, job_id) == ["completed"]
    until(lambda: behind.rows("select count(*) from job") == [(0,)])
    assert behind.submit(jfk).status_code == 202


def test_what_a_host_was_at_when_it_was_cut_off_is_finished_by_another_and_told_once(
    behind, relay, taking, node, submitted, minutes_of_speech
):
    job_id = submitted(behind, "taken", minutes_of_speech(1.4))
    at_work(behind, "taken")
    relay.drop()
    taking.http.post("/admin/resume").raise_for_status()

    job = over(node, job_id)
    relay.pass_on()
    behind.until(lambda: behind.rows("select count(*) from job") == [(0,)])

    assert (job["state"], job["attemptsStarted"]) == ("completed", 2)
    assert ends_of(node, job_id) == ["completed"]
    assert node.look(job_id)["finishedOn"] == job["finishedOn"]
    assert taking.task("taken")["status"] == behind.task("taken")["status"] == "completed"
