import time

import pytest

from tests.e2e.conftest import minutes_of_speech  # noqa: F401 - a fixture
from tests.e2e.daemon import Daemon
from tests.redis_server import Node, Redis
from tests.s3_server import KEY, SECRET, serving
from whisperd.config import S3, Config
from whisperd.config import Redis as Settings
from whisperd.redis_queue.storage import Storage


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


@pytest.fixture(scope="module")
def bucket():
    with serving(bucket="media") as port:
        yield port


@pytest.fixture(params=["folder", "bucket"])
def storage(request, tmp_path, bucket):
    """One of its own for each test."""
    if request.param == "folder":
        folder = tmp_path / "storage"
        folder.mkdir()
        return Storage(Config(redis=Settings(storage=str(folder))))
    return in_s3(bucket, tmp_path.name)


def in_s3(port, prefix, kind=Storage, **settings):
    """A shared storage in the bucket."""
    keys = {"access_key_id": KEY, "secret_access_key": SECRET, "buckets": ("media",)}
    s3 = S3(endpoint=f"http://127.0.0.1:{port}", **keys, **settings)
    return kind(Config(redis=Settings(storage=f"s3://media/{prefix}"), s3=s3))


def in_bucket(port):
    """Settings of a host whose storage is in the bucket."""
    return {
        "REDIS__STORAGE": "s3://media/whisperd",
        "S3__ENDPOINT": f"http://127.0.0.1:{port}",
        "S3__BUCKETS": "media",
        "S3__ACCESS_KEY_ID": KEY,
        "S3__SECRET_ACCESS_KEY": SECRET,
    }


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
