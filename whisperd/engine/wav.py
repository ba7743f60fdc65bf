"""A WAV file of decoded audio, with nothing in the stretches that nobody is to hear."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct
from typing import BinaryIO

from whisperd.engine.audio import Decoded, Limits, decode
from whisperd.task import SAMPLE_RATE, Piece

HEADER = Struct(
    "<4sI4s4sIHHIIHH4sI"
)  # RIFF, fmt and data: https://www.mmsp.ece.mcgill.ca/Documents/AudioFormats/WAVE
BLOCK = 1 << 20  # bytes of silence written at once
_SAMPLE = 2  # bytes
_PCM = 1
_LARGEST = 2**32 - 1  # bytes that a header can tell of; players read on to the end of the file


def write_muted(
    source: BinaryIO,
    target: BinaryIO,
    silent: Iterable[Piece],
    *,
    split: bool,
    limits: Limits,
    tick: Callable[[float], None],
) -> None:
    """Decode `source` into `target`, a new file, with zeros for the samples of `silent` in all channels.

    What lies behind the end of the audio is passed over. Raises what `decode` does: then `target` is of no
    use.
    """
    target.write(bytes(HEADER.size))  # what it says is known at the end
    decoded = decode(source, target, split=split, limits=limits, tick=tick)
    for piece in silent:
        _silence(target, piece, decoded)
    target.seek(0)
    target.write(_header(decoded))


def _silence(target: BinaryIO, piece: Piece, decoded: Decoded) -> None:
    width = decoded.channels * _SAMPLE
    start, end = max(0, piece.start), min(piece.end, decoded.samples)
    target.seek(HEADER.size + start * width)
    left = max(0, end - start) * width
    while left:
        left -= target.write(bytes(min(left, BLOCK)))


def _header(decoded: Decoded) -> bytes:
    width = decoded.channels * _SAMPLE
    size = min(decoded.samples * width, _LARGEST - HEADER.size)
    riff, form = HEADER.size - 8 + size, 16  # bytes of the chunks: RIFF without its own head, fmt
    rates = (SAMPLE_RATE, SAMPLE_RATE * width)
    shape = (_PCM, decoded.channels, *rates, width, 8 * _SAMPLE)
    return HEADER.pack(b"RIFF", riff, b"WAVE", b"fmt ", form, *shape, b"data", size)
