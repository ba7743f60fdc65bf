"""A transcription that takes longer than the 301 s that Node's client waits for an answer to begin."""

import contextlib
import threading

import pytest

from tests.clients import expected
from tests.clients.installed import node_modules, outcomes
from tests.e2e.daemon import Daemon


@contextlib.contextmanager
def later(seconds, call):
    """Make the call in so many seconds, unless the block ends before."""
    timer = threading.Timer(seconds, call)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@pytest.fixture
def daemon(tmp_path, weights):
    running = Daemon(tmp_path / "daemon", weights).start()
    yield running
    running.end()


@pytest.mark.timeout(500)
def test_a_request_of_six_minutes_succeeds(request, daemon, jfk):
    """Nothing is handed out for so long. The short form lets it wait for a few heartbeats only."""
    seconds = 360 if request.config.getoption("--long") else 35
    daemon.http.post("/admin/pause").raise_for_status()
    script = node_modules() / "openai_client.mjs"

    with later(seconds, lambda: daemon.http.post("/admin/resume")):
        found = outcomes("node", script, "openai", daemon.url, "any", jfk, "json", timeout=seconds + 60)

    assert expected.says_jfk(found["json"]["answer"]["text"]), found
    assert daemon.get("/stats")["total"] == 1  # it was asked for once
