"""The attacks come in two sizes: a short one with every `make test`, and with --long the issue's numbers."""

import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon
from tests.reliability import sounds
from tests.trouble import Lies

_REPORTS = pytest.StashKey()


@pytest.fixture(scope="session")
def long(request):
    return request.config.getoption("--long")


@pytest.fixture(scope="session")
def size(long):
    """`size(4, 200)`: the number for the short form, or that of the issue."""
    return lambda short, full: full if long else short


@pytest.fixture(scope="session")
def chance():
    """Random moments; the report names the seed."""
    seed = time.time_ns() % 10**6
    chance = random.Random(seed)
    chance.name = seed
    return chance


@pytest.fixture(scope="module")
def report(request, long):
    """What was measured, as far as it came: a line at the end of a long run."""
    lines = request.config.stash.setdefault(_REPORTS, {})
    return lines.setdefault(request.module.__name__.rpartition(".test_")[2], {}) if long else {}


def pytest_terminal_summary(terminalreporter, config):
    for name, numbers in config.stash.get(_REPORTS, {}).items():
        measured = " ".join(f"{key}={value}" for key, value in numbers.items())
        terminalreporter.write_line(f"reliability {name}: {measured}")


@pytest.fixture(scope="module")
def daemons(tmp_path_factory, weights):
    """Makes daemons, each in a folder of its own; what still runs at the end is killed."""
    made = []

    def make(folder=None, **how):
        made.append(Daemon(folder or tmp_path_factory.mktemp("daemon") / "d", weights, **how))
        return made[-1]

    yield make
    for daemon in made:
        daemon.end()


@pytest.fixture(scope="session")
def clips(jfk):
    """Name → WAV bytes."""
    return {
        "silence": sounds.silence(),
        "half a second": sounds.speech(jfk, 0.3, 0.8),
        "words": sounds.speech(jfk, 0.0, 2.2),
        "sentence": jfk.read_bytes(),
    }


@pytest.fixture(scope="module")
def lies(preload, tmp_path_factory):
    """A C library that can be told to lie; daemons get it with `environ=lies.environ`."""
    return Lies(preload, tmp_path_factory.mktemp("lies") / "told")


@pytest.fixture(scope="session")
def preload(tmp_path_factory):
    """A library that makes the C library lie to a program about its disk and the time of day."""
    library = tmp_path_factory.mktemp("preload") / "trouble.so"
    source = Path(__file__).with_name("trouble.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, source, "-ldl"], check=True)
    return library
