"""One queue, whichever host is asked: submitted here, done there, answered for by both."""

import json
import threading

import pytest

from tests.e2e.test_first_slice import JFK, words
from tests.redis.conftest import over, until


@pytest.fixture
def paused(new_host):
    """A host that takes requests and no jobs."""
    host = new_host().start()
    host.http.post("/admin/pause").raise_for_status()
    return host


@pytest.fixture
def worker(new_host):
    return new_host().start()


def test_what_is_submitted_to_one_host_is_done_by_another_and_shown_by_both(paused, worker, jfk):
    task_id = paused.queued(jfk, priority=3, tenant="acme", metadata=json.dumps({"mine": 1}))

    task = paused.finished(task_id)

    assert task["status"] == "completed"
    assert (task["priority"], task["tenant"], task["metadata"]) == (3, "acme", {"mine": 1})
    assert task["audio"]["duration"] == 11.0
    assert words(paused.result(task_id)) == words(JFK)
    assert paused.result(task_id, "srt") == worker.result(task_id, "srt")
    assert paused.result(task_id, "verbose_json") == worker.result(task_id, "verbose_json")
    assert worker.task(task_id)["status"] == "completed"
    assert paused.rows("select count(*) from task") == [(0,)]
    assert paused.spool() == []


def test_node_sees_what_whisperd_submits_and_can_do_it(paused, node, jfk):
    task_id = paused.queued(jfk, priority=10)
    job = node.look(task_id)
    assert job["priority"] == 1
    assert job["data"]["audio"]["bytes"] == jfk.stat().st_size

    node.work({"result_url": "https://elsewhere.example/1", "words": 1})

    assert paused.finished(task_id)["status"] == "completed"
    assert node.look(task_id)["returnvalue"]["saw"]["task_id"] == task_id
    node.end()


def test_an_openai_client_is_answered_with_what_another_host_has_done(paused, worker, jfk):
    with open(jfk, "rb") as file:
        answer = paused.http.post(
            "/v1/audio/transcriptions", files={"file": file}, data={"model": "whisper-1"}, timeout=90
        )

    assert answer.status_code == 200, answer.text
    assert words(answer.json()["text"]) == words(JFK)


def test_who_waits_for_a_job_by_the_id_that_bullmq_gave_it_hears_of_its_end(paused, worker, submitted):
    job_id = submitted(worker, "cm3-mine", delay=1500)

    for host in (paused, worker):
        answer = host.http.get(f"/tasks/{job_id}", params={"wait": 20}, timeout=60)

        assert (answer.json()["task_id"], answer.json()["status"]) == ("cm3-mine", "completed")


def test_a_task_that_waits_is_cancelled_at_once_and_runs_again_when_retried(paused, new_host, node, jfk):
    task_id = paused.queued(jfk)

    assert paused.http.delete(f"/tasks/{task_id}").json()["status"] == "cancelled"
    assert paused.http.delete(f"/tasks/{task_id}").status_code == 409
    assert node.look(task_id)["state"] == "failed"
    assert node.look(task_id)["failedReason"] == "cancelled"
    assert paused.http.post(f"/tasks/{task_id}/retry").json()["status"] == "queued"

    new_host().start()
    assert paused.finished(task_id)["status"] == "completed"


def test_a_task_at_work_on_another_host_is_stopped_there(paused, worker, node, minutes_of_speech):
    task_id = paused.queued(minutes_of_speech(2))
    worker.until(lambda: worker.workers()[0]["task_id"] == task_id)

    assert paused.http.delete(f"/tasks/{task_id}").json()["status"] == "cancelled"

    worker.until(lambda: worker.task(task_id)["status"] == "cancelled", 10)
    worker.until(lambda: worker.workers()[0]["task_id"] is None)
    assert over(node, task_id)["failedReason"] == "cancelled"


def test_a_list_is_of_all_hosts_newest_first_in_pages(paused, node, jfk):
    ids = [paused.queued(jfk, tenant=f"t{n % 2}") for n in range(5)]
    paused.http.delete(f"/tasks/{ids[0]}").raise_for_status()

    first = paused.get("/tasks", limit=2)
    second = paused.get("/tasks", limit=2, cursor=first["next_cursor"])
    third = paused.get("/tasks", limit=2, cursor=second["next_cursor"])

    assert [task["task_id"] for page in (first, second, third) for task in page["tasks"]] == ids[::-1]
    assert third["next_cursor"] is None
    assert [task["task_id"] for task in paused.get("/tasks", status="cancelled")["tasks"]] == ids[:1]
    assert [task["task_id"] for task in paused.get("/tasks", tenant="t1")["tasks"]] == [ids[3], ids[1]]


def test_an_idempotency_key_holds_on_every_host(paused, new_host, jfk, minutes_of_speech):
    other = new_host().start()
    other.http.post("/admin/pause").raise_for_status()

    def sent(host, path):
        with open(path, "rb") as file:
            return host.http.post(
                "/tasks/transcription", files={"file": file}, headers={"Idempotency-Key": "k1"}
            )

    first, again, another = sent(paused, jfk), sent(other, jfk), sent(other, minutes_of_speech(0.2))

    assert (first.status_code, again.status_code, another.status_code) == (202, 200, 422)
    assert again.json()["task_id"] == first.json()["task_id"]


def test_the_priority_of_a_waiting_task_can_be_changed(paused, node, jfk):
    task_id = paused.queued(jfk)

    answer = paused.http.patch(f"/tasks/{task_id}", json={"priority": 7})

    assert answer.json()["priority"] == 7
    assert node.look(task_id)["priority"] == 4
    assert paused.http.patch(f"/tasks/{task_id}", json={"metadata": {}}).status_code == 409


def test_a_redis_that_is_away_lets_nothing_in_and_leaves_nothing_behind(paused, redis, jfk):
    task_id = paused.queued(jfk)
    redis.stop()
    until(lambda: paused.health()["checks"]["redis"]["status"] == "degraded")

    answer = paused.submit(jfk)

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "queue_away"
    assert int(answer.headers["Retry-After"]) > 0
    assert paused.http.get(f"/tasks/{task_id}").status_code == 503
    assert paused.spool() == []
    redis.start()
    # Not by /health: that nobody takes what waits here is a trouble, too.
    until(lambda: paused.http.get(f"/tasks/{task_id}").status_code == 200)
    assert paused.task(task_id)["status"] == "queued"
    assert paused.submit(jfk).status_code == 202


def test_who_listens_hears_of_what_another_host_does(paused, worker, jfk):
    task_id = paused.queued(jfk)
    heard = []

    def listen():
        with paused.http.stream("GET", f"/tasks/{task_id}/events", timeout=90) as answer:
            heard.extend(line for line in answer.iter_lines() if line.startswith("data:"))

    listening = threading.Thread(target=listen)
    listening.start()
    listening.join(90)

    assert json.loads(heard[-1].removeprefix("data:"))["status"] == "completed"
