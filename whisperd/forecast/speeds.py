"""How long work takes, as it was measured of late: of chunks and plans by model, device and threads.

Pure: keeps what it is told, and says what it thinks. A chunk costs its window, however short it is, and then
so much a second: hence a straight line, and not a factor.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from math import ceil
from pathlib import PurePath
from statistics import fmean, median

from msgspec import Struct

from whisperd.forecast.line import Running, Standing, Work
from whisperd.task import PLAN, SAMPLE_RATE, Cut, Effort, Plan, Task

REMEMBERED = 200  # measurements of a kind
KINDS = 64  # are kept, those that were measured last: names of files and models are others' to choose
FITTED = 60  # of the last, so 1770 pairs
FULL_CHUNK = 25.0  # seconds of speech in one of many; none has more than 28
ODD = 3.0  # times as long as the line says it loaded its model, or stood still: no work is like that
NEWS = 0.05  # the share of new measurements from which on the line through the last of them is drawn anew
SLOW = 0.9  # the share of work that is not slower than the slow one
BYTES_A_SECOND = 16_000.0  # of audio of which nothing is known: 128 kbit/s


class Measured(Struct, frozen=True):
    """Of one kind of work: pairs of its size and the seconds it took, the oldest first."""

    kind: str  # "chunk" and "plan", by seconds of audio; "speech" and "length": seconds in seconds, in bytes
    of: str  # a model; of a length the suffix of a name
    device: str = ""
    threads: int = 0
    pairs: Sequence[tuple[float, float]] = ()


class Speed:
    """The straight line through measurements of one kind, and how far the slow ones lie above it.

    Its slope and base are medians, but a line of tasks takes the sum of what each takes, and work strays more
    to the slow side: by its median it would be over too early, so the line is raised to the mean.
    """

    def __init__(self, pairs: Sequence[tuple[float, float]]) -> None:
        self._pairs = pairs

    @cached_property
    def rate(self) -> float:
        """The seconds to the size, of all."""
        whole = sum(size for size, _ in self._pairs)
        return sum(seconds for _, seconds in self._pairs) / whole if whole else 0.0

    def seconds(self, size: float, *, slow: bool = False) -> float:
        return self._usual(size) * (self._slowness if slow else self._mean)

    def left(self, size: float, since: float, *, slow: bool = False) -> float:
        """After so many seconds: what those that took longer took beyond them, on average.

        A text that goes round is heard again and again: who has worked long is likely to work for long.
        """
        usual, whole = self._usual(size), self.seconds(size, slow=slow)
        longer = [ratio for ratio in self._ratios[-FITTED:] if ratio * usual > since]
        longer = [ratio for ratio in longer if ratio < ODD] or longer
        left = fmean(longer) * usual - since if longer else whole / 10
        return max(left, whole - since) if slow else left

    def _usual(self, size: float) -> float:
        return max(self._base + self._slope * size, self._least)

    @cached_property
    def _slope(self) -> float:
        """The median over all pairs (Theil, Sen): one chunk that had to load its model moves nothing."""
        last = self._pairs[-FITTED:]
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(last, 2) if abs(b[0] - a[0]) > 0.5]
        return max(0.0, median(slopes)) if slopes else 0.0

    @cached_property
    def _base(self) -> float:
        return median(seconds - self._slope * size for size, seconds in self._pairs[-FITTED:])

    @cached_property
    def _least(self) -> float:
        return min(seconds for _, seconds in self._pairs[-FITTED:]) / 2

    @cached_property
    def _mean(self) -> float:
        return fmean([ratio for ratio in self._ratios[-FITTED:] if ratio < ODD] or [1.0])

    @cached_property
    def _slowness(self) -> float:
        ratios = sorted(self._ratios) or [1.0]
        return max(self._mean, ratios[min(len(ratios) - 1, int(SLOW * len(ratios)))])

    @cached_property
    def _ratios(self) -> Sequence[float]:
        """Of what each took to what it usually takes."""
        usual = [(seconds, self._usual(size)) for size, seconds in self._pairs]
        return [seconds / line for seconds, line in usual if line > 0]


_Key = tuple[str, str, str, int]


class Measurements:
    """What was measured, the last few hundred of each kind."""

    def __init__(self, known: Iterable[Measured] = ()) -> None:
        self._pairs: dict[_Key, deque[tuple[float, float]]] = {}
        self._speeds: dict[_Key, Speed] = {}
        self._news: Counter[_Key] = Counter()  # measurements since they were drawn
        self._unkept: set[_Key] = set()
        for one in known:
            self._pairs[one.kind, one.of, one.device, one.threads] = deque(one.pairs, REMEMBERED)

    def planned(self, task: Task, plan: Plan, effort: Effort) -> None:
        self._note(("plan", task.model, effort.device, effort.threads), plan.duration, effort.seconds)
        self._note(("length", _suffix(task.audio.name), "", 0), task.audio.size, plan.duration)
        if not task.options.detect_only:
            speech = sum(cut.samples for cut in plan.cuts) / SAMPLE_RATE
            self._note(("speech", "", "", 0), plan.duration, speech)

    def transcribed(self, task: Task, cut: Cut, effort: Effort) -> None:
        key = ("chunk", task.model, effort.device, effort.threads)
        self._note(key, cut.samples / SAMPLE_RATE, effort.seconds)

    def _note(self, key: _Key, size: float, value: float) -> None:
        pairs = self._pairs.pop(key, None)
        self._pairs[key] = deque(maxlen=REMEMBERED) if pairs is None else pairs  # behind all others
        self._pairs[key].append((round(size, 3), round(value, 4)))
        self._news[key] += 1
        self._unkept.add(key)
        if len(self._pairs) > KINDS:
            first = next(iter(self._pairs))
            del self._pairs[first]
            self._speeds.pop(first, None)
            self._news.pop(first, None)
            self._unkept.discard(first)

    def unkept(self) -> Sequence[Measured]:
        """What has been measured since this was asked last."""
        keys, self._unkept = self._unkept, set()
        return [Measured(*key, list(pairs)) for key, pairs in self._pairs.items() if key in keys]

    def speeds(self) -> Speeds:
        """As of now, but for a few of many measurements; what is measured later does not change them."""
        for key, pairs in self._pairs.items():
            if key not in self._speeds or self._news[key] > NEWS * min(len(pairs), FITTED):
                self._speeds[key], self._news[key] = Speed(list(pairs)), 0
        return Speeds({key: self._speeds[key] for key in self._pairs})


class Speeds:
    """What is thought of work to come. May be asked on any thread."""

    def __init__(self, by_kind: Mapping[_Key, Speed]) -> None:
        self._by_kind = by_kind  # what was measured last comes last
        self._found: dict[tuple[str, str, bool], Speed | None] = {}

    @property
    def known(self) -> bool:
        """Whether there is anything to go by."""
        return any(kind == "chunk" for kind, *_ in self._by_kind)

    def knows(self, model: str) -> bool:
        return self._of("chunk", model) is not None

    def work(self, task: Standing, *, slow: bool = False) -> Work:
        """Of a model that was never measured: as if it were the one that was measured last."""
        if task.planned:
            count, audio = task.waiting, task.audio_left / max(1, task.waiting)
            return Work(None, count, self._seconds("chunk", task.model, audio, slow), audio)
        length = self.length(task)
        speech = self.speech(length)
        count = max(1, ceil(speech / FULL_CHUNK))
        each = self._seconds("chunk", task.model, speech / count, slow)
        return Work(self._seconds("plan", task.model, length, slow), count, each, speech / count)

    def left(self, task: Standing, running: Running, since: float, *, slow: bool = False) -> float:
        """Seconds for a chunk that has been in work for `since` seconds."""
        kind, size = ("plan", self.length(task)) if running.number == PLAN else ("chunk", running.audio)
        found = self._of(kind, task.model, or_any=True)
        return found.left(size, since, slow=slow) if found else 0.0

    def length(self, task: Standing) -> float:
        """Seconds of audio: known, or else by the bytes of files with such a name."""
        if task.seconds is not None:
            return task.seconds
        found = self._of("length", _suffix(task.name), or_any=True)
        return task.size * found.rate if found else task.size / BYTES_A_SECOND

    def speech(self, seconds: float) -> float:
        """Seconds of speech in so much audio."""
        found = self._of("speech", "")
        return seconds * found.rate if found else seconds

    def _seconds(self, kind: str, model: str, size: float, slow: bool) -> float:
        found = self._of(kind, model, or_any=True)
        return found.seconds(size, slow=slow) if found else 0.0

    def _of(self, kind: str, of: str, *, or_any: bool = False) -> Speed | None:
        """As measured last, be it with another device or other threads: before a restart it may have been."""
        asked = kind, of, or_any
        if asked not in self._found:
            keys = [key for key in self._by_kind if key[0] == kind]
            same = [key for key in keys if key[1] == of]
            best = (same or (keys if or_any else []))[-1:]
            self._found[asked] = self._by_kind[best[0]] if best else None
        return self._found[asked]


def _suffix(name: str) -> str:
    """Of a file's name, which is its sender's: short, or none."""
    suffix = PurePath(name).suffix.lower()
    return suffix if len(suffix) <= 6 else ""
