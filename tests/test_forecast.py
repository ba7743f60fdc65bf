"""The forecast against the queue: the same line, played through by both, goes at the same times."""

import random
import sqlite3
from contextlib import closing, contextmanager
from heapq import heappop, heappush

import pytest
from msgspec import Struct
from msgspec.structs import replace

from tests.conftest import a_task
from whisperd.forecast.line import InWork, Work
from whisperd.forecast.play import forecast
from whisperd.sql import claims, holder, moves, standing
from whisperd.task import PLAN, Chunk, Cut, Limits, Piece, Plan, Rules

SECOND = 16_000  # samples
NOON = 1_000_000.0
PLANNING = 0.3  # seconds that a plan takes


class Sent(Struct, frozen=True):
    """A task: what is sent, and what it will turn out to be."""

    tenant: str = "a"
    priority: int = 0
    chunks: int = 1
    audio: int = 10  # seconds of each chunk
    delay: int | None = None  # its run_at, in seconds
    content: int = 0  # those of one tenant that have the same are twins; 0: of none


class World:
    """The queue's own SQL, and workers that take as long as they are told, on a clock that is moved."""

    def __init__(self, conn, rules, workers):
        self.conn, self.rules, self.workers = conn, rules, workers
        self.now = NOON
        self.busy = []  # until when, whose, and the chunk
        self.sent = {}  # by seq
        self.begins, self.ends = {}, {}

    def submit(self, sent):
        task = a_task(tenant=sent.tenant, priority=sent.priority)
        if sent.delay is not None:
            task = replace(task, run_at=self.now + sent.delay)
        elif sent.content:  # what is due later may find its twin then: that is not foretold
            audio = replace(task.audio, sha256=f"{sent.content:064}")
            sent = replace(sent, chunks=sent.content % 3, audio=10)
            task = replace(task, model_sha256="m", audio=audio)
        found, _ = moves.submit(self.conn, task, self.rules, 0.0, self.now)
        self.sent[found.seq] = sent

    def seconds(self, seq, plan):
        """No two ever end at the same time: which of them is first would be nobody's rule."""
        return (PLANNING if plan else self.sent[seq].audio / 7) + seq**0.5 * 1e-4

    def claim(self):
        while len(self.busy) < self.workers:
            found, _ = claims.take(self.conn, self.rules, self.now)
            if not isinstance(found, Chunk):
                return found
            seq = found.task.seq
            self.begins.setdefault(seq, self.now)
            until = self.now + self.seconds(seq, found.number == PLAN)
            heappush(self.busy, (until, seq, found.number, found))
        return 60.0

    def step(self):
        """Claim what can be, then on to what happens next; False once nothing is left."""
        patience = self.claim()
        (due,) = self.conn.execute("select min(run_at) from task").fetchone()
        until = min([self.busy[0][0]] if self.busy else [], default=None)
        if due is not None and len(self.busy) < self.workers and (until is None or due < until):
            self.now = self.now + patience
            return True
        if until is None:
            return False
        self.now, _, _, chunk = heappop(self.busy)
        for task in self._settle(chunk):
            if task.finished_at is not None:
                self.ends[task.seq] = self.now
        return True

    def _settle(self, chunk):
        sent = self.sent[chunk.task.seq]
        if chunk.number != PLAN:
            return holder.finish(self.conn, chunk, [], [], None, self.now)
        cuts = (Cut(pieces=(Piece(0, sent.audio * SECOND),)),) * sent.chunks
        plan = Plan(fingerprint="f", cuts=cuts, duration=60.0, language="en", model_sha256="m")
        return holder.plan(self.conn, chunk, plan, None, self.now)

    def forecast(self, **limits):
        in_work = [InWork(seq, number == PLAN, until - self.now) for until, seq, number, _ in self.busy]
        return forecast(
            standing.line(self.conn, self.rules, self.now), self.workers, in_work, self.work, **limits
        )

    def work(self, task):
        sent = self.sent[task.seq]
        plan = None if task.planned else self.seconds(task.seq, True)
        chunks = task.waiting if task.planned else sent.chunks
        return Work(plan, chunks, self.seconds(task.seq, False), sent.audio)


def play_on(world):
    while world.step():
        pass


@contextmanager
def a_world(empty, rules, workers=1):
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        empty.backup(conn)
        conn.row_factory = sqlite3.Row
        yield World(conn, rules, workers)


