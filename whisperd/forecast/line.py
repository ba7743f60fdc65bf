"""The vocabulary of a forecast: what stands in line and in work, and what comes of it. Unix seconds, UTC."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import islice

from msgspec import Struct


class Standing(Struct, frozen=True, kw_only=True):
    """A task that is not over, as it stands now."""

    seq: int
    tenant: str
    priority: int
    started: bool
    lined_at: float  # since when it waits
    run_at: float | None = None  # not in line before
    leader: int | None = None  # seq of the twin that it stands in line for
    model: str = ""
    name: str = ""  # of its audio
    size: int = 0  # bytes
    seconds: float | None = None  # of audio, where that is known
    planned: bool = False
    waiting: int = 1  # chunks to hand out: its plan, or those that it was cut into
    audio_left: float = 0.0  # seconds in the chunks that are not done


class Work(Struct, frozen=True):
    """What a task is thought to take from here on, beside what is in work."""

    plan: float | None  # seconds; None: its plan is made
    chunks: int  # to hand out now, or once the plan is made
    each: float  # seconds that one takes
    audio: float  # seconds of audio in each

    @property
    def seconds(self) -> float:
        """On one worker."""
        return (self.plan or 0.0) + self.chunks * self.each


class Running(Struct, frozen=True):
    """A chunk that a worker has."""

    task: int  # its seq
    number: int
    audio: float  # seconds


class InWork(Struct, frozen=True):
    """The same, and how long it is thought to take still."""

    task: int
    plan: bool
    seconds_left: float


class Share(Struct, frozen=True, kw_only=True):
    """Of a tenant at a priority, as migrations/0008_fair_share.sql has it."""

    priority: int
    tenant: str
    vtime: float
    known: int | None = None  # only so many of the next, by any rule, are among the tasks; None: all are


class Tenant(Struct, frozen=True):
    processing: int = 0  # tasks
    concurrent: int = 0  # of them at most; 0: no limit
    weight: float = 1.0


class Line(Struct, frozen=True, kw_only=True):
    """All that decides who is next."""

    now: float
    fifo: bool = False
    max_wait_seconds: float = 0.0
    heaviest: float = 1.0
    tasks: Sequence[Standing] = ()
    shares: Sequence[Share] = ()
    levels: Mapping[int, float] = {}
    tenants: Mapping[str, Tenant] = {}
    running: Sequence[Running] = ()


class Span(Struct, frozen=True):
    begins: float  # a worker takes its first chunk; of one that is started: now
    ends: float


class Forecast(Struct, frozen=True, kw_only=True):
    now: float
    spans: Mapping[int, Span]  # by seq, of those that were played
    beginnings: Sequence[float]  # in order, of those that stood in line
    turns: Mapping[int, int]  # by seq, how many of them begin before it; in the same order
    until: float  # so far it was played
    idle_from: float | None = None  # a worker finds nothing to do; None: not as far as it was played

    def ahead(self, seq: int, now: float) -> int | None:
        """How many begin before it and have not by now; None where that is not known."""
        turn = self.turns.get(seq)
        return None if turn is None else max(0, turn - self._begun(now))

    def before(self, seq: int, now: float) -> Sequence[int] | None:
        """The seqs of those."""
        ahead, begun = self.ahead(seq, now), self._begun(now)
        return None if ahead is None else list(islice(self.turns, begun, begun + ahead))

    def begins_behind(self, ahead: int, now: float | None = None) -> float:
        """When a task begins that is not among them and has so many before it: by the pace of those.

        Behind all of them, when a worker finds nothing else to do. `now`: those that have begun by then are
        not before it.
        """
        ahead += 0 if now is None else self._begun(now)
        if ahead < len(self.beginnings):
            return self.beginnings[ahead]
        if ahead == len(self.beginnings) and self.idle_from is not None:
            return max([self.idle_from, *self.beginnings[-1:]])
        each = (self.until - self.now) / max(1, len(self.beginnings))
        return self.until + (ahead - len(self.beginnings)) * each

    def _begun(self, now: float) -> int:
        """How many were to begin since; who was to begin at once may find the worker not yet there."""
        return bisect_right(self.beginnings, now) - bisect_right(self.beginnings, self.now)
