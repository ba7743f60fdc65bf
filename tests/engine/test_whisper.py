"""The engines behind their door. Each test in a process of its own: a model may crash it."""

import json
import subprocess
import sys
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.clips import english_clips, errors
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

def hear(whisper, samples=speech, part=0, **options):
    return whisper.transcribe(samples, Options(**options), "en", lambda: False, part)[0]

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


def test_speech_of_another_language_goes_round_is_decoded_again_and_marked_always_alike(told, corpus, engine):
    """For a model that knows English only: "We are going to be a good one …" over and over."""
    script = """
    samples, loops = first_window(sys.argv[4]), []
    first, second = (Whisper(model, threads=1, gpu=False) for _ in range(2))
    inner = "_passages" if engine == "ctranslate2" else "_decode"
    decode_once = getattr(first, inner)
    setattr(first, inner, lambda *args, **how: loops.append(list(decode_once(*args, **how))) or loops[-1])
    fresh = first.transcribe(samples, Options(beam_size=1), "en", lambda: False)
    hear(second, speech[:16000], temperature=0.7)
    again = second.transcribe(samples, Options(beam_size=1), "en", lambda: False)
    tell([str(fresh) == str(again), 2.4 < compression(loops[0]) > compression(fresh[0]), fresh[1]])
    """
    spanish, german = "mfa/mls_es_13697_11991_000000.opus", "aeneas/simplicissimus_de.mp3"
    clip = corpus / "speech" / (german if engine == "ctranslate2" else spanish)

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


LONG = """
whisper, runs = Whisper(model, threads=1, gpu=False), []
sound, place = np.concatenate([speech[: 8 * 16_000], np.zeros(16_000, np.float32), speech]), 8 * 16_000 + 8000
if engine == "ctranslate2":
    inner = whisper._hear
    whisper._hear = lambda mels, *args, **how: runs.append(len(mels)) or inner(mels, *args, **how)
"""


@pytest.mark.parametrize("engine", ["ctranslate2"], indirect=True)
def test_the_parts_of_a_window_are_heard_at_once_and_each_as_if_it_were_alone(told):
    """With as much silence behind it, that is."""
    script = """
    from whisperd.engine import ctranslate
    ctranslate.THINNED_FRAMES = 0
    at_once = hear(whisper, sound, part=place, word_timestamps=True)
    alone = hear(whisper, sound[place:], word_timestamps=True)
    later = [s for s in at_once if s.start >= place / 16_000]
    same = [(s.text, s.avg_logprob) for s in later] == [(s.text, s.avg_logprob) for s in alone]
    times = [[w.start for s in text for w in s.words] for text in (later, alone)]
    moved = np.allclose(times[0], np.array(times[1]) + place / 16_000)
    tell([runs, same, bool(moved), len(times[0]), " ".join(s.text for s in at_once).count("country")])
    """

    assert told(LONG + _unindented(script)) == [[2, 1], True, True, 22, 3]


@pytest.mark.parametrize("engine", ["whisper.cpp"], indirect=True)
def test_an_engine_that_parts_no_window_hears_it_whole(told):
    script = "tell(hear(whisper, sound, part=place, beam_size=1) == hear(whisper, sound, beam_size=1))"

    assert told(LONG + script) is True


@pytest.mark.parametrize("engine", ["ctranslate2"], indirect=True)
@pytest.mark.parametrize(
    "trouble",
    [
        "doubts = iter([True]); whisper._made_up = lambda heard: next(doubts, False)",
        "ctranslate.compression = lambda text: 2",
    ],
    ids=["it goes on behind its end", "it goes round"],
)
def test_a_window_with_a_part_in_doubt_is_heard_whole(told, trouble):
    script = f"""
    from whisperd.engine import ctranslate
    {trouble}
    heard = hear(whisper, sound, part=place)
    tell([runs, heard == hear(whisper, sound), len(heard) > 0])
    """

    assert told(LONG + _unindented(script)) == [[2, 1, 1], True, True]


