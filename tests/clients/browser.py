"""A headless Chromium, spoken to over its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

import base64
import contextlib
import itertools
import json
import re
import shutil
import subprocess

import httpx
import websockets.sync.client

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--remote-debugging-port=0",
]


@contextlib.contextmanager
def chromium(folder):
    """A browser with a profile of its own."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "there is no chromium: apt-get install chromium"
    with subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            line = next(line for line in process.stderr if "DevTools listening" in line)
            yield re.search(r"ws://([^/]+)/", line)[1]
        finally:
            process.terminate()
            process.stderr.read()


@contextlib.contextmanager
def new_page(host):
    target = httpx.put(f"http://{host}/json/new?about:blank", timeout=30).json()
    url = target["webSocketDebuggerUrl"]
    with websockets.sync.client.connect(url, max_size=2**26, proxy=None) as socket:
        yield Page(socket)


class Page:
    """A tab. `evaluate` waits for the promise that the script is."""

    def __init__(self, socket):
        self._socket = socket
        self._numbers = itertools.count(1)
        self._call("Page.enable")

    def go_to(self, url):
        self._call("Page.navigate", url=url)
        self._await(lambda message: message.get("method") == "Page.loadEventFired")

    def evaluate(self, script):
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self):
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def _call(self, method, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        answer = self._await(lambda message: message.get("id") == number)
        assert "error" not in answer, answer
        return answer["result"]

    def _await(self, wanted):
        while True:
            if wanted(message := json.loads(self._socket.recv(timeout=60))):
                return message
