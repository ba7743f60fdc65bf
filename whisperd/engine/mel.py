"""The log-mel spectrogram that Whisper hears, as OpenAI's whisper/audio.py computes it, with NumPy alone."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

FRAMES_PER_SECOND = 100
_HOP, _FFT = 160, 400  # samples at 16 kHz
_HANN = np.hanning(_FFT + 1)[:-1].astype(np.float32)  # periodic, as torch.hann_window
_RANGE = 8.0  # tenfold steps below the loudest; what is softer counts as that

Array = NDArray[np.float32]


def log_mel(samples: Array, filters: Array) -> Array:
    """Samples (n,), mono, 16 kHz, n > 200; filters (mels, 201): (mels, n // 160), near -1 to 1."""
    padded = np.pad(samples, _FFT // 2, mode="reflect")
    frames = sliding_window_view(padded, _FFT)[::_HOP][: len(samples) // _HOP]
    spectrum = np.fft.rfft(frames * _HANN, axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    logs = np.log10(np.maximum(filters @ power.T, 1e-10))
    return np.asarray((np.maximum(logs, logs.max() - _RANGE) + 4) / 4, dtype=np.float32)
