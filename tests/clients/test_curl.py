"""curl, as the documentation shows it."""

import json
import re
import subprocess

import pytest

from tests.clients import expected
from tests.clients.refusals import OPENAI, OURS

V1 = "/v1/audio/transcriptions"
TASKS = "/tasks/transcription"


def curl(*options):
    done = subprocess.run(["curl", "-sS", *map(str, options)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sent(path, model="whisper-1", **fields):
    """The options that send a file with these fields."""
    form = {"file": f"@{path}", "model": model, **fields}
    return [part for name, value in form.items() for part in ("-F", f"{name}={value}")]


def frames(stream):
    """Name -> value of each Server-Sent Event. Comments, which keep a stream open, are none."""
    blocks = re.sub(r"^:.*\n\n", "", stream, flags=re.MULTILINE).split("\n\n")
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks if block]


def test_it_submits_waits_and_reads_the_result(open_daemon, jfk):
    task = json.loads(curl("-F", f"file=@{jfk}", open_daemon.url + TASKS))
    over = json.loads(curl(f"{open_daemon.url}/tasks/{task['task_id']}?wait=60"))
    text = curl(f"{open_daemon.url}/tasks/{task['task_id']}/result?format=text")

    assert over["status"] == "completed"
    assert expected.says_jfk(text)


def test_it_follows_a_task_to_its_end(open_daemon, jfk):
    task = json.loads(curl("-F", f"file=@{jfk}", open_daemon.url + TASKS))
    told = frames(curl("-N", f"{open_daemon.url}/tasks/{task['task_id']}/events"))

    assert json.loads(told[-1]["data"])["status"] == "completed"
    texts = [json.loads(frame["data"])["text"] for frame in told if frame["event"] == "segment"]
    assert expected.says_jfk(" ".join(texts))


@pytest.mark.parametrize("format", ["json", "text", "srt", "vtt", "verbose_json"])
def test_openai_s_api_answers_it_in_every_format(open_daemon, jfk, format):
    said = curl(*sent(jfk, response_format=format), open_daemon.url + V1)

    if format in ("srt", "vtt"):
        expected.check_cues(said, "-->")
    elif format == "verbose_json":
        expected.check_verbose(json.loads(said))
    else:
        assert expected.says_jfk(said if format == "text" else json.loads(said)["text"])


def test_it_gets_the_times_of_words(open_daemon, jfk):
    asked = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}

    expected.check_words(json.loads(curl(*sent(jfk, **asked), open_daemon.url + V1)))


def test_it_reads_a_stream_with_n(open_daemon, jfk):
    *told, end = frames(curl("-N", *sent(jfk, stream="true"), open_daemon.url + V1))

    assert end["data"] == "[DONE]"
    expected.check_stream([json.loads(frame["data"]) for frame in told])


@pytest.mark.parametrize(("path", "answers"), [(V1, OPENAI), (TASKS, OURS)], ids=["v1", "tasks"])
def test_it_is_told_why_it_is_refused(refused, path, answers):
    written = ["-D-", "-H", f"Authorization: Bearer {refused.key}"]
    said = curl(*written, *sent(refused.path, refused.model), refused.daemon.url + path)
    head, _, body = said.replace("\r", "").rpartition("\n\n")
    status, code = answers[refused.why]

    assert f"HTTP/1.1 {status} " in head
    assert json.loads(body)["error"]["code"] == code
    assert ("retry-after: " in head) == (refused.why == "full_queue")
