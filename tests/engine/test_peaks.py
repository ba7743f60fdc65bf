"""The waveform: every sample counts in exactly one stretch, however long the audio is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisperd.engine import peaks as module
from whisperd.engine.peaks import SHORTEST, peaks
from whisperd.task import MOST_PEAKS


def one_by_one(pcm):
    """The same, sample for sample."""
    count = min(MOST_PEAKS, -(-len(pcm) // SHORTEST))
    highest = [0] * count
    for number, frame in enumerate(pcm.astype(int).tolist()):
        stretch = number * count // len(pcm)
        highest[stretch] = max(highest[stretch], *map(abs, frame))
    return bytes(high * 255 // 32768 for high in highest)


@settings(max_examples=50, deadline=None)
@given(
    samples=st.integers(0, 5000),
    channels=st.integers(1, 2),
    block=st.sampled_from([1, 7, 80, 1000, 1 << 20]),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_peak_is_the_loudest_sample_of_its_stretch(samples, channels, block, seed):
    pcm = np.random.default_rng(seed).integers(-32768, 32768, (samples, channels)).astype(np.int16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)

        assert peaks(pcm) == one_by_one(pcm)


def test_long_audio_has_as_many_peaks_as_are_kept_and_ticks_on_the_way():
    pcm = np.zeros((3 * module.BLOCK, 1), np.int16)
    pcm[-1] = -32768
    ticks = []
    found = peaks(pcm, lambda: ticks.append(1))

    assert found == bytes(MOST_PEAKS - 1) + b"\xff"
    assert len(ticks) == 3


def test_no_audio_has_no_peaks():
    assert peaks(np.zeros((0, 1), np.int16)) == b""
