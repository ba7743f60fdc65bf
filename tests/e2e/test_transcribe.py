"""`whisperd transcribe` that was interrupted, with a real daemon."""

import os
import signal
import subprocess
import sys

import pytest


@pytest.fixture
def command(new_daemon, minutes_of_speech, tmp_path):
    daemon = new_daemon().start()
    files = [minutes_of_speech(1), tmp_path / "out"]

    def command():
        line = ["-P", "-m", "whisperd", "transcribe", "-f", "srt", "-o", str(files[1]), str(files[0])]
        environment = {**os.environ, "WHISPERD_URL": daemon.url}
        return subprocess.Popen([sys.executable, *line], env=environment, stderr=-1, text=True)

    return daemon, command, files[1]


@pytest.mark.timeout(400)
def test_the_same_command_goes_on_within_the_file_it_was_at(command):
    daemon, start, folder = command
    done = "select number, claims from chunk where state = 'done' and number > 0 order by number"
    with start() as interrupted:
        daemon.until(lambda: daemon.rows(done), 120)
        interrupted.send_signal(signal.SIGINT)
    (task,) = daemon.until(lambda: (seen := daemon.get("/tasks", status="cancelled")["tasks"]) and seen)
    before = daemon.rows(done)
    with start() as again:
        errors = again.stderr.read()

    assert (again.returncode, "-> " in errors) == (0, True), errors
    assert before
    assert set(before) <= set(daemon.rows(done))  # not handed out once more
    assert [seen["task_id"] for seen in daemon.get("/tasks")["tasks"]] == [task["task_id"]]
    assert [file.suffix for file in folder.iterdir()] == [".srt"]
    with start() as third:
        assert "1 of 1 are done already" in third.stderr.read()
