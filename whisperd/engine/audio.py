"""Decoding: any media file in, signed 16-bit PCM at 16 kHz out.

Runs only in the worker child. Owns everything FFmpeg sees of a file: an open file object without a name,
read by demuxers and decoders of two whitelists, none of which may open anything else (RELIABILITY.md,
finding 11). Memory is bounded by the block, never by the file. Declared durations are believed by nobody:
the limit acts on decoded samples. What a damaged file still holds is kept and marked, as the ffmpeg program
would keep it, where PyAV by itself would give up (finding 13).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, BinaryIO, NoReturn, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard, Disposition
from msgspec import Struct
from numpy.typing import NDArray

from whisperd.task import SAMPLE_RATE

# Demuxers of media files; no playlists, scripts, devices or images. Names as in `ffmpeg -demuxers`.
FORMATS = "wav,w64,aiff,au,caf,mp3,flac,ogg,mov,matroska,webm,asf,avi,mpegts,flv,amr,aac,ac3,wv,tta"
PARTIAL_AUDIO = "partial_audio"
PHASE_INVERTED = "phase_inverted"
CHANNELS_DROPPED = "channels_dropped"

BLOCK = 1 << 15  # samples of the source converted at once: a call a packet would double the decoding time
LARGEST_FRAME = 1 << 20  # samples a channel; ALAC headers may ask for 16 times that
PACKETS_PER_TICK = 512  # 10 s of Opus; counted in packets, so that a long stretch of junk ticks too
CANCELLED = 0.05  # power of the down-mix against its channels, below which they cancel out (-13 dB)
SILENT = 30.0  # root mean square of samples below which a block says nothing about its phase (-60 dBFS)


class AudioError(Exception):
    """Base class: the file cannot be transcribed, now or ever. The message is safe to show to a user."""

    code = "unsupported_media"


class UnsupportedMedia(AudioError):
    """Not media, media of a kind that is not accepted, or nothing in it can be decoded."""


class NoAudio(AudioError):
    """Media without an audio stream, or with one of no samples."""

    code = "no_audio"


class AudioTooLong(AudioError):
    """More seconds were decoded than are allowed."""

    code = "audio_too_long"


class Limits(Struct, frozen=True, kw_only=True):
    """What a file may ask for; beyond it decoding ends with an error."""

    seconds: float = 12 * 3600.0  # of decoded audio
    channels: int = 32
    lowest_rate: int = 2_000  # Hz; bounds how much one block grows
    highest_rate: int = 384_000  # Hz


class Decoded(Struct, frozen=True, kw_only=True):
    """What was written: `samples` frames of `channels` signed 16-bit little-endian values each."""

    samples: int
    channels: int
    warnings: tuple[str, ...] = ()  # PARTIAL_AUDIO, PHASE_INVERTED, CHANNELS_DROPPED


def decode(
    source: BinaryIO, target: BinaryIO, *, split: bool, limits: Limits, tick: Callable[[float], None]
) -> Decoded:
    """Decode the default or first audio stream of `source`, a seekable file at its start, into `target`.

    `target` gets interleaved int16 little-endian frames at 16 kHz, shape (samples, channels): one channel
    mixed down, or with `split` up to two as they are (a mono source gives one). `tick` is called with the
    seconds decoded so far, every few hundred packets. After an error `target` holds a part of the audio.

    Raises UnsupportedMedia, NoAudio, AudioTooLong; OSError of either file; MemoryError; what `tick` raises.
    """
    with _opened(source) as container:
        stream = _audio_stream(container, limits)
        writer = _Writer(target, split=split, limits=limits)
        damage = _drain(container, stream, writer, tick)
        if writer.samples == 0:
            raise _nothing(damage)
        if damage.inside or _falls_short(container, stream, writer.seconds):
            writer.warnings.add(PARTIAL_AUDIO)
    tick(writer.seconds)
    warnings = tuple(sorted(writer.warnings))
    return Decoded(samples=writer.samples, channels=writer.channels, warnings=warnings)


def _nothing(damage: _Damage) -> AudioError:
    return (
        UnsupportedMedia("its audio cannot be decoded") if damage.failures else NoAudio("it has no samples")
    )


def _opened(source: BinaryIO) -> InputContainer:
    options = {
        "format_whitelist": FORMATS,
        "protocol_whitelist": "none",  # no protocol has this name; PyAV's own reader needs none
        "codec_whitelist": _audio_decoders(),  # else probing decodes video and cover art too
        "max_samples": str(LARGEST_FRAME),
    }
    file = _Nameless(source)
    try:
        return av.open(file, mode="r", options=options, metadata_errors="ignore", io_open=_refuse)
    except MemoryError:
        raise  # of FFmpeg's too; the caller's to judge
    except av.FFmpegError as error:
        raise UnsupportedMedia("not a media file of a supported kind") from error


class _Nameless:
    """The file without its name: by it a demuxer could guess a format, or find the files beside it."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise UnsupportedMedia("the file refers to other files")


