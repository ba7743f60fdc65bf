"""The engines behind their door. Each test in a process of its own: a model may crash it."""

import json
import subprocess
import sys
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ct2_folder import write_multilingual
from whisperd.engine.languages import LANGUAGES
from whisperd.engine.model import MOST_COMPRESSIBLE, compression, without_loops
from whisperd.engine.whisper import Whisper
from whisperd.task import Segment

PREPARE = """
import io, json, os, sys, wave
import numpy as np
from whisperd.engine.audio import Limits, decode
from whisperd.engine.speech import plan_cuts, window
from whisperd.engine.model import EngineStopped, ModelBroken, compression
from whisperd.task import Options, Segment

model, clip, engine = sys.argv[1:4]
if engine == "ctranslate2":
    from whisperd.engine.ctranslate import CTranslate as Whisper
else:
    from whisperd.engine.whisper import Whisper
with wave.open(clip) as file:
    speech = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768

def hear(whisper, samples=speech, **options):
    return whisper.transcribe(samples, Options(**options), "en", lambda: False)[0]

def first_window(path):
    with open(path, "rb") as source, io.BytesIO() as target:
        decode(source, target, split=False, limits=Limits(), tick=lambda seconds: None)
        pcm = np.frombuffer(target.getvalue(), np.int16).reshape(-1, 1)
    return window(pcm, plan_cuts(pcm, vad=True, tick=lambda seconds: None)[0])

def rss_mb():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

def tell(value):
    print(json.dumps(value), flush=True)
    os._exit(0)
"""


@pytest.fixture(params=["whisper.cpp", "ctranslate2"])
def engine(request):
    return request.param


@pytest.fixture
def told(weights, jfk, engine):
    """What a script tells that runs after PREPARE."""

    def run(script, model=weights / "ggml-tiny.en.bin", args=()):
        command = [sys.executable, "-c", PREPARE + script, str(model), str(jfk), engine, *args]
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


