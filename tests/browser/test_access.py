"""Every page for everybody: axe-core finds nothing serious, light or dark; and a phone shows all of it."""

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import barriers, watched

_WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def pages(spoken, broken):
    """All there are, and a heading by which one knows that it is there."""
    return {
        "overview": "Overview",
        "tasks": "Tasks",
        f"tasks/{spoken}": "inauguration.wav",
        f"tasks/{broken}": "hurried.wav",
        "workers": "Workers",
        "backups": "Backups",
        "keys": "Keys",
        "submit": "Submit audio",
        "nowhere": "Nothing here",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anybody_out(chromium, daemon, pages, scheme):
    with watched(chromium, daemon.url, color_scheme=scheme) as page:
        page.goto(daemon.url)
        for place, heading in pages.items():
            _visit(page, place, heading)
            assert barriers(page) == [], place


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_open_dialog_keeps_anybody_out(chromium, daemon, spoken, paused, clip, scheme):
    waits = paused.queued(clip, name="waits.wav")
    with watched(chromium, daemon.url, color_scheme=scheme) as page:
        page.goto(daemon.url)
        for place, heading, button, dialog in (
            ("overview", "Overview", "Keyboard help", "Keyboard"),
            ("keys", "Keys", "New key", "New key"),
            (f"tasks/{waits}", "waits.wav", "Cancel", "Cancel waits.wav?"),
        ):
            _visit(page, place, heading)
            opener = page.get_by_role("button", name=button, exact=True)
            opener.click()
            page.get_by_role("dialog", name=dialog).wait_for()
            assert barriers(page) == [], dialog
            page.keyboard.press("Escape")
            expect(opener).to_be_focused()
        _visit(page, f"tasks/{spoken}", "inauguration.wav")
        page.get_by_role("button", name="Edit").click()
        assert barriers(page) == [], "the editor"
    paused.http.delete(f"/tasks/{waits}")


def test_no_page_is_wider_than_a_small_phone(chromium, daemon, pages):
    with watched(chromium, daemon.url, viewport={"width": 360, "height": 740}) as page:
        page.goto(daemon.url)
        for place, heading in pages.items():
            _visit(page, place, heading)
            assert page.evaluate(_WIDER) <= 0, place


def _visit(page, place, heading):
    page.evaluate("place => { location.hash = '#/' + place }", place)
    page.get_by_role("heading", level=1, name=heading, exact=True).wait_for()
    expect(page.locator(".loading")).to_have_count(0)
