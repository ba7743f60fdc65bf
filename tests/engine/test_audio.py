"""The decoder, on every file of the corpora and on audio made here."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in the worker; before NumPy: threads spin here

import errno
import io
import json
import struct
import subprocess
import sys
import wave
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from whisperd.engine.audio import (
    AudioError,
    AudioTooLong,
    Limits,
    NoAudio,
    UnsupportedMedia,
    decode,
)

CORPUS = Path(
    os.environ.get("WHISPERD_CORPUS") or Path(__file__).resolve().parents[2] / ".." / "shared" / "corpus"
)
RATE = 16_000
JFK = "And so my fellow Americans ask not what your country can do for you"

# What is refused, and how; everything else is decoded.
REFUSED = {
    "unsupported_media": """
        a01_empty.wav a02_one_byte.mp3 a04_random.mp3 a05_text.mp3 a07_json.wav a08_image.png a10_image.svg
        a11_zip.mp3 b01_gzip_bomb.wav.gz b04_riff_huge_rate.wav b05_riff_zero_rate.wav b07_riff_65535_ch.wav
        b08_riff_bits0.wav c02_trunc_moov_at_end.m4a h01_hls_passwd.m3u8 h02_hls_canary.m3u8
        h04_hls_http_named.mp3 h05_hls_http_named.wav h07_hls_subfile.m3u8 h08_hls_data.m3u8 h10_ffconcat.wav
        h11_dash.mpd h13_ram.ram h14_pls.pls h16_m3u_plain.m3u h17_xspf.xspf h20_hls_canary_named.mp3
        h22_ffconcat_self.mp3 h23_ffconcat_loop_duration.wav""",
    "no_audio": "b10_zero_frames.wav b11_header_only_44.wav e08_video_only.mp4",
    "audio_too_long": "b02_24h_silence.flac",
}
CODES = {file: code for code, files in REFUSED.items() for file in files.split()}
PARTIAL = [
    "c01_trunc.mp3",
    "c04_trunc.flac",
    "c07_trunc.webm",
    "c08_trunc_header.webm",
    "c10_corrupt_middle.mp3",
    "c11_corrupt_middle.m4a",
    "f02_rate_change.mp3",
]
LOSSLESS = [
    "d04_float32.wav",
    "d05_float64.wav",
    "d10_rf64.wav",
    "d11_w64.w64",
    "d13_au.au",
    "d14_caf.caf",
    "d22_alac.m4a",
    "d28_flac.flac",
    "d29_flac_in_ogg.oga",
    "d37_wavpack.wv",
    "d38_tta.tta",
    "e04_mjpeg_pcm.avi",
    "f04_wrong_ext_wav.mp3",
    "b13_trailing_garbage.wav",
]


def manifest(folder):
    with (CORPUS / folder / "manifest.jsonl").open() as lines:
        entries = [json.loads(line) for line in lines]
    return [entry for entry in entries if not entry["file"].endswith(".json")]


HOSTILE = manifest("hostile")


def run(source, *, split=False, tick=lambda seconds: None, target=None, **limits):
    """The result, and the samples of shape (n, channels)."""
    target = io.BytesIO() if target is None else target
    decoded = decode(source, target, split=split, limits=Limits(**limits), tick=tick)
    return decoded, np.frombuffer(target.getvalue(), "<i2").reshape(-1, decoded.channels)


@cache
def outcome(file):
    """What became of a hostile file: an error, or the result and its samples. Each is decoded once."""
    with (CORPUS / "hostile" / file).open("rb") as source:
        try:
            return run(source, seconds=1800)
        except AudioError as error:
            return error


@pytest.fixture(scope="module")
def jfk():
    with (CORPUS / "speech" / "jfk" / "jfk.wav").open("rb") as source:
        return run(source)[1][:, 0]


def wav(samples, rate=RATE):
    """A WAV file of int16 samples, shape (n, channels)."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(samples.shape[1])
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.astype("<i2").tobytes())
    return io.BytesIO(file.getvalue())


def noise(seconds=1.0, seed=0, rate=RATE):
    return np.random.default_rng(seed).normal(0, 3000, round(seconds * rate)).astype(np.int16)


