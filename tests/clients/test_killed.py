"""Clients killed while they wait: started again they join their task; gone for good, it is cancelled."""

import contextlib
import itertools
import json
import subprocess
import sys
import wave

import pytest

from tests.clients import expected
from tests.clients.installed import environment, openai_client
from tests.e2e.daemon import serving

BAZARR = """
import sys, requests
files = {"audio_file": open(sys.argv[2], "rb")}
print(requests.post(sys.argv[1] + "/asr?output=txt", files=files, timeout=(10, 100)).text)
"""
LENGTHS = itertools.count(1)  # of silence, in samples
CLIENTS = ["openai-3", "openai", "curl", "bazarr"]
pytestmark = pytest.mark.timeout(240)


def command(client, daemon, path):
    match client:
        case "curl":
            form = ["-F", f"file=@{path}", "-F", "model=whisper-1", "-F", "response_format=text"]
            return ["curl", "-sS", *form, f"{daemon.url}/v1/audio/transcriptions"]
        case "bazarr":
            return [sys.executable, "-c", BAZARR, daemon.url, path]
        case _:
            return [*openai_client(client), daemon.url, "any", path, "json"]


def text_of(client, said):
    return json.loads(said)["json"]["answer"]["text"] if client.startswith("openai") else said


@contextlib.contextmanager
def asking(client, daemon, path):
    """The client in a process of its own."""
    words = [str(word) for word in command(client, daemon, path)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**environment(), "NO_PROXY": "*"}
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def killed_while_it_waits(client, daemon, path):
    """The client gets as far as a task of its own, which no worker has begun. Returns the task's id."""
    daemon.http.post("/admin/pause").raise_for_status()
    before = ids(daemon)
    with asking(client, daemon, path) as process:
        daemon.until(lambda: ids(daemon) - before, 60)
        process.kill()
    (task_id,) = ids(daemon) - before
    return task_id


def ids(daemon):
    return {task["task_id"] for task in daemon.get("/tasks", limit=500)["tasks"]}


def decoded(daemon, task_id):
    """How often a worker was given a chunk of the task."""
    asked = "select sum(claims) from chunk where task = (select seq from task where id = ?) and number > 0"
    return daemon.rows(asked, task_id)[0][0] or 0


@pytest.fixture(scope="module")
def patient(tmp_path_factory, weights):
    with serving(tmp_path_factory.mktemp("patient"), weights, CACHE__ENABLED=True) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def hasty(tmp_path_factory, weights):
    """It takes a client for gone that has been away for a moment."""
    with serving(tmp_path_factory.mktemp("hasty"), weights, HTTP__ABANDONED_SECONDS="0.2") as daemon:
        yield daemon


@pytest.fixture
def clip(tmp_path, jfk):
    """The clip of the tests, with a little silence behind it that no other test's clip has."""
    with wave.open(str(jfk)) as source, wave.open(str(tmp_path / "clip.wav"), "wb") as target:
        target.setparams(source.getparams())
        target.writeframes(source.readframes(source.getnframes()) + bytes(2 * next(LENGTHS)))
    return tmp_path / "clip.wav"


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_killed_and_started_again_makes_the_work_be_done_once(patient, clip, client):
    before = ids(patient)
    task_id = killed_while_it_waits(client, patient, clip)
    with asking(client, patient, clip) as process:
        patient.http.post("/admin/resume").raise_for_status()
        said, _ = process.communicate(timeout=200)

    assert expected.says_jfk(text_of(client, said))
    assert ids(patient) - before == {task_id}
    assert patient.task(task_id)["status"] == "completed"
    assert decoded(patient, task_id) == 1


@pytest.mark.parametrize("client", ["openai-3", "openai"])
def test_a_daemon_killed_under_a_client_does_the_work_once_for_its_retry(patient, clip, client):
    before = ids(patient)
    killed_while_it_waits(client, patient, clip)
    patient.kill()
    patient.start()  # which goes on with the task
    with asking(client, patient, clip) as process:
        said, _ = process.communicate(timeout=200)
    patient.all_over()

    assert expected.says_jfk(text_of(client, said))
    assert sum(decoded(patient, one) for one in ids(patient) - before) == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_killed_for_good_has_its_task_cancelled(hasty, clip, client):
    task_id = killed_while_it_waits(client, hasty, clip)

    hasty.until(lambda: hasty.task(task_id)["status"] == "cancelled", 60)
    assert decoded(hasty, task_id) == 0
