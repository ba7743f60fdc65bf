"""The longest file of the hostile corpus, 25 minutes of speech, by /tasks and by /v1.

The ordinary run sees that both take it and that its first words come; with --long it is done, too.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.daemon import serving
from tests.e2e.test_first_slice import words
from tests.e2e.test_hostile import LONG, V1
from tests.reliability.sizes import with_long

SECONDS = 1500
pytestmark = pytest.mark.timeout(400)
WORDS = 3000  # that are said in it, at least


@pytest.fixture
def file(corpus):
    return corpus / "hostile" / LONG


@pytest.fixture
def daemon(tmp_path, weights):
    with serving(tmp_path / "daemon", weights, CACHE__ENABLED=True) as daemon:
        yield daemon


def test_tasks_takes_25_minutes_of_speech_and_begins_at_once(daemon, file):
    task_id = daemon.queued(file, beam_size="1")
    partial = f"/tasks/{task_id}/result?format=text&partial=true"
    said = daemon.until(lambda: daemon.http.get(partial).text.strip(), 240)
    task = daemon.task(task_id)

    assert "printing" in said.lower()
    assert (task["status"], task["error"]) == ("processing", None)
    assert task["audio"]["duration"] == pytest.approx(SECONDS, abs=1)
    assert 0 < task["progress"] < 1


def test_v1_takes_25_minutes_of_speech_and_begins_at_once(daemon, file):
    form = {"stream": "true", "beam_size": "1"}
    with (
        open(file, "rb") as sound,
        daemon.http.stream("POST", V1, files={"file": sound}, data=form, timeout=240) as answer,
    ):
        event = next(line for line in answer.iter_lines() if line.startswith("data: "))

    assert answer.status_code == 200
    assert "printing" in json.loads(event.removeprefix("data: "))["delta"].lower()


@with_long
@pytest.mark.timeout(3700)
def test_25_minutes_of_speech_are_done_once_for_both(daemon, file):
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(by_v1, daemon, file)
        daemon.until(lambda: daemon.get("/stats")["total"])
        task_id = daemon.queued(file, beam_size="1")
        task = daemon.finished(task_id, 3600)
        answer = asked.result(3600)
    said = words(daemon.result(task_id))

    assert (task["status"], answer.status_code) == ("completed", 200)
    assert words(answer.json()["text"]) == said
    assert len(said) > WORDS


def by_v1(daemon, file):
    with open(file, "rb") as sound:
        return daemon.http.post(V1, files={"file": sound}, data={"beam_size": "1"}, timeout=3600)