def envelope(samples):
    """The level of each 50 ms."""
    frames = samples[: len(samples) // 800 * 800].reshape(-1, 800).astype(np.float64)
    return frames.std(axis=1)


def likeness(one, other):
    """The correlation of the envelopes of two recordings, at the best shift of up to 50 ms."""
    one = envelope(one[800:])
    shifted = [envelope(other[800 + shift :]) for shift in range(-800, 801, 160)]
    pairs = [(one[: len(two)], two[: len(one)]) for two in shifted]
    return max(np.corrcoef(a, b)[0, 1] for a, b in pairs)


@pytest.mark.parametrize("entry", HOSTILE, ids=lambda entry: entry["file"])
def test_each_hostile_file_is_decoded_or_refused_for_the_right_reason(entry):
    result = outcome(entry["file"])

    refused = isinstance(result, AudioError)
    assert (result.code if refused else None) == CODES.get(entry["file"])
    assert refused or entry["expect_class"] != "reject"
    assert not refused or not entry["expect_class"].startswith("accept")


@pytest.mark.parametrize("entry", HOSTILE, ids=lambda entry: entry["file"])
def test_a_refusal_tells_neither_paths_nor_contents(entry):
    result = outcome(entry["file"])

    if isinstance(result, AudioError):
        assert len(str(result)) < 80
        assert not any(word in str(result) for word in (entry["file"], "/", "Errno", "127.0.0.1", "root"))


@pytest.mark.parametrize("entry", HOSTILE, ids=lambda entry: entry["file"])
def test_only_a_damaged_file_is_called_partial(entry):
    result = outcome(entry["file"])

    if not isinstance(result, AudioError):
        assert ("partial_audio" in result[0].warnings) == (entry["file"] in PARTIAL)


def test_no_playlist_makes_a_connection(connections):
    for entry in HOSTILE:
        if entry["file"].startswith(("a10", "h")):
            outcome.__wrapped__(entry["file"])

    assert connections == []


@pytest.mark.parametrize(
    "file",
    [entry["file"] for entry in HOSTILE if (entry["expected_text"] or "").startswith(JFK)]
    + ["g22_speech_in_noise_0db.wav", "c05_trunc.ogg", "d08_192k.wav"],
)
def test_the_same_sentence_sounds_the_same_in_every_format(file, jfk):
    _, samples = outcome(file)

    assert likeness(samples[:, 0], jfk) > (0.8 if "noise" in file or "clipped" in file else 0.95)


@pytest.mark.parametrize("file", LOSSLESS)
def test_lossless_formats_keep_every_sample(file, jfk):
    _, samples = outcome(file)

    assert np.array_equal(samples[:, 0], jfk)


def test_a_chained_ogg_and_a_changed_rate_are_decoded_to_the_end(jfk):
    for file in ("f01_chained.opus", "f02_rate_change.mp3"):
        samples = outcome(file)[1][:, 0]

        assert likeness(samples[-len(jfk) :], jfk) > 0.95


def test_the_track_flagged_default_is_taken_not_the_first(jfk):
    assert likeness(outcome("e10_two_audio_tracks.mkv")[1][:, 0], jfk) > 0.95


def test_all_speech_is_decoded_to_its_length():
    for entry in manifest("speech"):
        with (CORPUS / "speech" / entry["file"]).open("rb") as source:
            decoded, _ = run(source)

        assert decoded.samples / RATE == pytest.approx(entry["duration_s"], abs=0.15), entry["file"]
        assert decoded.warnings == (), entry["file"]


def more_memory(*files):
    """KiB that decoding these takes more than decoding a short file, in a process of its own."""
    script = """
import resource, sys
from whisperd.engine.audio import AudioTooLong, Limits, decode
def peak(file):
    with open(file, "rb") as source, open("/dev/null", "wb") as target:
        try:
            decode(source, target, split=False, limits=Limits(seconds=3600), tick=lambda seconds: None)
        except AudioTooLong:
            pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak(sys.argv[1])
print(max(peak(file) for file in sys.argv[2:]) - before)
"""
    short = CORPUS / "hostile" / "g01_silence_30s.flac"
    command = [sys.executable, "-c", script, str(short), *map(str, files)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


def test_memory_does_not_grow_with_the_audio():
    assert more_memory(CORPUS / "hostile" / "b02_24h_silence.flac") < 20_000  # its first hour is 115 MB


def test_cover_art_is_not_decoded(tmp_path):
    side = 6000  # pixels: 108 MB as RGB, 100 kB as PNG

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(side * (3 * side + 1))))
    picture = b"\0image/png\0\3\0" + png + chunk(b"IEND", b"")
    frame = b"APIC" + struct.pack(">I", len(picture)) + b"\0\0" + picture
    length = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    file = tmp_path / "cover.mp3"
    file.write_bytes(b"ID3\3\0\0" + length + frame + (CORPUS / "speech" / "jfk" / "jfk.mp3").read_bytes())

    assert more_memory(file) < 20_000


def test_a_stereo_file_is_mixed_to_the_mean_of_its_channels():
    left, right = noise(seed=1), noise(seed=2)
    decoded, samples = run(wav(np.stack([left, right], axis=1)))

    assert decoded.channels == 1
    assert np.abs(samples[:, 0] - (left.astype(int) + right) / 2).max() <= 0.5


