"""Hosts that die or hang, and a Redis that goes away: nothing is lost, and nothing is told twice."""

import os
import signal

import pytest

from tests.redis.conftest import over, until

MOST_SECONDS = 1200  # of a long form


def at_work(host, task_id):
    host.until(lambda: host.workers()[0]["task_id"] == task_id, 60)


def half_done(host, task_id):
    """Once a chunk of it is done, and others are not."""
    host.until(lambda: host.http.get(f"/tasks/{task_id}").json().get("progress", 0) > 0, 60)


@pytest.fixture
def pair(new_host):
    """A host that works, and one that does not yet."""
    first, second = new_host().start(), new_host().start()
    second.http.post("/admin/pause").raise_for_status()
    return first, second


def ends_of(node, job_id):
    """What was heard of its end, once anything was."""
    ends = ("completed", "failed")
    return until(lambda: [kind for kind, job, _ in node.heard() if job == job_id and kind in ends])


def stored(host, task_id):
    """The numbers of its chunks that another host would find."""
    files = (host.shared / "checkpoints" / task_id).glob("*/[1-9]*")
    return {int(file.name) for file in files if file.name.isdigit()}


def chunks_of(host, task_id, condition):
    sql = "select number from chunk where number > 0 and task = (select seq from task where id = ?)"
    return {number for (number,) in host.rows(f"{sql} and {condition}", task_id)}


@pytest.mark.timeout(MOST_SECONDS)
def test_what_kill_9_left_is_finished_by_another_host_from_the_last_chunk(
    pair, node, submitted, rounds, minutes_of_speech
):
    first, second = pair
    speech = minutes_of_speech(1.4)
    for name in (f"killed-{n}" for n in range(rounds)):
        job_id = submitted(first, name, speech)
        until(lambda name=name: stored(first, name), 60)
        first.kill()
        done, heard = stored(first, name), second.workers()[0]["chunks_done"]
        second.http.post("/admin/resume").raise_for_status()

        job = over(node, job_id)

        assert job["state"] == "completed"
        assert job["attemptsStarted"] == 2
        assert ends_of(node, job_id) == ["completed"]
        assert chunks_of(second, name, "worker is null") == done  # taken over, and not heard again
        new = chunks_of(second, name, "worker is not null")
        assert new
        assert second.workers()[0]["chunks_done"] - heard == len(new)
        until(lambda name=name: not (first.shared / "checkpoints" / name).exists())
        second.http.post("/admin/pause").raise_for_status()
        first.start()


@pytest.mark.timeout(MOST_SECONDS)
def test_a_host_that_hung_for_longer_than_its_lock_tells_nothing_of_what_another_has_done(
    pair, node, submitted, rounds
):
    first, second = pair
    for name in (f"hung-{n}" for n in range(rounds)):
        job_id = submitted(first, name)
        at_work(first, name)
        os.kill(first.process.pid, signal.SIGSTOP)
        second.http.post("/admin/resume").raise_for_status()
        job = over(node, job_id)
        second.http.post("/admin/pause").raise_for_status()
        written = (first.shared / "results" / name).stat().st_mtime_ns
        assert first.rows("select count(*) from job") == [(1,)]
        os.kill(first.process.pid, signal.SIGCONT)
        first.until(lambda: first.rows("select count(*) from job") == [(0,)])

        assert job["state"] == "completed"
        assert ends_of(node, job_id) == ["completed"]
        assert node.look(job_id)["finishedOn"] == job["finishedOn"]
        assert (first.shared / "results" / name).stat().st_mtime_ns == written
        assert first.task(name)["status"] == "completed"


def test_what_ended_while_redis_was_away_is_told_when_it_is_back(new_host, node, submitted, redis):
    host = new_host().start()
    job_id = submitted(host, "away")
    at_work(host, "away")
    redis.stop()

    host.until(lambda: host.rows("select state from task where id = 'away'") == [("completed",)], 60)
    health = until(lambda: (found := host.health())["checks"]["redis"]["status"] == "degraded" and found)
    assert health["status"] == "degraded"
    redis.start()

    assert over(node, job_id)["state"] == "completed"
    until(lambda: host.health()["checks"]["redis"]["status"] == "ok")
    assert host.rows("select count(*) from job") == [(0,)]


def test_what_is_owed_is_told_after_a_restart_of_the_host_too(new_host, node, submitted, redis):
    host = new_host().start()
    job_id = submitted(host, "owed")
    at_work(host, "owed")
    redis.stop()
    host.until(lambda: host.rows("select state from task where id = 'owed'") == [("completed",)], 60)
    host.kill()

    host.start()
    redis.start()

    assert over(node, job_id)["state"] == "completed"
    assert host.task("owed")["attempt"] == 1


def test_a_host_that_starts_again_goes_on_with_what_it_had_begun(
    new_host, node, submitted, minutes_of_speech
):
    host = new_host(REDIS__LOCK_SECONDS=30).start()
    job_id = submitted(host, "resumed", minutes_of_speech(0.8))
    half_done(host, "resumed")
    done = host.task("resumed")["progress"]
    host.kill()

    host.start()

    assert host.task("resumed")["progress"] >= done
    assert over(node, job_id)["attemptsStarted"] == 1


def test_a_redis_that_has_lost_its_data_stops_nothing_that_runs(
    new_host, redis, submitted, minutes_of_speech
):
    host = new_host().start()
    submitted(host, "forgotten", minutes_of_speech(0.8))
    host.until(lambda: host.workers()[0]["task_id"] == "forgotten")
    redis.stop()
    redis.forget()
    redis.start()

    assert host.finished("forgotten")["status"] == "completed"
    host.until(lambda: host.rows("select count(*) from job") == [(0,)])
    assert (host.shared / "results" / "forgotten").exists()


def test_what_was_cancelled_on_another_host_that_died_of_it_is_not_run(
    pair, node, submitted, minutes_of_speech
):
    first, second = pair
    job_id = submitted(first, "unwanted", minutes_of_speech(0.8))
    first.until(lambda: first.workers()[0]["task_id"] == "unwanted")
    first.kill()

    assert second.http.delete("/tasks/unwanted").json()["status"] == "cancelled"
    second.http.post("/admin/resume").raise_for_status()

    assert over(node, job_id)["failedReason"] == "cancelled"
    assert second.rows("select count(*) from task") == [(0,)]
