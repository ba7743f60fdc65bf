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


def test_a_key_that_is_shown_once_goes_by_its_button_only(chromium, keyless):
    with watched(chromium, keyless.url, refused=(401,)) as page:
        page.goto(f"{keyless.url}/#/keys")
        page.get_by_role("button", name="New key").click()
        page.get_by_role("button", name="Make the key").click()
        dialog = page.get_by_role("dialog", name="Keep this key")
        dialog.wait_for()
        page.mouse.click(5, 5)
        for _ in range(3):
            page.keyboard.press("Escape")

        expect(dialog.locator("code")).to_contain_text("whd_")
        dialog.get_by_role("button", name="I have kept it").click()
        expect(dialog).to_have_count(0)
        expect(page.get_by_role("row").filter(has_text="active")).to_have_count(1)


def test_who_goes_leaves_nothing_in_the_tab(chromium, keyless, clip):
    admin = made_key(keyless, "admin")
    made = keyless.http.post("/admin/keys", json={"scopes": ["submit", "read"]}, headers=bearer(admin)).json()
    with watched(chromium, keyless.url, refused=(401, 403)) as page:
        page.goto(keyless.url)
        sign_in(page, admin)
        page.get_by_role("heading", name="Overview").wait_for()
        drop(page, clip, "of the first one.wav")
        expect(page.get_by_role("region", name="Uploads")).to_contain_text("of the first one.wav")
        page.evaluate("window.left = true")
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_function("() => window.left === undefined")

        sign_in(page, made["key"])
        page.get_by_role("heading", name="Overview").wait_for()
        expect(page.get_by_role("region", name="Uploads")).to_have_count(0)
        page.evaluate("window.left = true")
        keyless.http.delete(f"/admin/keys/{made['id']}", headers=bearer(admin)).raise_for_status()
        page.wait_for_function("() => window.left === undefined")  # the stream has ended with the key
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
