"""Keys in the dashboard: from the first one on it has to be signed in to."""

import time
from itertools import pairwise

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import PATIENCE_MS, barriers, drop, watched
from tests.e2e.daemon import serving

CALLS = ("fetch", "xhr", "eventsource")  # of the page's scripts
pytestmark = pytest.mark.timeout(300)
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture
def keyless(tmp_path, weights):
    """A daemon without keys, for a test that makes the first."""
    with serving(tmp_path / "keyless", weights, WORKERS__COUNT=1) as daemon:
        yield daemon


def made_key(daemon, *scopes, by=None):
    made = daemon.http.post("/admin/keys", json={"scopes": scopes}, headers=bearer(by) if by else {})
    made.raise_for_status()
    return made.json()["key"]


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def sign_in(page, key):
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Sign in").click()


def test_the_first_key_closes_the_door_and_opens_it(chromium, keyless):
    with watched(chromium, keyless.url, refused=(401,)) as page:
        page.goto(f"{keyless.url}/#/keys")
        page.get_by_role("button", name="New key").click()
        page.get_by_label("Name").fill("of the desk")
        page.get_by_role("button", name="Make the key").click()
        key = page.get_by_role("dialog", name="Keep this key").locator("code").inner_text()
        assert barriers(page) == []
        page.get_by_role("button", name="I have kept it").click()
        expect(page.get_by_role("row").filter(has_text="of the desk")).to_contain_text("active")

        page.get_by_role("button", name="Sign out").click()
        field = page.get_by_label("Key", exact=True)
        field.fill("whd_wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not known")
        assert barriers(page) == []

        field.fill(key)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Keys")).to_be_visible()
        expect(page.get_by_text("Live")).to_be_visible()


def test_a_key_made_elsewhere_meanwhile_closes_the_page_and_says_so(chromium, keyless):
    with watched(chromium, keyless.url, refused=(401,)) as page:
        page.goto(f"{keyless.url}/#/keys")
        page.get_by_role("button", name="New key").click()
        made = keyless.http.post("/admin/keys", json={"scopes": ["admin"]})
        made.raise_for_status()
        page.get_by_role("button", name="Make the key").click()

        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    keyless.key = made.json()["key"]


def test_who_may_only_submit_begins_there_and_asks_for_nothing_else(chromium, keyless, clip):
    key = made_key(keyless, "submit", by=made_key(keyless, "admin"))
    asked = []
    with watched(chromium, keyless.url, refused=(401,)) as page:
        page.on("request", lambda request: asked.append((request.resource_type, request.url)))
        page.goto(keyless.url)
        sign_in(page, key)
        expect(page.get_by_role("heading", level=1, name="Submit audio")).to_be_visible()
        drop(page, clip, "sent.wav")

        expect(page.get_by_role("region", name="Uploads")).to_contain_text("queued")
        page.goto("#/overview")
        expect(page.get_by_role("heading", level=1, name="Submit audio")).to_be_visible()
    called = [url.removeprefix(keyless.url) for kind, url in asked if kind in CALLS]
    assert called == ["/session"] * 3 + ["/tasks/transcription"]


def test_a_stream_that_is_refused_is_not_asked_for_again_at_once(chromium, keyless):
    tries = []

    def refuse(route):
        tries.append(time.monotonic())
        route.fulfill(status=503, json={})

    with watched(chromium, keyless.url, refused=(503,)) as page:
        page.route("**/events", refuse)
        page.goto(keyless.url)
        expect(page.get_by_text("Connection lost")).to_be_visible()
        while len(tries) < 3:
            page.wait_for_timeout(50)
    assert min(later - sooner for sooner, later in pairwise(tries)) > 2
