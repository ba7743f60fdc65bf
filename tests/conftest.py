"""What the tests share: a clock that is moved by hand, a fresh queue, the corpus of real audio."""

import asyncio
import contextlib
import os
import socket
import sqlite3
import threading
from pathlib import Path

import pytest

from whisperd import models
from whisperd.db import Database, migrate
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.task import Audio, NewTask, Rules

# As in the worker; more threads spin on a busy machine. NumPy reads it when it is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
CORPUS = Path(os.environ.get("WHISPERD_CORPUS") or Path(__file__).resolve().parents[2] / "shared" / "corpus")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="tests/reliability and test_schema in full: minutes")


class Clock:
    """Time that moves only when told."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def with_queue(tmp_path, clock):
    """Run an async test body against a queue on a fresh file; a second run finds what the first left."""

    def run(body, **rules):
        async def main():
            async with Database(tmp_path / "q.db") as db:
                queue = SqliteQueue(db, Events(), Rules(**rules), clock)
                queue.db = db
                await body(queue)

        asyncio.run(main())

    return run


@pytest.fixture(scope="module")
def empty():
    """A database in memory, with all tables and no rows: to copy."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        migrate(conn)
        yield conn


_serial = iter(range(10**9))


def a_task(name="a.wav", **fields):
    """A submission that differs from all others by its id only."""
    audio = Audio(name=name, size=1, sha256="0" * 64)
    return NewTask(**{"id": f"t{next(_serial):09}", "audio": audio, "model": "tiny.en", **fields})


@pytest.fixture(scope="session")
def corpus():
    assert CORPUS.is_dir(), f"no corpus at {CORPUS}: set WHISPERD_CORPUS to the folder that holds speech/"
    return CORPUS


@pytest.fixture(scope="session")
def weights():
    """The models folder, with OpenAI's real tiny.en in it; made once and kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisperd-tests" / "models"
    cache.mkdir(parents=True, exist_ok=True)
    models.ensure_default(cache)
    return cache


@pytest.fixture(scope="session")
def jfk():
    return Path(__file__).parent / "data" / "jfk.wav"


@pytest.fixture(scope="module")
def connections():
    """Who connects to the address that the hostile files name."""
    seen = []
    with _listening_on(18999) as listener:
        listener.settimeout(0.2)
        stop = threading.Event()

        def listen():
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, address = listener.accept()
                    connection.close()
                    seen.append(address)

        thread = threading.Thread(target=listen)
        thread.start()
        yield seen
        stop.set()
        thread.join()


def _listening_on(port):
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        pytest.fail(f"the hostile files name port {port}, which must be free to watch it: {error.strerror}")