@pytest.mark.parametrize("engine", ["ctranslate2"], indirect=True)
@pytest.mark.parametrize("made_up", ["BEYOND = -10_000", "FASTEST = 0.1"], ids=["beyond", "too fast"])
def test_a_clip_in_which_more_is_heard_than_there_is_is_heard_in_front_of_real_silence(told, made_up):
    """The bounds are moved, and not the clip: tiny.en hears none of the corpus wrongly so."""
    script = f"""
    from whisperd.engine import ctranslate
    frames, encode = [], whisper._encode
    whisper._encode = lambda mel, *places: frames.append(mel.shape[1]) or encode(mel, *places)
    ctranslate.{made_up}
    segments = hear(whisper, speech, word_timestamps=True)
    tell([frames, " ".join(s.text for s in segments).count("country"), segments[-1].end <= 11])
    """

    assert told(LONG + _unindented(script)) == [[1300, 3000], 2, True]


@pytest.mark.parametrize("engine", ["ctranslate2"], indirect=True)
def test_a_window_without_room_for_silence_is_heard_once(told):
    script = """
    from whisperd.engine import ctranslate
    ctranslate.BEYOND = -10_000
    full = np.concatenate([speech, speech, speech])[: 28 * 16_000]
    prompt, search = whisper._start(Options(), "en"), ctranslate._Search()
    for window in (full, full[: 20 * 16_000]):
        whisper._well_heard(whisper._mel(window), prompt, Options(beam_size=1), search)
        runs.append("heard")
    tell(runs)
    """

    assert told(LONG + _unindented(script)) == [1, "heard", 1, 1, "heard"]


@pytest.mark.parametrize("engine", ["ctranslate2"], indirect=True)
def test_what_was_judged_to_be_silence_is_no_context_for_what_comes_after_it(told):
    """Both judgements are made up: no clip of the corpus has a silent beginning that ends early."""
    script = """
    from dataclasses import replace
    prompts, hears, spans = [], whisper._well_heard, whisper._spans

    def first_is_silent(mel, prompt, *how):
        prompts.append(prompt)
        return replace(hears(mel, prompt, *how), silent=len(prompts) == 1)

    whisper._well_heard, whisper._spans = first_is_silent, lambda heard: (spans(heard)[0], 600)
    hear(whisper)
    tell([len(prompts), prompts[0] == prompts[1]])
    """

    assert told(LONG + _unindented(script)) == [2, True]


@pytest.mark.parametrize("engine", ["ctranslate2"], indirect=True)
def test_speech_of_another_language_that_goes_round_in_a_part_is_heard_whole(told, corpus):
    """A real loop, and not one that is made up: see the Spanish clip above."""
    script = """
    samples = first_window(sys.argv[4])
    whisper.transcribe(samples, Options(beam_size=1), "en", lambda: False, len(samples) // 2)
    tell([runs[0], 1 in runs])
    """
    clip = corpus / "speech" / "mfa" / "mls_es_13697_11991_000000.opus"

    assert told(LONG + _unindented(script), args=[str(clip)]) == [2, True]  # the rest is up to the processor


@pytest.mark.parametrize("engine", ["ctranslate2"], indirect=True)
def test_parts_have_no_more_errors_than_the_windows_that_they_are_of(told, corpus):
    """Clips of 50 s one after the other, parted as planned. Of the whole corpus: docs/performance.md."""
    clips = [clip for clip in english_clips() if clip.seconds < 15][::3][9:16]
    script = """
    pause, sounds = np.zeros(8000, np.int16), []
    for clip in sys.argv[4:]:
        with open(clip, "rb") as source, io.BytesIO() as target:
            decode(source, target, split=False, limits=Limits(), tick=lambda seconds: None)
            sounds += [np.frombuffer(target.getvalue(), np.int16), pause]
    pcm = np.concatenate(sounds)[:, np.newaxis]
    cuts = plan_cuts(pcm, vad=True)
    texts = [
        [s.text for cut in cuts for s in hear(whisper, window(pcm, cut), part=part(cut), beam_size=1)]
        for part in (lambda cut: 0, lambda cut: cut.part)
    ]
    tell([runs.count(2), *map(" ".join, texts)])
    """
    parted, *texts = told(LONG + _unindented(script), args=[str(clip.path) for clip in clips])
    references = [" ".join(clip.reference for clip in clips)]
    whole, parts = (errors(references, [text]).wer for text in texts)

    assert parted >= 1
    assert parts <= whole + 0.02


@pytest.mark.parametrize("engine", ["ctranslate2"], indirect=True)
def test_a_run_of_two_parts_that_is_told_to_stop_does(told):
    script = """
    stop = iter([False, True]).__next__
    try:
        whisper.transcribe(sound, Options(beam_size=1), "en", stop, place)
    except EngineStopped:
        tell(runs)
    """

    assert told(LONG + _unindented(script)) == [2]


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
