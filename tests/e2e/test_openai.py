"""OpenAI's own client for Python where there are several of them, or time matters; see also tests/clients."""

import contextlib
import os
import subprocess
import sys

import openai
import pytest

from tests.e2e.test_first_slice import JFK, words

ASK = """
import sys, openai
client = openai.OpenAI(api_key="any", base_url=sys.argv[1] + "/v1", max_retries=int(sys.argv[3]))
print(client.audio.transcriptions.create(model="whisper-1", file=open(sys.argv[2], "rb")).text)
"""


@pytest.fixture
def client(daemon):
    with openai.OpenAI(api_key="any", base_url=f"{daemon.url}/v1", max_retries=0) as client:
        yield client


def test_pythons_client_gets_two_speakers_of_two_channels(client, corpus):
    with open(corpus / "hostile" / "j02_stereo_turns.wav", "rb") as file:
        said = client.audio.transcriptions.create(
            model="gpt-4o-transcribe-diarize", file=file, response_format="diarized_json"
        )

    assert {segment.speaker for segment in said.segments} == {"A", "B"}
    assert [segment.start for segment in said.segments] == sorted(segment.start for segment in said.segments)


# --- a client that is killed and comes again ---


@contextlib.contextmanager
def asking(daemon, path, retries=0):
    """A client in a process of its own."""
    command = [sys.executable, "-c", ASK, daemon.url, str(path), str(retries)]
    environment = {**os.environ, "NO_PROXY": "*"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as client:
        try:
            yield client
        finally:
            client.kill()


def killed_while_it_waits(daemon, path):
    """A client that gets as far as a task of its own, which no worker has begun."""
    daemon.http.post("/admin/pause")
    with asking(daemon, path) as client:
        daemon.until(lambda: the_tasks(daemon))
        client.kill()


def the_tasks(daemon):
    return daemon.get("/tasks")["tasks"]


def decoded_chunks(daemon):
    """How often a worker was given a chunk of any task."""
    return daemon.rows("select coalesce(sum(claims), 0) from chunk where number > 0")[0][0]


def test_a_client_killed_and_started_again_makes_the_work_be_done_once(new_daemon, jfk):
    daemon = new_daemon().start()
    killed_while_it_waits(daemon, jfk)
    with asking(daemon, jfk) as client:
        daemon.http.post("/admin/resume")
        said, _ = client.communicate(timeout=60)

    assert words(said) == JFK.split()
    assert [task["status"] for task in the_tasks(daemon)] == ["completed"]
    assert decoded_chunks(daemon) == 1


def test_a_daemon_killed_under_a_client_does_the_work_once_for_its_retry(new_daemon, jfk):
    daemon = new_daemon(CACHE__ENABLED=True).start()
    killed_while_it_waits(daemon, jfk)
    daemon.kill()
    daemon.start()  # which goes on with the task
    with asking(daemon, jfk) as client:
        said, _ = client.communicate(timeout=60)

    assert words(said) == JFK.split()
    daemon.all_over()
    assert decoded_chunks(daemon) == 1


def test_a_client_killed_for_good_has_its_task_cancelled(new_daemon, jfk):
    daemon = new_daemon(HTTP__ABANDONED_SECONDS="0.2").start()
    killed_while_it_waits(daemon, jfk)

    daemon.until(lambda: the_tasks(daemon)[0]["status"] == "cancelled")


def test_a_long_wait_is_bridged_with_spaces(new_daemon, jfk):
    settings = {"HTTP__HEARTBEAT_AFTER_SECONDS": "0", "HTTP__HEARTBEAT_SECONDS": "0.05"}
    daemon = new_daemon(**settings).start()
    daemon.http.post("/admin/pause")
    with asking(daemon, jfk) as client:
        daemon.until(lambda: the_tasks(daemon))
        daemon.http.post("/admin/resume")
        said, _ = client.communicate(timeout=60)

    assert words(said) == JFK.split()
    assert "Exception" not in daemon.said()