def test_channels_that_cancel_each_other_are_not_mixed():
    left = noise()
    decoded, samples = run(wav(np.stack([left, -left + noise(seed=1) // 50], axis=1)))

    assert decoded.warnings == ("phase_inverted",)
    assert np.array_equal(samples[:, 0], left)


@pytest.mark.parametrize("other", ["silent", "same", "another"])
def test_channels_that_do_not_cancel_are_mixed(other):
    left = noise()
    right = {"silent": np.zeros_like(left), "same": left, "another": noise(seed=1)}[other]

    assert run(wav(np.stack([left, right], axis=1)))[0].warnings == ()


def test_a_faint_hiss_of_opposite_phase_is_not_called_inverted():
    hiss = noise() // 500

    assert run(wav(np.stack([hiss, -hiss], axis=1)))[0].warnings == ()


def test_split_keeps_both_channels_apart():
    stereo = np.stack([noise(seed=1), noise(seed=2)], axis=1)
    decoded, samples = run(wav(stereo), split=True)

    assert decoded.channels == 2
    assert np.array_equal(samples, stereo)


def test_split_of_a_mono_file_gives_one_channel():
    assert run(wav(noise()[:, None]), split=True)[0].channels == 1


def test_split_keeps_the_first_two_of_nameless_channels_and_says_so():
    three = np.stack([noise(seed=n) for n in range(3)], axis=1)
    decoded, samples = run(wav(three), split=True)

    assert decoded.warnings == ("channels_dropped",)
    assert np.array_equal(samples, three[:, :2])


@pytest.mark.parametrize(("channels", "speaker"), [(3, 2), (4, 0), (6, 3), (9, 8), (31, 17)])
def test_every_nameless_channel_is_heard_in_the_mix(channels, speaker):
    spoken = np.zeros((RATE, channels), np.int16)
    spoken[:, speaker] = noise()
    _, samples = run(wav(spoken))

    assert np.corrcoef(samples[:, 0], noise())[0, 1] > 0.99


def test_speech_in_the_front_centre_of_5_1_is_in_both_halves_of_a_split(jfk):
    with (CORPUS / "hostile" / "d07_5_1ch_48k.wav").open("rb") as source:
        decoded, samples = run(source, split=True)

    assert decoded.channels == 2
    assert min(likeness(samples[:, 0], jfk), likeness(samples[:, 1], jfk)) > 0.95


def test_a_file_that_begins_in_mono_stays_mono_in_a_split():
    with (CORPUS / "hostile" / "f02_rate_change.mp3").open("rb") as source:
        assert run(source, split=True)[0].channels == 1


def test_the_limit_acts_on_decoded_seconds():
    audio = wav(noise(10)[:, None])

    assert run(audio, seconds=10)[0].samples == 10 * RATE
    with pytest.raises(AudioTooLong):
        run(wav(noise(10)[:, None]), seconds=9.9)


@pytest.mark.parametrize(
    ("rate", "channels"), [(1, 1), (1_000, 1), (500_000, 1), (16_000, 33), (44_100, 300)]
)
def test_rates_and_channels_out_of_bounds_are_refused(rate, channels):
    with pytest.raises(UnsupportedMedia):
        run(wav(np.zeros((3000, channels)), rate=rate))


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_every_usual_rate_is_resampled_to_the_right_length_and_tone(rate):
    tone = 8000 * np.sin(2 * np.pi * 440 * np.arange(3 * rate) / rate)
    decoded, samples = run(wav(tone[:, None], rate=rate))

    spectrum = np.abs(np.fft.rfft(samples[: 2 * RATE, 0]))
    assert abs(decoded.samples - 3 * RATE) <= 1
    assert spectrum.argmax() == 2 * 440
    assert samples[RATE : 2 * RATE].max() == pytest.approx(8000, rel=0.02)


def test_ticks_rise_and_end_with_the_duration():
    ticks = []
    with (CORPUS / "speech" / "long" / "lj001_concat.opus").open("rb") as source:
        decoded, _ = run(source, tick=ticks.append)

    assert len(ticks) > 20
    assert ticks == sorted(ticks)
    assert ticks[-1] == decoded.samples / RATE


def test_what_the_tick_raises_ends_the_decoding():
    def stop(seconds):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run(wav(noise(1)[:, None]), tick=stop)


class Failing(io.BytesIO):
    """A file on a disk that fails past its first few blocks."""

    def read(self, size=-1):
        if self.tell() > 100_000:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_cannot_be_read_is_not_blamed_on_the_audio():
    with pytest.raises(OSError, match="Input/output error") as raised:
        run(Failing(wav(noise(10)[:, None]).getvalue()))

    assert not isinstance(raised.value, AudioError)


def test_a_full_disk_is_not_blamed_on_the_audio():
    with pytest.raises(OSError, match="No space left"):
        run(wav(noise(1)[:, None]), target=Failing())


def test_a_title_that_is_not_utf_8_does_no_harm():
    data = noise().tobytes()
    title = b"INAM" + struct.pack("<I", 4) + b"\xe9t\xe9\x00"
    chunks = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    chunks += b"LIST" + struct.pack("<I", 4 + len(title)) + b"INFO" + title
    chunks += b"data" + struct.pack("<I", len(data)) + data
    file = io.BytesIO(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)

    assert run(file)[0].samples == RATE


def test_each_error_has_its_own_code():
    assert [error.code for error in (UnsupportedMedia, NoAudio, AudioTooLong)] == [
        "unsupported_media",
        "no_audio",
        "audio_too_long",
    ]
