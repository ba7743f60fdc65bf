"""Chromium as Debian has it, driven by Playwright, and a watch over what its pages complain of."""

import base64
import contextlib
import shutil
from pathlib import Path

from tests.clients import installed

SOURCE = Path(__file__).parents[2] / "packaging" / "dashboard"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--autoplay-policy=no-user-gesture-required"]
PATIENCE_MS = 60_000  # of two busy cores
_DROP = """([name, type, content]) => {
  const bytes = Uint8Array.from(atob(content), (char) => char.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name, { type }));
  for (const kind of ['dragenter', 'dragover', 'drop'])
    document.body.dispatchEvent(
      new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: carried }));
}"""

_AXE = """async () => (await axe.run(document, { resultTypes: ['violations'] })).violations
  .filter((found) => ['serious', 'critical'].includes(found.impact))
  .map((found) => [found.id, found.nodes.map((node) => `${node.html} ${node.failureSummary}`)])"""


def launched(playwright):
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "there is no chromium: apt-get install chromium"
    return playwright.chromium.launch(executable_path=program, args=FLAGS)


@contextlib.contextmanager
def watched(browser, url, refused=(), lost=False, **options):
    """A page of its own that must not complain.

    `refused`: statuses that its calls may be answered with; `lost`: some may not be answered at all.
    """
    expected = [f"the server responded with a status of {status}" for status in refused]
    expected += ["net::ERR_"] if lost else []
    complaints = []
    with contextlib.closing(browser.new_context(base_url=url, **options)) as context:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        yield page
    unexpected = [text for text in complaints if not any(part in text for part in expected)]
    assert not unexpected, unexpected


def drop(page, path, name=None):
    """Drop the file on the page, as a hand would."""
    content = base64.b64encode(path.read_bytes()).decode()
    page.evaluate(_DROP, [name or path.name, "audio/wav", content])


def barriers(page):
    """What axe-core finds serious of the page as it is now."""
    axe = installed.node_modules(SOURCE) / "node_modules" / "axe-core" / "axe.min.js"
    page.evaluate(axe.read_text())
    return page.evaluate(_AXE)