def some_tasks(chance):
    return [
        Sent(
            tenant=chance.choice("abc"),
            priority=chance.choice((0, 0, 5)),
            chunks=chance.randint(0, 4),
            audio=chance.choice((3, 10, 28)),
            delay=chance.choice((None, None, None, None, 3, 17)),
            content=chance.choice((0, 0, 0, 1, 2)),
        )
        for _ in range(chance.randint(1, 10))
    ]


def some_rules(chance):
    concurrent, weight = chance.randint(0, 2), chance.choice((1.0, 3.0))
    return Rules(
        order=chance.choice(("lifo", "fifo")),
        max_wait_seconds=chance.choice((0.0, 4.0)),
        limits=lambda tenant, plan: Limits(
            concurrent=concurrent if tenant == "a" else 0, weight=weight if tenant == "b" else 1.0
        ),
        heaviest=weight,
        cache_seconds=0.001,  # twins follow one another; copies of what is over are nothing of the line's
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_queue_does_what_was_foretold(empty, seed):
    chance = random.Random(seed)
    tasks, more, rules = some_tasks(chance), some_tasks(chance), some_rules(chance)
    workers, steps = chance.randint(1, 3), chance.randint(0, 25)
    with a_world(empty, rules, workers) as world:
        for sent in tasks:
            world.submit(sent)
        for _ in range(steps):
            world.step()
        for sent in more:
            world.submit(sent)
        world.claim()
        foretold, over = world.forecast(), set(world.ends)
        play_on(world)

        ends = {seq: round(at - NOON, 6) for seq, at in world.ends.items() if seq not in over}
        assert {seq: round(span.ends - NOON, 6) for seq, span in foretold.spans.items()} == ends
        begins = {seq: at for seq, at in world.begins.items() if seq not in over and at > foretold.now}
        told = {seq: span.begins for seq, span in foretold.spans.items() if seq in begins}
        assert told == pytest.approx(begins, abs=1e-6)


def test_what_lies_behind_the_part_that_is_played_is_foretold_by_its_pace(empty):
    with a_world(empty, Rules(order="fifo")) as world:
        for _ in range(400):
            world.submit(Sent(chunks=2))
        whole, part = world.forecast(), world.forecast(most_claims=200)

        for ahead in (10, 100, 399):
            exact = whole.beginnings[ahead] - NOON
            assert part.begins_behind(ahead) - NOON == pytest.approx(exact, rel=0.05)
        assert len(part.spans) < 100
        assert len(whole.spans) == 400


def test_what_comes_later_begins_when_a_worker_finds_nothing_else_to_do(empty):
    """And not when all is done that is at work: a file of hours may be."""
    with a_world(empty, Rules(order="fifo"), workers=2) as world:
        world.submit(Sent(chunks=1, audio=7000))
        world.claim()
        assert world.forecast().begins_behind(0) == world.now  # the other worker

        world.submit(Sent(chunks=1, audio=700))
        foretold = world.forecast()
        assert foretold.begins_behind(1) == min(span.ends for span in foretold.spans.values())


def test_of_a_line_that_is_too_long_to_be_read_what_is_at_work_is_known(empty, monkeypatch):
    """The newest were cut off: under lifo those at work, and the next."""
    monkeypatch.setattr(standing, "MOST_TASKS", 10)
    with a_world(empty, Rules(order="lifo", max_wait_seconds=30.0), workers=2) as world:
        for _ in range(100):
            world.submit(Sent(tenant="a", chunks=2))
        for _ in range(2):
            world.claim()

        line = standing.line(world.conn, world.rules, world.now + 60)
        assert {chunk.task for chunk in line.running} == {100, 99}
        assert {chunk.task for chunk in line.running} <= {task.seq for task in line.tasks}


def test_a_line_that_is_too_long_to_be_read_is_played_as_far_as_it_was(empty, monkeypatch):
    monkeypatch.setattr(standing, "MOST_TASKS", 40)
    with a_world(empty, Rules(order="lifo", max_wait_seconds=30.0), workers=2) as world:
        for number in range(300):
            world.submit(Sent(tenant="ab"[number % 2], chunks=1 + number % 3))
        foretold = world.forecast()
        play_on(world)

        played = {seq: span.ends for seq, span in foretold.spans.items() if span.ends <= foretold.until}
        assert len(played) >= 15
        assert played == pytest.approx({seq: world.ends[seq] for seq in played}, abs=1e-3)
