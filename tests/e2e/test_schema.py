"""Requests made from /openapi.json by schemathesis, valid ones and others: no 5xx, nothing undeclared."""

import http.server
import os
import re
import subprocess
import sys
import threading
import wave
from functools import partial
from pathlib import Path

import pytest

from tests.child import silence
from tests.e2e.daemon import serving

ROOT = Path(__file__).parents[2]
FEW, MANY = 12, 170  # examples of a call that are made up; beside them all that covers its schema
LEAST = {FEW: 1_500, MANY: 5_000}  # requests
pytestmark = pytest.mark.timeout(1_200)


@pytest.fixture
def audio(tmp_path):
    """Too short to be transcribed: the time goes into requests."""
    folder = tmp_path / "audio"
    folder.mkdir()
    return silence(folder / "moment.wav", 0.05, rate=16_000, channels=1)


@pytest.fixture
def speech(tmp_path, jfk):
    """Two seconds of speech, for the few answers with words in them."""
    path = tmp_path / "speech.wav"
    with wave.open(str(jfk)) as source, wave.open(str(path), "wb") as target:
        target.setparams(source.getparams())
        target.writeframes(source.readframes(2 * source.getframerate()))
    return path


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
        "CACHE__ENABLED": "true",
    }
    with serving(tmp_path / "daemon", weights, **settings) as daemon:
        yield daemon


def test_whatever_the_document_allows_is_answered_as_it_says(daemon, audio, speech, url, tmp_path, request):
    examples = MANY if request.config.getoption("--long") else FEW
    # With one worker: two threads that read source code at once can break CPython 3.11's ast (gh-106905).
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{daemon.url}/openapi.json"]
    command += ["--checks", "all", "--max-examples", str(examples), "--seed", "1"]
    command += ["--request-timeout", "60", "--max-response-time", "60"]  # a transcript takes its time
    command += ["--continue-on-failure", "--no-shrink", "--no-color"]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.e2e.schema_hooks", "PYTHONPATH": str(ROOT)}
    where = {"AUDIO_PATH": str(audio), "SPEECH_PATH": str(speech), "AUDIO_URL": url, "MODEL": "tiny.en"}

    run = subprocess.run(
        command, cwd=tmp_path, env=os.environ | hooks | where, capture_output=True, text=True, timeout=1_100
    )

    made = re.search(r"(\d+) generated", run.stdout)
    assert run.returncode == 0, shortened(run.stdout + run.stderr)
    assert made, shortened(run.stdout)
    assert int(made[1]) >= LEAST[examples]
    assert "Traceback" not in daemon.said()
    assert daemon.get("/admin/keys") == {"keys": []}  # else all after the first would have been refused


def shortened(said):
    """Without most of the uploads in it."""
    return "\n".join(line[:400] for line in said.splitlines())[-20_000:]
