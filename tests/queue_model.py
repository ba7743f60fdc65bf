"""A task, and the shares of tenants, as they should be: everything that can be counted is counted.

The queue keeps counters, indexes and triggers for what is derived here; test_queue_machine.py compares.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from whisperd.task import FINAL, PLAN, SAMPLE_RATE, Mark, Rules, State

PLAN_SECONDS = 1.0


class WithoutJitter(Rules, frozen=True, kw_only=True):
    def delay(self, failures):
        return min(self.max_retry_delay_seconds, self.retry_delay_seconds * 2.0**failures)


@dataclass
class Part:
    """A chunk of the model. `holder`: which of the claims ever made owns it."""

    samples: int = 0
    state: str = "waiting"
    failures: int = 0
    charge: float = 0.0  # what its last claim cost its tenant,
    charged_at: int = 0  # at this priority
    holder: int | None = None
    was_handed_out: bool = False
    beat_at: float | None = None
    text: str | None = None

    def let_go(self, state):
        self.state, self.holder, self.beat_at = state, None, None

    def seconds(self, number):
        return PLAN_SECONDS if number == PLAN else self.samples / SAMPLE_RATE


@dataclass
class Shares:
    """Who was given how much, by priority and tenant; where those start that come to a priority."""

    heaviest: float
    given: dict[tuple[int, str], float] = field(default_factory=dict)
    level: dict[int, float] = field(default_factory=dict)
    waiting: set[tuple[int, str]] = field(default_factory=set)

    def follow(self, items):
        """Tenants come to a priority, and leave it, with what they have on offer there."""
        waiting = {(item.priority, item.tenant) for item in items if item.offered}
        for key in waiting - self.waiting:
            self.given[key] = max(self.given.get(key, 0.0), self.level.get(key[0], 0.0))
        self.waiting = waiting

    def in_turn(self):
        return sorted(self.waiting, key=lambda key: (-key[0], self.given[key], key[1]))

    def charge(self, key, seconds, weight):
        charge = seconds / weight
        risen = self.given[key] + charge * weight / self.heaviest / 2
        self.given[key] += charge
        self.level[key[0]] = max(self.level.get(key[0], risen), risen)
        return charge

    def give_back(self, key, charge):
        if key in self.given:
            self.given[key] -= charge

    def forget(self):
        """Those who wait for nothing, and would start no earlier than somebody new."""
        busy = {priority for priority, _ in self.waiting}
        for key in self.given.keys() - self.waiting:
            if key[0] not in busy or self.given[key] <= self.level.get(key[0], -1.0):
                del self.given[key]


@dataclass
class Item:
    """A task of the model."""

    seq: int
    priority: int
    tenant: str
    max_retries: int
    created_at: float
    lined_at: float
    run_at: float | None
    timed: bool = False  # it has a time limit
    waits: bool = False  # run_at is the end of a wait between two attempts, and no time that a user chose
    state: State = State.QUEUED
    attempt: int = 1
    parts: dict[int, Part] = field(default_factory=lambda: {PLAN: Part()})
    planned: tuple[int, str] | None = None  # how many cuts, of which audio
    seconds: float | None = None
    progress: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    error: str | None = None
    ends: list[State] = field(default_factory=list)  # each time that it was over,
    # when; seconds of audio, and of work
    bills: list[tuple[float, State, float, float]] = field(default_factory=list)
    compute: float = 0.0  # seconds of work since it was submitted or retried
    content: str | None = None  # what it shares its transcript by
    leader: Item | None = None  # whose chunks it waits for

    @property
    def leads(self):
        return (
            self.content is not None
            and self.leader is None
            and self.state not in FINAL
            and (self.run_at is None or self.waits)
        )

    @property
    def cuts(self):
        return {number: part for number, part in self.parts.items() if number != PLAN}

    @property
    def on_offer(self):
        """The chunks that may be handed out; while there is no plan, the plan alone.

        Who follows another stands in line for it.
        """
        if self.state in FINAL:
            return []
        if self.leader:
            return self.leader.on_offer if self.leader.run_at is None else []
        candidates = self.cuts if self.parts[PLAN].state == "done" else {PLAN: self.parts[PLAN]}
        return sorted(number for number, part in candidates.items() if part.state == "waiting")

    @property
    def waiting(self):
        return min(1, len(self.on_offer)) if self.leader else len(self.on_offer)

    @property
    def offered(self):
        return bool(self.on_offer) and self.run_at is None

    @property
    def running(self):
        return [number for number, part in self.parts.items() if part.state == "running"]

    @property
    def in_line(self):
        return self.state == State.QUEUED and self.run_at is None and bool(self.on_offer)

    @property
    def segments(self):
        """What may be shown: the text up to the first chunk that is not finished."""
        if self.leader:
            return self.leader.segments
        found = []
        for number, part in sorted(self.cuts.items()):
            if part.state != "done":
                break
            found.append((Mark(number, 1), part.text))
        return found

    def advance(self):
        """Progress is the share of the audio that is done, and never goes back within an attempt."""
        whole = sum(part.samples for part in self.cuts.values())
        done = sum(part.samples for part in self.cuts.values() if part.state == "done")
        self.progress = max(self.progress, done / max(whole, 1))

    def settle(self, now):
        if self.running:
            return
        if not self.on_offer:
            self.state, self.finished_at, self.progress = State.COMPLETED, now, 1.0
            self.note_the_end()
            self.run_at = self.error = None
            self.waits = False
        elif self.run_at is not None:
            self.state = State.QUEUED

    def fail(self, number, code, delay, final, now):
        part = self.parts[number]
        part.failures += 1
        part.let_go("waiting")
        if final or part.failures > self.max_retries:
            self.end(State.FAILED, now, code)
            return
        self.attempt = max(self.attempt, part.failures + 1)
        self.error = code
        if delay > 0:
            self.run_at, self.waits = now + delay, True
        self.settle(now)

    def hand_back(self, part):
        part.let_go("waiting")
        if not self.running:
            self.state = State.QUEUED

    def cancel(self, now):
        self.end(State.CANCELLED, now)

    def retry(self, now):
        self.state, self.attempt, self.progress, self.compute = State.QUEUED, 1, 0.0, 0.0
        self.error = self.finished_at = self.started_at = None
        for part in self.parts.values():
            part.failures = 0
        self.parts[PLAN].let_go("waiting")

    def delay(self, run_at):
        self.run_at, self.waits = run_at, False
        if self.leader:
            self.leader = None
            self.parts[PLAN].let_go("waiting")

    def end(self, state, now, code=None):
        for part in self.parts.values():
            if part.state == "running":
                part.let_go("waiting")
        self.state, self.finished_at, self.run_at, self.error = state, now, None, code
        self.note_the_end()
        self.waits, self.leader = False, None

    def note_the_end(self):
        self.ends.append(self.state)
        audio = self.seconds or 0.0 if self.state == State.COMPLETED else 0.0
        self.bills.append((self.finished_at, self.state, audio, self.compute))

    def clock_jumped(self, seconds):
        self.lined_at += seconds
        for part in self.parts.values():
            part.beat_at = None if part.beat_at is None else part.beat_at + seconds
        if self.waits:
            self.run_at += seconds
        if self.timed and self.started_at is not None and self.state not in FINAL:
            self.started_at += seconds

    def come_back_to_the_present(self, longest_wait, now):
        if self.waits:
            self.run_at = min(self.run_at, now + longest_wait)
        if self.timed and self.started_at is not None and self.state not in FINAL:
            self.started_at = min(self.started_at, now)

    @property
    def decoded_seconds(self):
        """A copy, whose plan was never handed out, cost no decoding."""
        return self.seconds if self.parts[PLAN].was_handed_out else 0.0

    @property
    def finished(self):
        return sum(part.samples for part in self.cuts.values() if part.state == "done")

    def take_over(self, other):
        """The plan of another, and what is finished of it."""
        self.planned, self.seconds = other.planned, other.seconds
        parts = {
            number: Part(part.samples, "done", text=part.text) if part.state == "done" else Part(part.samples)
            for number, part in other.cuts.items()
        }
        self.parts = {PLAN: self.parts[PLAN], **parts}


@dataclass
class Items(dict):
    """The tasks of the model by their ids, and what they are to each other."""

    cache_seconds: float | None

    def followers(self, item):
        """The oldest first."""
        return sorted((other for other in self.values() if other.leader is item), key=lambda o: o.seq)

    def twins(self, item):
        if item.content is None:
            return []
        key = (item.tenant, item.content)
        return [o for o in self.values() if o is not item and (o.tenant, o.content) == key]

    def done_before(self, item, now):
        """The newest completed twin that is not too old."""
        if self.cache_seconds is None:
            return None
        done = [
            other
            for other in self.twins(item)
            if other.state == State.COMPLETED and now - self.cache_seconds < other.finished_at <= now
        ]
        return max(done, key=lambda other: other.finished_at, default=None)

    def leader(self, item):
        return next((other for other in self.twins(item) if other.leads), None)

    def enter(self, item, now):
        """It comes into line, and is no more delayed by anybody."""
        item.run_at, item.lined_at = None, now
        if self.cache_seconds is None:
            item.content = None
        elif done := self.done_before(item, now):
            self.copy(item, done, now)
        else:
            item.leader = self.leader(item)

    def copy(self, item, done, now):
        item.take_over(done)
        item.parts[PLAN].let_go("done")
        item.started_at = max(item.created_at, done.started_at)
        item.end(State.COMPLETED, now)
        item.progress, item.content = 1.0, None

    def settle(self, now):
        """Nobody follows what is over, or was delayed by hand; the others are as far as their leader."""
        for item in sorted(self.values(), key=lambda item: item.seq):
            for other in self.followers(item):
                if item.state == State.COMPLETED:
                    self.copy(other, item, now)
                elif item.state in FINAL or not (item.run_at is None or item.waits):
                    other.leader = self.leader(other)
                    if other.leader is None:
                        self.inherit(other, item)

    def inherit(self, heir, item):
        if item.finished > heir.finished:
            heir.take_over(item)
        heir.parts[PLAN].let_go("waiting")
