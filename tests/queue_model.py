"""A task as it should be: plain dictionaries, everything that can be counted is counted.

The queue keeps counters, indexes and triggers for what is derived here; test_queue_machine.py compares.
"""

from dataclasses import dataclass, field

from whisperd.task import FINAL, PLAN, Mark, Rules, State


class WithoutJitter(Rules, frozen=True, kw_only=True):
    def delay(self, failures):
        return min(self.max_retry_delay_seconds, self.retry_delay_seconds * 2.0**failures)


@dataclass
class Part:
    """A chunk of the model. `holder`: which of the claims ever made owns it."""

    samples: int = 0
    state: str = "waiting"
    failures: int = 0
    holder: int | None = None
    beat_at: float | None = None
    text: str | None = None

    def let_go(self, state):
        self.state, self.holder, self.beat_at = state, None, None


@dataclass
class Item:
    """A task of the model."""

    seq: int
    priority: int
    tenant: str
    max_retries: int
    created_at: float
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
    ends: list[State] = field(default_factory=list)  # each time that it was over

    @property
    def cuts(self):
        return {number: part for number, part in self.parts.items() if number != PLAN}

    @property
    def on_offer(self):
        """The chunks that may be handed out; while there is no plan, the plan alone."""
        if self.state in FINAL:
            return []
        candidates = self.cuts if self.parts[PLAN].state == "done" else {PLAN: self.parts[PLAN]}
        return sorted(number for number, part in candidates.items() if part.state == "waiting")

    @property
    def running(self):
        return [number for number, part in self.parts.items() if part.state == "running"]

    @property
    def in_line(self):
        return self.state == State.QUEUED and self.run_at is None

    @property
    def segments(self):
        """What may be shown: the text up to the first chunk that is not finished."""
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
            self.ends.append(State.COMPLETED)
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
        self.state, self.attempt, self.progress = State.QUEUED, 1, 0.0
        self.error = self.finished_at = self.started_at = None
        for part in self.parts.values():
            part.failures = 0
        self.parts[PLAN].let_go("waiting")

    def change(self, priority, run_at, now):
        self.priority = self.priority if priority is None else priority
        if run_at is not None:
            self.run_at, self.waits = (run_at if run_at > now else None), False

    def end(self, state, now, code=None):
        for part in self.parts.values():
            if part.state == "running":
                part.let_go("waiting")
        self.state, self.finished_at, self.run_at, self.error = state, now, None, code
        self.ends.append(state)
        self.waits = False

    def clock_jumped(self, seconds):
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
