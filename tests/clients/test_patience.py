"""A transcription that takes longer than the 301 s that Node's client waits for an answer to begin."""

import contextlib
import threading

import pytest

from tests.clients import expected
from tests.clients.installed import OPENAI_CLIENTS, openai_client, outcomes
from tests.e2e.daemon import serving


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
    with serving(tmp_path / "daemon", weights) as daemon:
        yield daemon


@pytest.mark.timeout(500)
def test_a_request_of_six_minutes_succeeds(request, daemon, jfk):
    """Nothing is handed out for so long. The short form lets it wait for a few heartbeats only."""
    seconds = 360 if request.config.getoption("--long") else 35
    daemon.http.post("/admin/pause").raise_for_status()

    with later(seconds, lambda: daemon.http.post("/admin/resume")):
        found = outcomes(*openai_client("openai"), daemon.url, "any", jfk, "json", timeout=seconds + 60)

    assert expected.says_jfk(found["json"]["answer"]["text"]), found
    assert daemon.get("/stats")["total"] == 1  # it was asked for once


@pytest.fixture(scope="module")
def spaced(tmp_path_factory, weights):
    """A daemon that begins each answer at once, and goes on with spaces."""
    settings = {"HTTP__HEARTBEAT_AFTER_SECONDS": "0", "HTTP__HEARTBEAT_SECONDS": "0.05"}
    with serving(tmp_path_factory.mktemp("spaced"), weights, **settings) as daemon:
        yield daemon


@pytest.mark.parametrize("client", OPENAI_CLIENTS)
def test_an_answer_that_begins_with_spaces_is_read(spaced, jfk, client):
    found = outcomes(*openai_client(client), spaced.url, "any", jfk, "json", "verbose_json")

    expected.check_verbose(found["verbose_json"]["answer"])
    assert expected.says_jfk(found["json"]["answer"]["text"])
    assert "Exception" not in spaced.said()
