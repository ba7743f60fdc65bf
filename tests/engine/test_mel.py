import numpy as np
import pytest

from whisperd.engine.mel import log_mel
from whisperd.ggml import mel_filters


@pytest.mark.parametrize("hertz", [200, 1000, 4000])
def test_a_tone_is_loudest_in_its_band_and_silence_is_eight_tenfold_steps_below(hertz):
    tone = np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000).astype(np.float32)
    filters = mel_filters(80)
    mel = log_mel(np.concatenate([tone, np.zeros(16_000, np.float32)]), filters)
    band = int(filters[:, round(hertz / 40)].argmax())  # a bin is 40 Hz wide

    assert mel.shape == (80, 200)
    assert abs(int(mel[:, 50].argmax()) - band) <= 1
    # The logarithm is divided by 4.
    assert mel[:, 50].max() - mel[:, 150].max() == pytest.approx(2.0, abs=0.01)


def test_silence_alone_is_what_the_encoder_hears_it_as():
    assert log_mel(np.zeros(16_000, np.float32), mel_filters(80)) == pytest.approx(-1.5)
