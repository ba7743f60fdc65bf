"""Where the speech is, and how it is cut into windows for Whisper.

Owns the plan of a task: probabilities become regions, regions with a little silence around become stretches
of audio that are kept, stretches are packed into windows of at most 28 s, and of a long window it says where
it may be parted. Pure of everything but NumPy: it reads samples and returns cuts. The same samples give the
same cuts.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from whisperd.engine.silero import BLOCK, FRAME, probabilities
from whisperd.task import SAMPLE_RATE, Cut, Piece

LONGEST_SECONDS = 28.0  # Whisper hears 30 s at once; the rest is room for its own padding
SHORTEST_SECONDS = 0.1  # whisper.cpp refuses less

# Silero's own defaults (0.5, 0.35) lose whispered and falsetto speech that Whisper still understands; noise,
# clicks, tones and tunes stay below 0.3 and hardly ever reach 0.1.
LIKELY = 0.35  # a region of speech reaches this probability somewhere
POSSIBLE = 0.10  # and goes on as long as this is reached,
BRIDGED_SECONDS = 0.3  # but for gaps this short
SPOKEN_SECONDS = 0.09  # three frames; less is a click
PADDING_SECONDS = 0.3  # of silence kept on both sides of a region; VAD finds a word's soft ends late
LEFT_OUT_SECONDS = 0.4  # silence between padded regions that is worth leaving out; so, a second in all

CELL_SECONDS = 1.0  # one place for a cut is considered in each
SMOOTHED_FRAMES = 9  # odd; 0.29 s
MID_WORD = 2.0  # cost of a cut through the loudest speech, in windows: worth two more encoder runs
SLIGHT = 0.1  # cost of a cut in a silence of no length; shrinks as it gets longer
STUMPY = 0.2  # cost of a window of no length; a lone word is recognised worse than a sentence
STUMPY_SECONDS = 5.0

PARTED_SECONDS = 20.0  # of a window that may be parted: of less than 10 s more is made up
MIDDLE = 0.4  # of the window, where it may be parted: two like parts take the least time
OFF_CENTRE = 0.2  # cost of a place a whole window away from its middle
DEAREST = 0.3  # cost of a place that will do; pauses cost 0.05 at most, the middle of speech 0.6 and more

_LONGEST = round(LONGEST_SECONDS * SAMPLE_RATE)
_SHORTEST = round(SHORTEST_SECONDS * SAMPLE_RATE)

Array = NDArray[np.float32]


class Break(NamedTuple):
    """A place where a window may end, and what that costs in windows."""

    sample: int
    cost: float


def plan_cuts(
    pcm: NDArray[np.int16], *, vad: bool, tick: Callable[[float], None] = lambda seconds: None
) -> list[Cut]:
    """What to transcribe of int16 audio at 16 kHz, shape (n, channels): cuts of 0.1 to 28 s, by their start.

    Every sample of every region of speech is in exactly one cut, next to some silence; with `vad` off, every
    sample is. Pieces are in order and disjoint. Each channel is planned on its own. Silence gives no cuts,
    nor does audio of less than 0.1 s. `tick` is called with the seconds of all channels examined so far.
    `pcm` may be a memory map: it is read in blocks.
    """
    seconds = len(pcm) / SAMPLE_RATE
    cuts: list[Cut] = []
    for channel in range(pcm.shape[1]):
        cuts += _plan_channel(pcm[:, channel], channel, vad=vad, tick=_later(tick, channel * seconds))
    return sorted(cuts, key=lambda cut: (cut.pieces[0].start, cut.channel))


def window(pcm: NDArray[np.int16], cut: Cut) -> Array:
    """The audio of a cut: float32, shape (cut.samples,), from -1 to 1; its pieces one after the other."""
    parts = [pcm[piece.start : piece.end, cut.channel] for piece in cut.pieces]
    return np.concatenate(parts).astype(np.float32) / np.float32(32768)


def to_source_time(cut: Cut, seconds: float, *, ending: bool = False) -> float:
    """Where a moment of a cut's window lies in the source, in seconds; never goes back as `seconds` goes on.

    Moments outside the window are taken for its start or end. The moment at which one piece ends and the
    next one starts belongs to the next one, unless it is the `ending` of something.
    """
    offset = max(0.0, seconds * SAMPLE_RATE)
    for piece in cut.pieces:
        length = piece.end - piece.start
        if offset < length or (ending and offset == length):
            return (piece.start + offset) / SAMPLE_RATE
        offset -= length
    return cut.pieces[-1].end / SAMPLE_RATE


def _plan_channel(
    samples: NDArray[np.int16], channel: int, *, vad: bool, tick: Callable[[float], None]
) -> Iterator[Cut]:
    speech = probabilities(samples, tick) if vad else np.ones(-(-len(samples) // FRAME), np.float32)
    kept = stretches(regions(speech), len(samples)) if vad else [Piece(0, len(samples))]
    if sum(piece.end - piece.start for piece in kept) < _SHORTEST:
        return
    breaks = list(_breaks(kept, _costs(kept, _levels(samples), speech)))
    for pieces in pack(kept, breaks):
        yield Cut(pieces=pieces, channel=channel, speech=_mean(speech, pieces), part=part(pieces, breaks))


def regions(speech: Array) -> list[Piece]:
    """Regions of speech, by probabilities of frames, (frames,): in samples, in order, with gaps between."""
    runs = _merged(_runs(speech >= POSSIBLE), _frames(BRIDGED_SECONDS))
    long_enough = [run for run in runs if run.end - run.start >= _frames(SPOKEN_SECONDS)]
    found = [run for run in long_enough if speech[run.start : run.end].max() >= LIKELY]
    return [Piece(run.start * FRAME, run.end * FRAME) for run in found]


def stretches(speech: Sequence[Piece], samples: int) -> list[Piece]:
    """Regions with their padding: the audio that is kept, in samples within [0, samples)."""
    padding = round(PADDING_SECONDS * SAMPLE_RATE)
    padded = [Piece(max(0, piece.start - padding), min(samples, piece.end + padding)) for piece in speech]
    return _merged(padded, round(LEFT_OUT_SECONDS * SAMPLE_RATE))


def pack(kept: Sequence[Piece], breaks: Sequence[Break]) -> list[tuple[Piece, ...]]:
    """The pieces of each window: all of `kept`, in order, at most 28 s and at least 0.1 s a window.

    `kept` is in order, disjoint, and 0.1 s or more in all. Windows end at `breaks`, or between two of `kept`;
    where these are too far apart, anywhere. Of all ways, one with the least sum of windows and of costs.
    """
    starts = _starts(kept)
    costs = _priced(kept, starts, breaks) | {0: 0.0, starts[-1]: 0.0}
    costs |= dict.fromkeys(_too_far_apart(sorted(costs)), MID_WORD)
    return [tuple(_between(kept, starts, *ends)) for ends in pairwise(_cheapest(sorted(costs.items())))]


def part(pieces: Sequence[Piece], breaks: Sequence[Break]) -> int:
    """Where a window may be parted in two: the samples before that place, 0 if it is short or has none.

    It is the cheapest place near its middle: one of `breaks`, which are in order, or between two of `pieces`.
    """
    starts = _starts(pieces)
    if starts[-1] < PARTED_SECONDS * SAMPLE_RATE:
        return 0
    ends = (pieces[0].start, pieces[-1].end)
    first, last = (bisect_left(breaks, end, key=lambda place: place.sample) for end in ends)
    costs = _priced(pieces, starts, breaks[first:last])
    off = {position: abs(position / starts[-1] - 0.5) for position in costs}
    near = [place for place, cost in costs.items() if cost <= DEAREST and off[place] <= MIDDLE / 2]
    return min(near, key=lambda place: costs[place] + OFF_CENTRE * off[place], default=0)


def _starts(pieces: Sequence[Piece]) -> list[int]:
    """Where each of them starts in a row of them, and where the row ends."""
    return [0, *accumulate(piece.end - piece.start for piece in pieces)]


def _priced(pieces: Sequence[Piece], starts: Sequence[int], breaks: Sequence[Break]) -> dict[int, float]:
    """What it costs to cut a row of pieces, by the samples of it before the cut."""
    costs = {_position(pieces, starts, place.sample): place.cost for place in breaks}
    for start, (before, after) in zip(starts[1:], pairwise(pieces), strict=False):
        costs[start] = SLIGHT / (1 + (after.start - before.end) / SAMPLE_RATE)
    return costs


def _position(kept: Sequence[Piece], starts: Sequence[int], sample: int) -> int:
    """A sample of the source, counted in samples kept before it; those left out count as nothing."""
    index = bisect_right(kept, sample, key=lambda piece: piece.start) - 1
    return min(starts[index] + sample - kept[index].start, starts[index + 1]) if index >= 0 else 0


def _between(kept: Sequence[Piece], starts: Sequence[int], start: int, end: int) -> Iterator[Piece]:
    """The pieces of the source between two positions, neither of them empty."""
    for index in range(bisect_right(starts, start) - 1, bisect_left(starts, end)):
        shift = kept[index].start - starts[index]
        yield Piece(max(start, starts[index]) + shift, min(end, starts[index + 1]) + shift)


def _too_far_apart(positions: Sequence[int]) -> Iterator[int]:
    """More positions, so that none is over half a window behind the one before: then all can be packed."""
    for before, after in pairwise(positions):
        parts = -(-(after - before) * 2 // _LONGEST)
        yield from (before + (after - before) * part // parts for part in range(1, parts))


def _cheapest(costs: Sequence[tuple[int, float]]) -> list[int]:
    """The ends of the windows that cost the least, the first 0: the shortest path, from left to right."""
    positions = [position for position, _ in costs]
    least, came_from = [0.0], [0]
    for position, cost in costs[1:]:
        earlier = range(
            bisect_left(positions, position - _LONGEST), bisect_right(positions, position - _SHORTEST)
        )
        paths = ((least[index] + 1 + _stumpy(position - positions[index]), index) for index in earlier)
        best, index = min(paths, default=(math.inf, 0))
        least.append(best + cost)
        came_from.append(index)
    ends = [len(positions) - 1]
    while ends[-1] > 0:
        ends.append(came_from[ends[-1]])
    return [positions[index] for index in reversed(ends)]


def _stumpy(samples: int) -> float:
    return STUMPY * max(0.0, 1 - samples / (STUMPY_SECONDS * SAMPLE_RATE))


def _breaks(kept: Sequence[Piece], costs: Array) -> Iterator[Break]:
    """The cheapest place for a cut in each second of what is kept, by the costs of frames."""
    cell = _frames(CELL_SECONDS)
    for piece in kept:
        for start in range(-(-piece.start // FRAME), piece.end // FRAME, cell):
            inside = costs[start : min(start + cell, piece.end // FRAME)]
            frame = int(inside.argmin())
            yield Break((start + frame) * FRAME + FRAME // 2, float(inside[frame]))


def _costs(kept: Sequence[Piece], levels: Array, speech: Array) -> Array:
    """What a cut in each frame would cost: nothing in silence, MID_WORD in the middle of loud speech.

    Loud and likely to be speech both: in a short pause the probability lags behind, in noise the level stays.
    """
    inside = np.concatenate([levels[piece.start // FRAME : -(-piece.end // FRAME)] for piece in kept])
    floor, peak = np.percentile(inside, [10, 90])
    loud = np.clip((levels - floor) / max(10.0, peak - floor), 0, 1)
    around = np.pad(loud, SMOOTHED_FRAMES // 2, mode="edge")  # a longer pause is a better one
    smooth = np.convolve(around, np.full(SMOOTHED_FRAMES, 1 / SMOOTHED_FRAMES), mode="valid")
    return (MID_WORD * smooth * speech).astype(np.float32)


def _levels(samples: NDArray[np.int16]) -> Array:
    """The level of each frame, in dB above a variance of 1; free of any DC offset."""
    levels = []
    for start in range(0, len(samples), BLOCK * FRAME):
        block = samples[start : start + BLOCK * FRAME].astype(np.float32)
        frames = np.pad(block, (0, -len(block) % FRAME), mode="edge").reshape(-1, FRAME)
        levels.append(10 * np.log10(1 + frames.var(axis=1)))
    return np.concatenate(levels)


def _runs(mask: NDArray[np.bool_]) -> list[Piece]:
    """Where it is true, from and to."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return [Piece(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _merged(pieces: Sequence[Piece], gap: int) -> list[Piece]:
    """With no gaps shorter than `gap` between them."""
    merged: list[Piece] = []
    for piece in pieces:
        if merged and piece.start - merged[-1].end < gap:
            merged[-1] = Piece(merged[-1].start, piece.end)
        else:
            merged.append(piece)
    return merged


def _mean(speech: Array, pieces: Sequence[Piece]) -> float:
    parts = [speech[piece.start // FRAME : -(-piece.end // FRAME)] for piece in pieces]
    return round(float(np.concatenate(parts).mean()), 3)


def _frames(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE / FRAME)


def _later(tick: Callable[[float], None], by: float) -> Callable[[float], None]:
    return lambda seconds: tick(by + seconds)
