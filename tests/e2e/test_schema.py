"""Requests made from /openapi.json by schemathesis, valid ones and others: no 5xx, nothing undeclared."""

import http.server
import os
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.child import silence
from tests.e2e.daemon import Daemon

ROOT = Path(__file__).parents[2]
LEAST = 5_000  # requests
pytestmark = pytest.mark.timeout(1_200)


@pytest.fixture
def audio(tmp_path):
    """A moment of silence: the time goes into requests, not into transcripts."""
    folder = tmp_path / "audio"
    folder.mkdir()
    return silence(folder / "moment.wav", 1, rate=16_000, channels=1)


@pytest.fixture
def url(audio):
    """Where the audio lies for `audio_url`. What is told there, by `callback_url`, is not understood."""
    handler = partial(Quiet, directory=str(audio.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/{audio.name}"
        server.shutdown()
        serving.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def daemon(tmp_path, weights, audio):
    """It may be asked for a path below its root, and for a URL of this machine."""
    settings = {
        "HTTP__ALLOWED_ROOTS": str(audio.parent),
        "OUTBOUND__ALLOWED_NETWORKS": "127.0.0.0/8",
    }
    running = Daemon(tmp_path / "daemon", weights, **settings).start()
    yield running
    assert running.stop() == 0


def test_whatever_the_document_allows_is_answered_as_it_says(daemon, audio, url, tmp_path):
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{daemon.url}/openapi.json"]
    command += ["--checks", "all", "--max-examples", "300", "--workers", "2", "--seed", "1"]
    command += ["--request-timeout", "60", "--continue-on-failure", "--no-color"]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.e2e.schema_hooks", "PYTHONPATH": str(ROOT)}
    where = {"AUDIO_PATH": str(audio), "AUDIO_URL": url}

    run = subprocess.run(
        command, cwd=tmp_path, env=os.environ | hooks | where, capture_output=True, text=True, timeout=1_100
    )

    made = re.search(r"(\d+) generated", run.stdout)
    assert run.returncode == 0, run.stdout[-20_000:]
    assert made, run.stdout[-2_000:]
    assert int(made[1]) >= LEAST
    assert "Traceback" not in daemon.log.read_text()
