"""OpenAI's own clients, newest versions, against a real daemon: with nothing changed but the URL."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise

import openai
import pytest

from tests.e2e.test_first_slice import JFK, words

ASK = """
import sys, openai
client = openai.OpenAI(api_key="any", base_url=sys.argv[1] + "/v1", max_retries=int(sys.argv[3]))
print(client.audio.transcriptions.create(model="whisper-1", file=open(sys.argv[2], "rb")).text)
"""

NODE = """
import fs from "node:fs";
import OpenAI from "openai";
const [url, path] = process.argv.slice(2);
const client = new OpenAI({ apiKey: "any", baseURL: url + "/v1" });
const ask = (more) =>
  client.audio.transcriptions.create({ model: "whisper-1", file: fs.createReadStream(path), ...more });
const said = {};
said.json = (await ask({})).text;
said.srt = await ask({ response_format: "srt" });
const verbose = await ask({ response_format: "verbose_json", timestamp_granularities: ["word", "segment"] });
said.words = verbose.words.map((word) => word.word).join(" ");
said.language = verbose.language;
said.deltas = [];
for await (const event of await ask({ stream: true, temperature: 0.01 })) {
  if (event.type === "transcript.text.delta") said.deltas.push(event.delta);
  if (event.type === "transcript.text.done") said.done = event.text;
}
said.models = (await client.models.list()).data.map((model) => model.id);
try {
  await ask({ model: "nosuch" });
} catch (error) {
  said.error = [error.constructor.name, error.status, error.code, error.param, typeof error.requestID];
}
console.log(JSON.stringify(said));
"""


@pytest.fixture
def client(daemon):
    with openai.OpenAI(api_key="any", base_url=f"{daemon.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    """A folder with OpenAI's client for Node."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "openai"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110)
    if done.returncode:
        pytest.skip(f"npm cannot install openai: {done.stderr[-500:]}")
    return folder


def test_pythons_client_gets_the_words_in_every_format(client, jfk):
    def ask(**options):
        with open(jfk, "rb") as file:
            return client.audio.transcriptions.create(model="whisper-1", file=file, **options)

    assert words(ask().text) == JFK.split()
    for format in ("text", "srt", "vtt"):
        assert words(ask(response_format=format).replace("WEBVTT", "")) == JFK.split()
    verbose = ask(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert (verbose.language, verbose.duration) == ("english", 11.0)
    assert words(" ".join(word.word for word in verbose.words)) == JFK.split()
    assert all(a.end <= b.start for a, b in pairwise(verbose.words))
    assert all(word.start <= word.end <= 11.0 for word in verbose.words)
    assert all(segment.tokens and segment.avg_logprob < 0 for segment in verbose.segments)
    diarized = ask(response_format="diarized_json")
    assert [segment.speaker for segment in diarized.segments] == ["A"] * len(diarized.segments)


def test_pythons_client_gets_two_speakers_of_two_channels(client, corpus):
    with open(corpus / "hostile" / "j02_stereo_turns.wav", "rb") as file:
        said = client.audio.transcriptions.create(
            model="gpt-4o-transcribe-diarize", file=file, response_format="diarized_json"
        )

    assert {segment.speaker for segment in said.segments} == {"A", "B"}
    assert [segment.start for segment in said.segments] == sorted(segment.start for segment in said.segments)


def test_pythons_client_streams(client, jfk):
    with open(jfk, "rb") as file:
        *deltas, done = client.audio.transcriptions.create(
            model="gpt-4o-mini-transcribe", file=file, stream=True, extra_body={"beam_size": 1}
        )

    assert done.type == "transcript.text.done"
    assert "".join(delta.delta for delta in deltas) == done.text
    assert words(done.text) == JFK.split()


def test_pythons_client_is_told_what_is_wrong(client):
    with pytest.raises(openai.BadRequestError) as wrong:
        client.audio.transcriptions.create(model="whisper-1", file=("a.mp3", b"no audio at all " * 999))

    assert wrong.value.type == "invalid_request_error"


def test_nodes_client_works_unchanged(daemon, node, jfk):
    script = node / "ask.mjs"
    script.write_text(NODE)
    command = ["node", str(script), daemon.url, str(jfk)]
    done = subprocess.run(command, cwd=node, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)

    assert words(said["json"]) == words(said["words"]) == words(said["done"]) == JFK.split()
    assert "".join(said["deltas"]) == said["done"]
    assert said["srt"].startswith("1\n00:00:00")
    assert said["language"] == "english"
    assert {"whisper-1", "tiny.en"} <= set(said["models"])
    assert said["error"] == ["NotFoundError", 404, "model_not_found", "model", "string"]


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
