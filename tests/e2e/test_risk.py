"""Risk detection by a real daemon: its process is killed, it is killed itself, rules want to hang it."""

import json
import os
import signal

FRAUD = "Please install AnyDesk so I can fix your computer."
JFK_RULE = {
    "id": "mine.country",
    "title": "Names the country",
    "category": "custom",
    "severity": "high",
    "score": 0.5,
    "match": "country",
}


def detect(daemon, **fields):
    answer = daemon.http.post("/tasks/risk-detection", json=fields)
    assert answer.status_code == 202, answer.text
    return answer.json()["task_id"]


def searchers(daemon):
    """The processes of the daemon that search."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                words = file.read().split("\0")
            with open(f"/proc/{pid}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if "whisperd.risk_worker" in words and parent == daemon.process.pid:
            found.append(pid)
    return found


def test_what_was_said_in_real_audio_is_found_at_its_place(new_daemon, jfk):
    daemon = new_daemon().start()
    with open(jfk, "rb") as file:
        answer = daemon.http.post(
            "/tasks/risk-detection",
            files={"file": ("jfk.wav", file)},
            data={"rules": json.dumps([JFK_RULE])},
        )
    task = daemon.finished(answer.json()["task_id"])
    result = daemon.get(f"/tasks/{task['task_id']}/result")

    assert task["status"] == "completed", task
    assert [finding["text"] for finding in result["findings"]] == ["country", "country"]
    assert 0 <= result["findings"][0]["start"] < result["findings"][1]["start"] <= 11.0
    assert daemon.get(f"/tasks/{task['transcript_task_id']}/risk") == {**result, "redactable": True}


def test_after_kill_9_in_the_midst_of_a_search_it_is_done_again(new_daemon):
    daemon = new_daemon().start()
    daemon.finished(detect(daemon, text="Hello."))
    (pid,) = searchers(daemon)
    os.kill(pid, signal.SIGSTOP)
    task_id = detect(daemon, text=FRAUD)
    daemon.until(lambda: daemon.task(task_id)["status"] == "processing")
    daemon.kill()
    daemon.until(lambda: not os.path.exists(f"/proc/{pid}"), 5)  # it has died with the daemon
    daemon.start()
    task = daemon.finished(task_id)

    assert (task["status"], task["attempt"]) == ("completed", 2)
    assert daemon.get(f"/tasks/{task_id}/result")["risk"]["level"] == "high"


def test_rules_that_would_hang_it_are_killed_and_cost_nothing_else(new_daemon, jfk):
    """A process that never answers stands for whatever rules may do."""
    daemon = new_daemon(RISK__MAX_SECONDS=1).start()
    daemon.finished(detect(daemon, text="Hello."))
    (pid,) = searchers(daemon)
    os.kill(pid, signal.SIGSTOP)
    hung = daemon.finished(detect(daemon, text=FRAUD))
    transcription = daemon.finished(daemon.queued(jfk, risk="true"))

    assert (hung["status"], hung["error"]["code"]) == ("failed", "rules_too_slow")
    assert transcription["status"] == "completed"
    assert daemon.troubles() == []


PACK = """name = "acme"
version = 1
title = "ACME"
[[rule]]
id = "acme.cancel"
title = "Cancels"
category = "custom"
severity = "medium"
score = 0.5
match = {match}
"""


def test_packs_are_read_anew_and_a_broken_one_stays_as_it_was(new_daemon):
    daemon = new_daemon()
    pack = daemon.data / "rules" / "acme.toml"
    pack.parent.mkdir(parents=True)
    pack.write_text(PACK.format(match='"cancel"'))
    daemon.start()
    daemon.finished(detect(daemon, text="I cancel.", packs=["acme"]))  # it is in force
    pack.write_text(PACK.format(match="3"))
    daemon.process.send_signal(signal.SIGHUP)
    health = daemon.until(lambda: (check := daemon.health()["checks"]["rules"])["status"] != "ok" and check)
    task = daemon.finished(detect(daemon, text="I cancel.", packs=["acme"]))

    assert "acme.toml:10: rule[0].match" in health["message"]
    assert str(pack.parent) not in health["message"]
    assert "acme.toml:10: rule[0].match" in daemon.said()
    assert [f["rule_id"] for f in daemon.get(f"/tasks/{task['task_id']}/result")["findings"]] == [
        "acme.cancel"
    ]
    pack.write_text(PACK.format(match='"cancel"'))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until(lambda: daemon.health()["checks"]["rules"]["status"] == "ok")
