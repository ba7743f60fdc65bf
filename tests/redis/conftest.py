import time

import pytest

from tests.e2e.conftest import minutes_of_speech  # noqa: F401 - a fixture
from tests.e2e.daemon import Daemon
from tests.redis_server import Node, Redis


@pytest.fixture
def redis(tmp_path):
    redis = Redis(tmp_path / "redis")
    try:
        yield redis.start()
    finally:
        redis.stop()


@pytest.fixture
def node(redis):
    node = Node(redis)
    try:
        yield node
    finally:
        node.close()


@pytest.fixture
def new_host(tmp_path, weights, redis):
    """Makes hosts that share the queue, each with a folder of its own; all are ended after the test."""
    made = []
    shared = tmp_path / "shared"
    shared.mkdir()

    def make(**settings):
        settings = {
            "WORKERS__COUNT": 1,
            "WORKERS__NICE": 0,
            "REDIS__URL": redis.url,
            "REDIS__STORAGE": shared,
            "REDIS__LOCK_SECONDS": 3,
            "REDIS__STALLED_SECONDS": 1,
            "OUTBOUND__ALLOWED_NETWORKS": "127.0.0.0/8",
            **settings,
        }
        host = Daemon(tmp_path / f"host{len(made)}", weights, **settings)
        host.shared = shared
        made.append(host)
        return host

    yield make
    for host in made:
        host.end()


@pytest.fixture
def rounds(request):
    """How often an attack is repeated: twice, or as often as issue 7 asks for."""
    return 20 if request.config.getoption("--long") else 2


@pytest.fixture
def submitted(node, jfk):
    """Adds a job of WhisperAPI as its Node code does, with a file in the shared storage; returns its id."""

    def add(host, transcription_id, file=jfk, *, priority=5, **options):
        folder = host.shared / "audio"
        folder.mkdir(exist_ok=True)
        (folder / transcription_id).write_bytes(file.read_bytes())
        asked = {
            "transcriptionId": transcription_id,
            "userId": "user-1",
            "s3AudioUrl": f"shared://audio/{transcription_id}",
            "model": "whisper-1",
            "format": "json",
        }
        return node.add(asked | options.pop("data", {}), {"priority": priority, **options})

    return add


def over(node, job_id, timeout=90):
    """The job once it is over, as BullMQ for Node sees it."""
    return until(lambda: (job := node.look(job_id))["state"] in ("completed", "failed") and job, timeout)


def until(condition, timeout=30):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError("not in time")
