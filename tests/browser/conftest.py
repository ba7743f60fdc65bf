"""A real Chromium on the dashboard of a real daemon. Whatever a test does, the page must not complain."""

import wave

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.chromium import launched, watched
from tests.e2e.daemon import serving


@pytest.fixture(scope="module")  # and no longer: while it is open no other test can run an event loop
def chromium():
    with sync_playwright() as playwright:
        browser = launched(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, weights):
    with serving(tmp_path_factory.mktemp("dashboard"), weights) as daemon:
        yield daemon


@pytest.fixture
def page(chromium, daemon):
    """The dashboard, as it opens."""
    with watched(chromium, daemon.url) as page:
        page.goto(daemon.url)
        page.get_by_role("heading", level=1).wait_for()
        yield page


@pytest.fixture(scope="session")
def clip(jfk, tmp_path_factory):
    """Two seconds of speech: "And so, my fellow Americans"."""
    path = tmp_path_factory.mktemp("clip") / "clip.wav"
    with wave.open(str(jfk)) as whole, wave.open(str(path), "wb") as part:
        part.setparams(whole.getparams())
        part.writeframes(whole.readframes(2 * whole.getframerate()))
    return path


@pytest.fixture(scope="module")
def spoken(daemon, jfk):
    """A task that is completed."""
    task_id = daemon.queued(jfk, name="inauguration.wav", word_timestamps="true", beam_size=1)
    assert daemon.finished(task_id)["status"] == "completed"
    return task_id


@pytest.fixture(scope="module")
def broken(daemon, clip):
    """A task that failed: it had no time."""
    task_id = daemon.queued(clip, name="hurried.wav", timeout_seconds=0.001)
    assert daemon.finished(task_id)["status"] == "failed"
    return task_id


@pytest.fixture
def paused(daemon):
    """While nothing is handed out."""
    daemon.http.post("/admin/pause").raise_for_status()
    yield daemon
    daemon.http.post("/admin/resume").raise_for_status()
