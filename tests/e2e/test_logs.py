"""What a real daemon says about its work, and what it never says."""

import json
import os
import re
import signal

SECRETS = {
    "key": None,  # made in the test
    "prompt": "Tin Drum Heptagon",
    "metadata": "metadata-swordfish",
    "name": "private-holiday.wav",
    "transcript": "fellow Americans",
    "query": "looked-for-words",
}


def lines(daemon):
    return [json.loads(line) for line in daemon.said_now().splitlines() if line.startswith("{")]


def test_a_task_can_be_followed_from_its_request_through_its_workers(new_daemon, jfk):
    daemon = new_daemon(LOGGING__LEVEL="debug", WORKERS__COUNT=1).start()
    answer = daemon.submit(jfk)
    task = answer.json()["task_id"]
    daemon.finished(task)
    daemon.get("/health")
    daemon.until(lambda: any(line.get("route") == "/health" for line in lines(daemon)))
    requests = [line for line in lines(daemon) if line["event"] == "request"]

    submitted = next(line for line in requests if line["route"] == "/tasks/transcription")
    assert submitted["request_id"] == answer.headers["x-request-id"]
    assert (submitted["task_id"], submitted["status"], submitted["method"]) == (task, 202, "POST")
    assert submitted["ms"] > 0
    looked = [line for line in requests if line["route"] == "/tasks/{task_id}"]
    assert {line["task_id"] for line in looked} == {task}
    assert len({line["request_id"] for line in requests}) == len(requests)
    assert {line["level"] for line in requests if line["route"] == "/health"} == {"debug"}


def test_what_a_worker_dies_of_is_told_with_the_task(new_daemon, jfk):
    daemon = new_daemon(WORKERS__COUNT=1, QUEUE__RETRY_DELAY_MS=0).start()
    task = daemon.queued(jfk)
    daemon.until(lambda: daemon.workers()[0]["task_id"] == task)
    os.kill(daemon.worker_pids()[0], signal.SIGKILL)
    daemon.finished(task)
    told = [line for line in lines(daemon) if line["event"] in ("worker died", "last words of the worker")]

    assert [line["task_id"] for line in told] == [task, task]
    assert not [line for line in lines(daemon) if line["event"] == "request" and line.get("chunk")]


def test_neither_secrets_nor_what_people_say_stand_in_any_log(new_daemon, jfk, tmp_path):
    folder = tmp_path / "logs"
    daemon = new_daemon(LOGGING__LEVEL="debug", LOGGING__DIR=folder, WORKERS__COUNT=1).start()
    made = daemon.http.post("/admin/keys", json={"scopes": ["admin"]})
    assert made.status_code in (200, 201), made.text
    key = made.json()["key"]
    headers = {"Authorization": f"Bearer {key}"}
    with open(jfk, "rb") as file:
        answer = daemon.http.post(
            "/tasks/transcription",
            headers=headers,
            files={"file": (SECRETS["name"], file)},
            data={"prompt": SECRETS["prompt"], "metadata": json.dumps({"secret": SECRETS["metadata"]})},
        )
    assert answer.status_code == 202, answer.text
    task = answer.json()["task_id"]
    daemon.http.get("/tasks", params={"q": SECRETS["query"]}, headers=headers)
    daemon.http.get(f"/tasks/{SECRETS['query']}", headers=headers)
    daemon.http.get("/tasks", params={"key": key})
    daemon.until(
        lambda: daemon.http.get(f"/tasks/{task}", headers=headers).json()["status"] == "completed", 90
    )
    text = daemon.http.get(f"/tasks/{task}/result?format=text", headers=headers).text
    assert SECRETS["transcript"] in text
    assert daemon.stop() == 0
    said = daemon.said() + "".join(path.read_text() for path in folder.iterdir())

    assert re.search(r'"event": *"request"', said)
    for what, secret in {**SECRETS, "key": key}.items():
        assert secret not in said, what


def test_the_file_has_what_standard_error_has_and_ends_with_the_last_line(new_daemon, tmp_path):
    folder = tmp_path / "logs"
    daemon = new_daemon(LOGGING__DIR=folder, WORKERS__COUNT=1).start()
    assert daemon.stop() == 0

    written = [json.loads(line) for line in (folder / "whisperd.log").read_text().splitlines()]
    said = lines(daemon)
    for line in (*written, *said):
        del line["timestamp"]  # of each handler's own
    assert written == said
    assert "stopping" in {line["event"] for line in written}