@cache
def _audio_decoders() -> str:
    return ",".join(sorted(filter(_decodes_audio, av.codecs_available)))


def _decodes_audio(name: str) -> bool:
    try:
        codec = av.Codec(name, "r")
    except av.codec.codec.UnknownCodecError:
        return False  # it only encodes
    return codec.type == "audio" and codec.name == name


def _audio_stream(container: InputContainer, limits: Limits) -> AudioStream:
    """The audio stream flagged default, else the first; all others are left unread."""
    streams = container.streams.audio
    if not streams:
        raise NoAudio("there is no audio stream in it")
    chosen = next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])
    if chosen.codec_context is None:
        raise UnsupportedMedia("the audio is of an unknown codec")
    _check(chosen.codec_context.sample_rate, chosen.codec_context.channels, limits)
    for stream in container.streams:
        stream.discard = Discard.default if stream.index == chosen.index else Discard.all
    chosen.codec_context.thread_count = 1  # workers run side by side; a codec's threads would only contend
    chosen.codec_context.options = {"max_samples": str(LARGEST_FRAME)}
    return chosen


def _check(rate: int, channels: int, limits: Limits) -> None:
    if rate and not limits.lowest_rate <= rate <= limits.highest_rate:  # 0: known with the first frame
        raise UnsupportedMedia(f"its sample rate of {rate} Hz is out of bounds")
    if channels > limits.channels:
        raise UnsupportedMedia(f"it has {channels} channels, more than {limits.channels}")


def _drain(
    container: InputContainer, stream: AudioStream, writer: _Writer, tick: Callable[[float], None]
) -> _Damage:
    """Write all that can be decoded: a packet that cannot is skipped, a file that cannot be read on ends."""
    damage = _Damage(writer)
    with damage:
        for number, packet in enumerate(container.demux(stream), start=1):
            with damage:
                for frame in packet.decode():
                    writer.write(frame)
            if number % PACKETS_PER_TICK == 0:
                tick(writer.seconds)
    with damage:
        writer.flush()
    return damage


class _Damage:
    """Swallows what FFmpeg says of bad data, and keeps count; not the lack of memory."""

    def __init__(self, writer: _Writer) -> None:
        self._writer = writer
        self.failures = 0
        self.inside = False  # past the first sound: many a good MP3 begins with junk

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, av.FFmpegError) or isinstance(error, MemoryError):
            return False
        self.failures += 1
        self.inside |= self._writer.started and not isinstance(error, EOFError)
        return True


def _falls_short(container: InputContainer, stream: AudioStream, seconds: float) -> bool:
    """Whether the file promised clearly more than came out, and could know."""
    declared = _declared_seconds(container, stream)
    guessed = container.size * 8 / (stream.codec_context.bit_rate or 1)
    if abs(declared - guessed) < 0.02 * declared:
        return False  # FFmpeg's own guess by size and bit rate, for want of a header
    return seconds < 0.99 * declared - 0.5


