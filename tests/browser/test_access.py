"""Every page for everybody: axe-core finds nothing serious, light or dark; and a phone shows all of it."""

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import watched
from tests.browser.test_vendor import SOURCE
from tests.clients import installed

_AXE = """async () => (await axe.run(document, { resultTypes: ['violations'] })).violations
  .filter((found) => ['serious', 'critical'].includes(found.impact))
  .map((found) => [found.id, found.nodes.map((node) => `${node.html} ${node.failureSummary}`)])"""
_WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def pages(daemon, clip):
    """All there are, and a heading by which one knows that it is there."""
    task_id = daemon.queued(clip, name="inauguration.wav", word_timestamps="true", beam_size=1)
    daemon.finished(task_id)
    return {
        "overview": "Overview",
        "tasks": "Tasks",
        f"tasks/{task_id}": "inauguration.wav",
        "workers": "Workers",
        "backups": "Backups",
        "keys": "Keys",
        "submit": "Submit audio",
        "nowhere": "Nothing here",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anybody_out(chromium, daemon, pages, scheme):
    axe = (installed.node_modules(SOURCE) / "node_modules" / "axe-core" / "axe.min.js").read_text()
    with watched(chromium, daemon.url, refused=(404,), color_scheme=scheme) as page:
        page.goto(daemon.url)
        page.evaluate(axe)
        for place, heading in pages.items():
            _visit(page, place, heading)
            assert page.evaluate(_AXE) == [], place


def test_no_page_is_wider_than_a_small_phone(chromium, daemon, pages):
    with watched(chromium, daemon.url, refused=(404,), viewport={"width": 360, "height": 740}) as page:
        page.goto(daemon.url)
        for place, heading in pages.items():
            _visit(page, place, heading)
            assert page.evaluate(_WIDER) <= 0, place


def _visit(page, place, heading):
    page.evaluate("place => { location.hash = '#/' + place }", place)
    page.get_by_role("heading", level=1, name=heading, exact=True).wait_for()
    expect(page.locator(".loading")).to_have_count(0)
