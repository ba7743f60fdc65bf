"""curl, as the documentation shows it."""

import json
import subprocess

from tests.clients import expected


def curl(*options):
    done = subprocess.run(["curl", "-sS", *map(str, options)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_submits_waits_and_reads_the_result(open_daemon, jfk):
    task = json.loads(curl("-F", f"file=@{jfk}", f"{open_daemon.url}/tasks/transcription"))
    over = json.loads(curl(f"{open_daemon.url}/tasks/{task['task_id']}?wait=60"))
    text = curl(f"{open_daemon.url}/tasks/{task['task_id']}/result?format=text")

    assert over["status"] == "completed"
    assert expected.says_jfk(text)


def test_it_calls_openai_s_api(open_daemon, jfk):
    url = f"{open_daemon.url}/v1/audio/transcriptions"
    said = curl("-F", f"file=@{jfk}", "-F", "model=whisper-1", "-F", "response_format=text", url)

    assert expected.says_jfk(said)


def test_it_follows_a_task_to_its_end(open_daemon, jfk):
    task = json.loads(curl("-F", f"file=@{jfk}", f"{open_daemon.url}/tasks/transcription"))
    stream = curl("-N", f"{open_daemon.url}/tasks/{task['task_id']}/events")
    frames = [
        dict(line.split(": ", 1) for line in frame.splitlines()) for frame in stream.split("\n\n") if frame
    ]

    assert json.loads(frames[-1]["data"])["status"] == "completed"
    texts = [json.loads(frame["data"])["text"] for frame in frames if frame["event"] == "segment"]
    assert expected.says_jfk(" ".join(texts))