def _declared_seconds(container: InputContainer, stream: AudioStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1  # else it may be that of a longer video
    return container.duration / av.time_base if container.duration and alone else 0.0


class _Writer:
    """Converts decoded frames to 16 kHz, mixes them, and appends them to the target.

    The number of channels is settled by the first frame and then holds, whatever the stream changes to.
    """

    def __init__(self, target: BinaryIO, *, split: bool, limits: Limits) -> None:
        self._target = target
        self._split = split
        self._limits = limits
        self._shape: tuple[str, str, int] | None = None  # sample format, layout, rate of the frames in hand
        self._waiting = av.AudioFifo()
        self._resampler = av.AudioResampler()
        self.channels = 0
        self.samples = 0
        self.warnings: set[str] = set()

    @property
    def started(self) -> bool:
        return self._shape is not None

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    def write(self, frame: AudioFrame) -> None:
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:
            self.flush()
            _check(frame.sample_rate, frame.layout.nb_channels, self._limits)
            self._begin(frame)
            self._shape = shape
        frame.pts = None  # the FIFO refuses gaps; after damage there are some
        self._waiting.write(frame)
        if self._waiting.samples >= BLOCK:
            self._convert(self._waiting.read())

    def flush(self) -> None:
        self._convert(self._waiting.read())
        self._convert(None)

    def _begin(self, frame: AudioFrame) -> None:
        channels = frame.layout.nb_channels
        named = all(channel.name.isalpha() and channel.name != "NONE" for channel in frame.layout.channels)
        # FFmpeg knows what 5.1 sounds like in stereo; of nameless channels it would take some for
        # subwoofers and drop them, so these are kept, and mixed or dropped by us.
        layout = "stereo" if channels > 2 and named else frame.layout
        self._waiting = av.AudioFifo()
        self._resampler = av.AudioResampler("s16", layout, SAMPLE_RATE)
        self.channels = self.channels or (2 if self._split and channels > 1 else 1)

    def _convert(self, frame: AudioFrame | None) -> None:
        """Frames of the source to blocks of the target; None empties the resampler."""
        for resampled in self._resampler.resample(frame):
            if resampled is None:  # what a resampler with nothing to do makes of None, whatever its types say
                return
            self._append(resampled.to_ndarray().reshape(-1, resampled.layout.nb_channels))

    def _append(self, block: NDArray[Any]) -> None:
        fitted = self._fit(block).astype("<i2")
        self._target.write(fitted.tobytes())
        self.samples += len(fitted)
        if self.seconds > self._limits.seconds:
            raise AudioTooLong(f"it is longer than the {self._limits.seconds:.0f} s allowed")

    def _fit(self, block: NDArray[Any]) -> NDArray[Any]:
        """Shape (n, any number of channels) to (n, self.channels)."""
        if block.shape[1] == self.channels:
            return block
        if self.channels == 1:
            return self._mix(block)
        if block.shape[1] == 1:
            return np.repeat(block, 2, axis=1)
        self.warnings.add(CHANNELS_DROPPED)
        return block[:, :2]

    def _mix(self, block: NDArray[Any]) -> NDArray[Any]:
        """The mean of the channels, shape (n, 1); the left one where two would cancel each other out."""
        wide = block.astype(np.float32)
        middle = wide.mean(axis=1, keepdims=True)
        if block.shape[1] == 2 and _cancel(wide, middle):
            self.warnings.add(PHASE_INVERTED)
            return block[:, :1]  # as loud as the right one, or they would not cancel
        return cast(NDArray[Any], np.rint(middle))


def _cancel(channels: NDArray[np.float32], middle: NDArray[np.float32]) -> bool:
    """Whether a down-mix lost nearly all power: phase-inverted channels, as a miswired plug makes them."""
    power = float(np.mean(channels * channels))
    return power > SILENT**2 and float(np.mean(middle * middle)) < CANCELLED * power
