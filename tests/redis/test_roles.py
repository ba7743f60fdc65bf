"""Hosts with a part of the work: some answer, some transcribe, and one that goes hands back what it has."""

import subprocess
import sys

import pytest

from tests.e2e.test_first_slice import JFK, words
from tests.redis.conftest import over, until


@pytest.fixture
def drain(new_host):
    """`whisperd drain`, for one host."""

    def run(host, *options):
        command = [sys.executable, "-P", "-m", "whisperd", "drain", "--url", host.url, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    return run


def waits(node, job_id):
    return node.look(job_id)["state"] in ("prioritized", "delayed")


def test_a_host_that_only_answers_needs_no_model_and_has_others_do_its_tasks(new_host, tmp_path, jfk):
    api = new_host(REDIS__ROLE="api")
    api.models = tmp_path / "none"
    api.start()
    worker = new_host(REDIS__ROLE="worker").start()

    task_id = api.queued(jfk, model="tiny.en")

    assert api.finished(task_id)["status"] == "completed"
    assert words(api.result(task_id)) == words(JFK)
    assert api.workers() == []
    until(lambda: worker.get("/stats")["completed"] == 1)


def test_each_role_is_ready_and_answers_only_for_its_part(new_host):
    api, worker = new_host(REDIS__ROLE="api").start(), new_host(REDIS__ROLE="worker").start()

    for host in (api, worker):
        assert host.http.get("/health/ready").status_code == 200, host.http.get("/health").text
        assert host.troubles() == []
        assert host.http.get("/metrics").status_code == 200
    assert api.get("/tasks") == {"tasks": [], "next_cursor": None}
    assert worker.http.get("/tasks").status_code == 404
    assert worker.http.post("/tasks/transcription").status_code == 404


@pytest.mark.parametrize("role", ["api", "worker"])
def test_a_role_without_a_shared_queue_is_refused(new_host, role):
    host = new_host(REDIS__ROLE=role, REDIS__URL="")

    status, said = host.refused()

    assert status == 1
    assert f"the role {role} is one among hosts that share a queue: set redis.url" in said


def test_a_host_that_only_answers_from_now_on_hands_back_what_it_had_taken(
    new_host, node, submitted, minutes_of_speech
):
    host = new_host(REDIS__LOCK_SECONDS=60)
    host.start()
    job_id = submitted(host, "long", minutes_of_speech(2))
    until(lambda: host.get("/stats")["processing"] == 1)
    host.kill()

    host.environment["WHISPERD_REDIS__ROLE"] = "api"
    host.start()

    assert until(lambda: waits(node, job_id))
    assert host.rows("select count(*) from task") == [(0,)]


def test_a_drained_host_finishes_what_runs_and_hands_back_what_nobody_began(
    new_host, node, submitted, drain, minutes_of_speech
):
    host = new_host(WORKERS__COUNT=2).start()
    running = submitted(host, "long", minutes_of_speech(3), priority=1)
    until(lambda: all(worker["state"] == "busy" for worker in host.workers()))  # it is planned
    waiting = submitted(host, "short", priority=5)  # behind all of the other's chunks
    until(lambda: host.rows("select 1 from task where id = 'short'"))

    drained = drain(host, "--timeout", "90")

    assert (drained.returncode, drained.stdout) == (0, "drained\n"), drained.stderr
    assert node.look(running)["state"] == "completed"
    assert host.http.get("/health/ready").status_code == 503
    assert waits(node, waiting)
    assert host.rows("select id from task") == [("long",)]


def test_a_host_without_time_hands_back_what_runs_and_another_does_it(
    new_host, node, submitted, drain, minutes_of_speech
):
    host = new_host().start()
    job_id = submitted(host, "long", minutes_of_speech(1))
    until(lambda: host.get("/stats")["processing"] == 1)

    assert drain(host, "--timeout", "0").returncode == 0
    assert waits(node, job_id)
    assert host.rows("select count(*) from job") == [(0,)]

    new_host().start()
    assert over(node, job_id)["state"] == "completed"
    assert node.look(job_id)["attemptsMade"] <= 1


def test_a_paused_host_hands_back_what_it_had_begun(new_host, node, submitted, drain, minutes_of_speech):
    host = new_host().start()
    job_id = submitted(host, "long", minutes_of_speech(2))
    until(lambda: host.get("/stats")["processing"] == 1)
    host.http.post("/admin/pause").raise_for_status()

    drained = drain(host)

    assert (drained.returncode, drained.stdout) == (0, "drained\n"), drained.stderr
    assert waits(node, job_id)
    assert host.rows("select count(*) from task") == [(0,)]


def test_tasks_from_before_do_not_keep_a_host_that_only_answers_from_being_drained(
    new_host, redis, drain, jfk
):
    host = new_host(REDIS__URL="").start()
    host.http.post("/admin/pause").raise_for_status()
    task_id = host.queued(jfk)
    host.stop()

    host.environment |= {"WHISPERD_REDIS__URL": redis.url, "WHISPERD_REDIS__ROLE": "api"}
    host.start()

    assert drain(host).stdout == "drained\n"
    assert host.task(task_id)["status"] == "queued"


def test_a_drained_host_still_accepts_for_the_others_and_takes_work_again(new_host, drain, jfk):
    host = new_host().start()
    assert drain(host).returncode == 0

    task_id = host.queued(jfk)
    assert host.task(task_id)["status"] == "queued"

    assert drain(host, "--off").stdout == "takes work again\n"
    assert host.finished(task_id)["status"] == "completed"
