"""Each example runs as it is, against a real daemon."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_first_slice import JFK, words
from tests.terminal import ENVIRONMENT

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(daemon):
    """Runs an example against the daemon to its end."""

    def run(*command, url=None, status=0):
        done = subprocess.run(
            [*map(str, command)],
            env={**ENVIRONMENT, "WHISPERD_URL": url or daemon.url},
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == status, done.stderr
        return done

    return run


@pytest.fixture
def recording(tmp_path, jfk):
    return Path(shutil.copy(jfk, tmp_path / "talk.wav"))


@pytest.fixture
def no_audio(tmp_path):
    path = tmp_path / "noise.mp3"
    path.write_bytes(os.urandom(4000))
    return path


def python(name):
    return sys.executable, "-W", "error", EXAMPLES / name


def said(text):
    """The words of lines that begin with the name of the recording."""
    return [word for word in words(text) if word != "talkwav"]


def test_the_python_client_prints_the_words_and_writes_subtitles(example, recording, no_audio):
    done = example(*python("python_client.py"), no_audio, recording, status=1)

    assert done.stdout.startswith("talk.wav (en, 11 s): ")
    assert words(done.stdout.partition(": ")[2]) == JFK.split()
    assert words(recording.with_suffix(".srt").read_text()) == JFK.split()
    assert "Traceback" not in done.stderr


def test_the_asynchronous_client_prints_segments_as_they_come(example, recording, no_audio):
    done = example(*python("async_client.py"), no_audio, recording)

    assert said(done.stdout) == JFK.split()
    assert done.stderr.startswith("noise.mp3: ")


def test_curl_fetches_subtitles(example, recording):
    done = example(EXAMPLES / "curl.sh", recording)

    assert done.stdout.startswith("1\n00:00:0")
    assert words(done.stdout) == JFK.split()


def test_curl_says_why_a_file_failed(example, no_audio):
    done = example(EXAMPLES / "curl.sh", no_audio, status=22)

    assert '"error"' in done.stdout


@pytest.mark.skipif(not shutil.which("node"), reason="there is no node")
def test_node_prints_segments_as_they_come(example, recording, no_audio):
    script = EXAMPLES / "node" / "transcribe.mjs"

    assert words(example("node", script, recording).stdout) == JFK.split()
    assert example("node", script, no_audio, status=1).stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["python_client.py", "async_client.py"])
def test_a_daemon_that_is_away_is_told_in_a_line(example, recording, name):
    done = example(*python(name), recording, url="http://127.0.0.1:9", status=1)

    assert "no daemon answers at http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


class Watching:
    """The folder watcher at work."""

    def __init__(self, daemon, folder):
        self.process = subprocess.Popen(
            [*map(str, python("watch_folder.py")), str(folder), "--every", "0.2"],
            env={**ENVIRONMENT, "WHISPERD_URL": daemon.url},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def tasks_of(daemon, name):
    return [task for task in daemon.get("/tasks")["tasks"] if task["audio"]["name"] == name]


def test_a_watched_folder_gets_subtitles_for_what_is_wholly_written(daemon, tmp_path, jfk):
    folder = tmp_path / "recordings"
    folder.mkdir()
    sound = jfk.read_bytes()
    (folder / "done.wav").write_bytes(sound)
    (folder / "done.srt").write_text("by hand")
    with Watching(daemon, folder), open(folder / "growing.wav", "wb") as file:
        looks = iter(range(0, len(sound), 40_000))

        def write_on():
            for start in looks:
                file.write(sound[start : start + 40_000])
                file.flush()
                return False
            return True

        daemon.until(write_on)
        daemon.until((folder / "growing.srt").exists, 60)

    assert words((folder / "growing.srt").read_text()) == JFK.split()
    assert tasks_of(daemon, "growing.wav")[0]["audio"]["size"] == len(sound)
    assert tasks_of(daemon, "done.wav") == []
    assert (folder / "done.srt").read_text() == "by hand"


def test_a_watcher_that_was_killed_goes_on_with_the_task_that_there_is(daemon, tmp_path, jfk):
    folder = tmp_path / "recordings"
    folder.mkdir()
    shutil.copy(jfk, folder / "killed.wav")
    with Watching(daemon, folder):
        daemon.until(lambda: tasks_of(daemon, "killed.wav"))
    assert not (folder / "killed.srt").exists()
    with Watching(daemon, folder):
        daemon.until((folder / "killed.srt").exists, 60)

    assert len(tasks_of(daemon, "killed.wav")) == 1
    assert words((folder / "killed.srt").read_text()) == JFK.split()
