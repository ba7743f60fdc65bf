"""The waveform of decoded audio, small enough to be kept with its task: how loud it gets, and when."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from whisperd.task import MOST_PEAKS, SAMPLE_RATE

SHORTEST = SAMPLE_RATE // 200  # samples of a stretch: 5 ms, half a wave of the deepest voice
BLOCK = 1 << 20  # samples read at a time


def peaks(pcm: NDArray[np.int16], tick: Callable[[], None] = lambda: None) -> bytes:
    """The loudest sample of each of at most 2,000 equal stretches, of all channels; 255 for full scale.

    `pcm`: int16, shape (samples, channels); may be a memory map. None of the stretches is empty, and there is
    none where there are no samples. `tick` is called after each block.
    """
    samples = len(pcm)
    count = min(MOST_PEAKS, -(-samples // SHORTEST))
    highest = np.zeros(count, np.int32)
    for start in range(0, samples, BLOCK):
        block = pcm[start : start + BLOCK]
        first, last = _stretch(start, samples, count), _stretch(start + len(block) - 1, samples, count)
        begins = np.array([max(0, -(-n * samples // count) - start) for n in range(first, last + 1)])
        high = np.maximum.reduceat(block, begins, axis=0).max(axis=1).astype(np.int32)
        low = np.minimum.reduceat(block, begins, axis=0).min(axis=1).astype(np.int32)
        highest[first : last + 1] = np.maximum(highest[first : last + 1], np.maximum(high, -low))
        tick()
    return (highest * 255 // 32768).astype(np.uint8).tobytes()


def _stretch(sample: int, samples: int, count: int) -> int:
    """Which stretch a sample lies in; stretch n begins with the sample n * samples / count, rounded up."""
    return sample * count // samples