def test_a_probe_changes_nothing_of_what_comes_after_and_can_be_stopped(told):
    script = """
whisper, hum = Whisper(model, threads=1, gpu=False), np.sin(np.arange(16_000) / 10).astype(np.float32)
before = hear(whisper, beam_size=1)
whisper.probe(hum, lambda: False)
loads_anew, after = whisper._used_random, hear(whisper, beam_size=1)
try:
    whisper.probe(hum, lambda: True)
except EngineStopped:
    stopped = True
tell([before == after, len(before) > 0, loads_anew, stopped])
"""
    assert told(script) == [True, True, False, True]


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
    except ModelBroken as error:
        tell(str(error))
    """

    assert told(_unindented(script), model).startswith(
        ("whisper.cpp could not load the model", "it is no model of whisper.cpp", "the model is gone")
    )


def test_a_run_that_is_told_to_stop_does(told):
    script = """
    whisper = Whisper(model, threads=1, gpu=False)
    try:
        whisper.transcribe(speech, Options(), "en", lambda: True)
    except EngineStopped:
        tell(str(hear(whisper)).count("country"))
    """

    assert told(_unindented(script)) == 2


def test_speech_of_another_language_goes_round_is_decoded_again_and_marked_always_alike(told, corpus):
    """Spanish, for a model that knows English only: "We are going to be a good one …" over and over."""
    script = """
    samples, loops = first_window(sys.argv[4]), []
    first, second = (Whisper(model, threads=1, gpu=False) for _ in range(2))
    inner = "_passages" if engine == "ctranslate2" else "_decode"
    better = 1 if engine == "ctranslate2" else 0  # 2.7 instead of 4.1
    decode_once = getattr(first, inner)
    setattr(first, inner, lambda *args, **how: loops.append(list(decode_once(*args, **how))) or loops[-1])
    fresh = first.transcribe(samples, Options(beam_size=1), "en", lambda: False)
    hear(second, speech[:16000], temperature=0.7)
    again = second.transcribe(samples, Options(beam_size=1), "en", lambda: False)
    tell([str(fresh) == str(again), compression(loops[0]) > 2.4 > compression(fresh[0]) - better, fresh[1]])
    """
    clip = corpus / "speech" / "mfa" / "mls_es_13697_11991_000000.opus"

    assert told(_unindented(script), args=[str(clip)]) == [True, True, ["repetition"]]


def test_rhetoric_that_repeats_itself_is_no_loop():
    """The most compressible text of all clean English clips."""
    text = (
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
        "foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of "
        "light, it was the season of darkness, it was the spring of hope, it was the winter of despair."
    )

    assert 1.8 < compression([Segment(start=0, end=1, text=text)]) < MOST_COMPRESSIBLE


@pytest.mark.parametrize(
    ("said", "likely", "vad", "kept"),
    [
        ("It was said once.", -0.2, True, "second"),
        ("no no no no no no no no no no no no no no no", -0.2, True, "second"),  # goes round too, but less
        ("", -0.2, False, "second"),
        ("", -0.2, True, "first"),  # where speech was heard
        ("hot garbage", -1.5, True, "first"),
    ],
)
def test_of_two_tries_the_better_one_is_kept(said, likely, vad, kept):
    first = [Segment(start=0, end=1, text="no " * 40, tokens=(1,), avg_logprob=-0.1)]
    second = [Segment(start=0, end=1, text=said, tokens=(1,), avg_logprob=likely)] if said else []
    best, warnings = without_loops(first, [lambda: second], vad=vad)

    assert (best is {"first": first, "second": second}[kept], warnings) == (True, ("repetition",))


def test_a_prompt_of_any_length_is_taken(told):
    script = """
    whisper = Whisper(model, threads=1, gpu=False)
    segments = hear(whisper, prompt="country music, " * 260, beam_size=1)
    tell(" ".join(s.text for s in segments).count("country"))
    """

    assert told(_unindented(script)) == 2


def test_where_the_decoder_ends_too_early_it_goes_on(told, engine):
    """Two sentences a long silence apart: of 28 s nothing is left out."""
    script = """
    whisper = Whisper(model, threads=1, gpu=False)
    apart = np.concatenate([speech[: 2 * 16000], np.zeros(13 * 16000, np.float32), speech])
    segments = hear(whisper, apart)
    tell([segments[-1].end > 20, " ".join(s.text for s in segments).count("country")])
    """

    assert told(_unindented(script)) == [True, 2]


def test_words_follow_one_another_inside_their_segment(told):
    script = """
    segments = hear(Whisper(model, threads=1, gpu=False), word_timestamps=True)
    times = [[s.start, *(t for w in s.words for t in (w.start, w.end)), s.end] for s in segments]
    tell([all(t == sorted(t) for t in times), [w.word.strip(",") for s in segments for w in s.words][:4]])
    """

    assert told(_unindented(script)) == [True, ["And", "so", "my", "fellow"]]


def test_a_model_of_many_languages_has_a_probability_for_each_and_forgets_what_it_heard_before(
    told, tmp_path
):
    script = """
    whisper, noise = Whisper(model, threads=1, gpu=False), np.random.default_rng(1).normal(0, 0.1, 32000)
    first, other, again = (
        whisper.language_probabilities(heard.astype(np.float32)) for heard in (speech, noise, speech)
    )
    same, deaf = (bool((first == answer).all()) for answer in (again, other))
    tell([whisper.languages, float(first.sum()), len(first), same, deaf])
    """
    model = write_multilingual(tmp_path / "ggml-noise.bin", tmp_path / "noise")
    languages, total, count, same, deaf = told(_unindented(script), model)

    assert languages == list(LANGUAGES)[:99]  # Cantonese came with large-v3
    assert (round(total, 4), count, same, deaf) == (1.0, 99, True, False)


def test_a_model_of_english_alone_is_sure_of_it(told):
    script = """
    whisper = Whisper(model, threads=1, gpu=False)
    tell([whisper.languages, whisper.language_probabilities(speech).tolist()])
    """

    assert told(_unindented(script)) == [["en"], [1.0]]


class Token(NamedTuple):
    raw: bytes
    t0: int  # centiseconds, as whisper.cpp guesses them: in any order, outside of the segment too
    t1: int
    p: float


TOKENS = st.lists(
    st.builds(
        Token,
        raw=st.sampled_from([b" a", b"b", b" ", b".", b" \xc3", b"\xa9", b"\xff", b""]),
        t0=st.integers(-100, 4000),
        t1=st.integers(-100, 4000),
        p=st.floats(0, 1),
    ),
    max_size=20,
)


@given(TOKENS, st.floats(0, 30), st.floats(0, 30))
def test_whatever_times_tokens_have_words_follow_one_another_inside_their_segment(tokens, one, other):
    start, end = sorted((one, other))
    whisper = Whisper.__new__(Whisper)
    whisper._bytes = lambda token: token.raw
    words = list(whisper._words(tokens, start, end))
    times = [start, *(time for word in words for time in (word.start, word.end)), end]

    assert times == sorted(times)
    assert all(0 <= word.probability <= 1 and word.word.strip() == word.word != "" for word in words)


def _unindented(script):
    return "\n".join(line.removeprefix("    ") for line in script.splitlines())
