"""Keys in the dashboard: from the first one on it has to be signed in to."""

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import PATIENCE_MS, barriers, watched
from tests.e2e.daemon import serving

pytestmark = pytest.mark.timeout(300)
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture
def keyless(tmp_path, weights):
    """A daemon without keys, for a test that makes the first."""
    with serving(tmp_path / "keyless", weights, WORKERS__COUNT=1) as daemon:
        yield daemon


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
