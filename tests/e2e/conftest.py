import wave

import numpy as np
import pytest

from tests.e2e.daemon import Daemon, serving


@pytest.fixture
def new_daemon(tmp_path, weights):
    """Makes daemons; whatever is still running at the end of the test is killed."""
    made = []

    def make(**environment):
        made.append(Daemon(tmp_path / "daemon", weights, **environment))
        return made[-1]

    yield make
    for daemon in made:
        if daemon.process.poll() is None:
            daemon.kill()
        daemon.http.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, weights):
    """One daemon for all tests of a module that do it no harm."""
    with serving(tmp_path_factory.mktemp("daemon"), weights) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def minutes_of_speech(tmp_path_factory, jfk):
    """Makes a WAV of about so many minutes: the JFK clip over and over, a second of silence in between."""

    def make(minutes):
        path = tmp_path_factory.mktemp("speech") / f"{minutes}min.wav"
        with wave.open(str(jfk)) as source:
            clip = np.frombuffer(source.readframes(source.getnframes()), np.int16)
        loop = np.concatenate([clip, np.zeros(16_000, np.int16)])
        with wave.open(str(path), "wb") as target:
            target.setnchannels(1)
            target.setsampwidth(2)
            target.setframerate(16_000)
            target.writeframes(np.tile(loop, round(minutes * 60 / 12)).tobytes())
        return path

    return make
