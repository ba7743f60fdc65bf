"""Real daemons for other people's clients: one that takes what comes, one that asks for a key and is full."""

import pytest

from tests.clients.refusals import WRONG_KEY, Request
from tests.e2e.daemon import serving


@pytest.fixture(scope="session")
def open_daemon(tmp_path_factory, weights):
    with serving(tmp_path_factory.mktemp("open"), weights) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def full_daemon(tmp_path_factory, weights, jfk):
    """It has a key, `key`, and no room: one task waits, `waiting`, and nothing is handed out."""
    settings = {"scopes": ("admin",), "QUEUE__MAX_QUEUED": 1}
    with serving(tmp_path_factory.mktemp("full"), weights, **settings) as daemon:
        daemon.http.post("/admin/pause").raise_for_status()
        daemon.waiting = daemon.queued(jfk)
        yield daemon


@pytest.fixture(scope="session")
def no_audio(tmp_path_factory):
    """A file that has the name of an audio file, and is none."""
    path = tmp_path_factory.mktemp("no_audio") / "talk.mp3"
    path.write_text("this is not audio\n" * 100)
    return path


@pytest.fixture(params=["bad_file", "unknown_model", "wrong_key", "full_queue"])
def refused(request, open_daemon, full_daemon, jfk, no_audio):
    """A request that every client is refused, one for each reason."""
    return {
        "bad_file": Request("bad_file", open_daemon, no_audio),
        "unknown_model": Request("unknown_model", open_daemon, jfk, scenario="unknown_model"),
        "wrong_key": Request("wrong_key", full_daemon, jfk, key=WRONG_KEY),
        "full_queue": Request("full_queue", full_daemon, jfk, key=full_daemon.key),
    }[request.param]
