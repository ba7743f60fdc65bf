"""whisper.cpp behind its door. Each test in a process of its own, as in the daemon: a model may crash it."""

import json
import subprocess
import sys

import pytest

PREPARE = """
import json, os, sys, wave
import numpy as np
from whisperd.engine.whisper import Whisper, WhisperFailed, WhisperStopped
from whisperd.task import Options

model, clip = sys.argv[1:]
with wave.open(clip) as file:
    speech = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768

def hear(whisper, samples=speech, **options):
    return whisper.transcribe(samples, Options(**options), "en", lambda: False)

def rss_mb():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

def tell(value):
    print(json.dumps(value), flush=True)
    os._exit(0)
"""


@pytest.fixture
def told(weights, jfk):
    """What a script tells that runs after PREPARE."""

    def run(script, model=weights / "ggml-tiny.en.bin"):
        command = [sys.executable, "-c", PREPARE + script, str(model), str(jfk)]
        out = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert out.returncode == 0, out.stderr
        return json.loads(out.stdout)

    return run


def test_what_was_decoded_before_changes_nothing(told):
    script = """
    noise = np.random.default_rng(1).normal(0, 0.1, 2 * 16000).astype(np.float32)
    whisper = Whisper(model, threads=1, gpu=False)
    fresh = str(hear(whisper))
    hear(whisper, noise)
    after_noise = str(hear(whisper))
    hear(whisper, beam_size=1, temperature=0.7)
    tell([fresh == after_noise == str(hear(whisper)), fresh.count("country")])
    """

    assert told(_unindented(script)) == [True, 2]


def test_memory_stays_level_though_the_model_is_loaded_anew_for_each_window(told):
    script = """
    whisper = Whisper(model, threads=1, gpu=False)
    sizes = []
    for _ in range(5):
        hear(whisper, speech[:16000])
        sizes.append(rss_mb())
    tell(sizes[-1] - sizes[0])
    """

    assert told(_unindented(script)) < 80  # one model more would be 160 MB


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 1000], ids=["missing", "empty", "garbage"])
def test_a_model_that_cannot_be_loaded_is_an_error_and_not_a_crash(told, tmp_path, content):
    model = tmp_path / "ggml-bad.bin"
    if content is not None:
        model.write_bytes(content)
    script = """
    try:
        Whisper(model, threads=1, gpu=False)
    except WhisperFailed as error:
        tell(str(error))
    """

    assert told(_unindented(script), model) == "whisper.cpp could not load the model"


def test_a_run_that_is_told_to_stop_does(told):
    script = """
    whisper = Whisper(model, threads=1, gpu=False)
    try:
        whisper.transcribe(speech, Options(), "en", lambda: True)
    except WhisperStopped:
        tell(str(hear(whisper)).count("country"))
    """

    assert told(_unindented(script)) == 2


def test_words_follow_one_another_inside_their_segment(told):
    script = """
    segments = hear(Whisper(model, threads=1, gpu=False), word_timestamps=True)
    times = [[s.start, *(t for w in s.words for t in (w.start, w.end)), s.end] for s in segments]
    tell([all(t == sorted(t) for t in times), [w.word for s in segments for w in s.words][:4]])
    """

    assert told(_unindented(script)) == [True, ["And", "so", "my", "fellow"]]


def _unindented(script):
    return "\n".join(line.removeprefix("    ") for line in script.splitlines())
