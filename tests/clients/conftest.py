"""Real daemons for other people's clients: one that takes what comes, one that asks for a key and is full."""

import subprocess
import sys

import pytest

from tests.e2e.daemon import Daemon


@pytest.fixture(scope="session")
def open_daemon(tmp_path_factory, weights):
    running = Daemon(tmp_path_factory.mktemp("open"), weights).start()
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def full_daemon(tmp_path_factory, weights, jfk):
    """It has a key, `key`, and no room: one task waits, and nothing is handed out."""
    folder = tmp_path_factory.mktemp("full")
    running = Daemon(folder, weights, QUEUE__MAX_QUEUED=1)
    running.key = a_key(folder / "data", "admin")
    running.start()
    running.http.post("/admin/pause").raise_for_status()
    running.queued(jfk)
    yield running
    assert running.stop() == 0


def a_key(data, *scopes):
    """A new key, as the command line prints it."""
    command = [sys.executable, "-P", "-m", "whisperd", "keys", "add", "--data-dir", str(data)]
    done = subprocess.run(
        [*command, "--scope", ",".join(scopes)], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip().splitlines()[-1]
