"""The queue against the model of it: whatever is done, in whatever order, both say the same.

After every step each number that the queue keeps is compared with what the model derives by counting.
"""

import asyncio
import os
import sqlite3
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.conftest import Clock, a_task
from tests.queue_model import Item, Items, Part, Shares, WithoutJitter
from whisperd.db import Database
from whisperd.delivery import DeliveryQuery
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.sql import outbox, questions
from whisperd.sql.usage import sums
from whisperd.task import (
    FINAL,
    PLAN,
    Change,
    Chunk,
    Cut,
    Effort,
    IdempotencyConflict,
    Limits,
    ListQuery,
    LostClaim,
    Mark,
    Options,
    Piece,
    Plan,
    Problem,
    QueueFull,
    Segment,
    State,
    TaskNotFound,
    TenantQueueFull,
    WrongState,
    content_of,
)
from whisperd.usage import UsageQuery

MEMORY = "/dev/shm"  # thousands of commits, and what a disk does to them is not the point here
MAX_WAITING = 6
KEY_SECONDS = 1000.0
CONCURRENT = {"one": 1, "two": 2}  # "free" has the limits of its plan, if it has one
WEIGHTS = {"one": 3.0, "two": 0.5}
SMALL = "small"  # the one plan there is: one task at a time, and two that wait
PRIORITIES = st.sampled_from([-100, 0, 0, 0, 7, 100])
MOMENTS = st.sampled_from([None, None, -5.0, 0.0, 5.0, 70.0])  # seconds from now
AGES = st.sampled_from([0.0, 10.0, 500.0])  # seconds
SAME = "same"
MODEL = "m"  # the SHA-256 of the model
PLANS = st.sampled_from([SAME, SAME, SAME, (0, "f"), (2, "f"), (4, "f"), (2, "g")])  # cuts, audio
AFTER = st.sampled_from([0.0, 0.0, 0.0, 5.0, 10.0, 70.0, 1001.0, -30.0])  # seconds; clocks may be set back
DAY = 86_400.0
LATE = ("beat", "finish", "fail", "fail for good", "release", "replan")
PICK = st.integers(0, 7)  # one of what there is, modulo how many there are
CONTENTS = {content_of("0" * 64, MODEL, Options(prompt=name)): name for name in ("a", "b")} | {None: None}
BOOM = Problem("worker_crashed", "boom")
EFFORT = Effort(worker=1, seconds=0.25, device="cpu", threads=1)  # of each chunk: exact in a float


class QueueMachine(RuleBasedStateMachine):
    @initialize(
        order=st.sampled_from(["lifo", "fifo"]),
        retry_delay=st.sampled_from([0.0, 10.0]),
        max_wait=st.sampled_from([0.0, 60.0]),
        at_work=st.none() | st.integers(0, 2),
        cache_seconds=st.sampled_from([None, 0.0, 60.0, 60.0]),
        twins=st.lists(PRIORITIES, max_size=3),
    )
    def start(self, order, retry_delay, max_wait, at_work, cache_seconds, twins):
        self.folder = TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.rules = WithoutJitter(
            order=order,
            retry_delay_seconds=retry_delay,
            max_queued=MAX_WAITING,
            max_wait_seconds=max_wait,
            idempotency_seconds=KEY_SECONDS,
            cache_seconds=cache_seconds,
            limits=limits,
            heaviest=max(WEIGHTS.values()),
        )
        self.items = Items(cache_seconds)
        self.bills = []  # (tenant, bill) of tasks that are gone
        self.plans = {}  # tenant -> the plan that it named last
        self.shares = Shares(self.rules.heaviest)
        self.keys = {}  # (tenant, key) -> body, task id, time
        self.claims = []  # every chunk ever handed out
        self.last_seq = self.tries = 0
        self.open()
        if at_work is not None:
            self.submit(0, "free", "a", None, None, at_work, False, None, "x", None, 0.0)
            self.claim(0.0, 3, SAME)
        for priority in twins:
            self.submit(priority, "free", "a", None, None, 1, False, None, "x", None, 0.0)

    def open(self):
        path = Path(self.folder.name) / "q.db"
        self.db = self.do(Database(path).__aenter__())
        self.looking = sqlite3.connect(path)  # a third connection, without a thread to wait for
        self.looking.row_factory = sqlite3.Row
        self.events = Events()
        self.queue = SqliteQueue(self.db, self.events, self.rules, self.clock)
        self.listening = self.events.subscribe()
        self.heard = self.listening.__enter__()
        self.told = {name: item.state for name, item in self.items.items()}

    def close(self):
        self.looking.close()
        self.listening.__exit__(None, None, None)
        self.do(self.db.__aexit__(None, None, None))

    def teardown(self):
        if hasattr(self, "db"):
            self.close()
            self.runner.close()
            self.folder.cleanup()

    def do(self, verb):
        return self.runner.get_loop().run_until_complete(verb)

    # --- what the rules may pick from ---

    @property
    def held(self):
        """Which claims still own their chunk: claim -> its task."""
        return {
            part.holder: item
            for item in self.items.values()
            for part in item.parts.values()
            if part.holder is not None
        }

    # --- submitting ---

    @rule(
        priority=PRIORITIES,
        tenant=st.sampled_from(["free", "free", "one", "two"]),
        content=st.sampled_from(["a", "a", "a", "b", None]),
        plan=st.sampled_from([None, None, None, SMALL, "large"]),
        moment=MOMENTS,
        max_retries=st.integers(0, 2),
        timed=st.booleans(),
        key=st.sampled_from([None, None, None, "k", "l"]),
        body=st.sampled_from(["x", "x", "y"]),
        seq=st.sampled_from([None, None, (127, 128), (0, 128), (16_383, 16_384), (0, 16_384)]),
        after=AFTER,
    )
    def submit(self, priority, tenant, content, plan, moment, max_retries, timed, key, body, seq, after):
        self.clock.now += after
        if seq:
            self.others_came_and_went(*seq)
        now = self.clock.now
        new = a_task(
            priority=priority,
            tenant=tenant,
            plan=plan,
            run_at=None if moment is None else now + moment,
            max_retries=max_retries,
            timeout_seconds=1000.0 if timed else None,
            idempotency_key=key,
            body_sha256=body,
            callback_url="https://hooks.example/",
            model_sha256=content and MODEL,
            options=Options(prompt=content),
        )
        run_at = now + moment if moment is not None and moment > 0 else None
        item = Item(0, priority, tenant, max_retries, now, now, run_at, timed, content=content)
        first_body, first, at = self.keys.get((tenant, key), (None, None, 0.0))
        if first and at >= now - KEY_SECONDS:
            if first_body != body:
                with pytest.raises(IdempotencyConflict):
                    self.do(self.queue.submit(new))
            else:
                task, created = self.do(self.queue.submit(new))
                assert (task.id, created) == (first, False)
        elif full := self.refused(item, plan):
            with pytest.raises(full):
                self.do(self.queue.submit(new))
        else:
            task, created = self.do(self.queue.submit(new))
            self.last_seq += 1
            assert (task.id, task.seq, created) == (new.id, self.last_seq, True)
            item.seq, self.items[new.id] = self.last_seq, item
            self.plans |= {tenant: plan} if plan else {}
            if not run_at:
                self.items.enter(item, now)
            if key:
                self.keys[tenant, key] = (body, new.id, now)

    def refused(self, item, plan):
        """Why there is no room for it in line; None if there is, or it needs none."""
        if not item.run_at and self.items.done_before(item, self.clock.now):
            return None
        if self.has_no_room():
            return QueueFull
        return None if self.has_room(item.tenant, plan) else TenantQueueFull

    def has_no_room(self):
        return sum(item.state == State.QUEUED for item in self.items.values()) >= MAX_WAITING

    def has_room(self, tenant, plan):
        waiting = sum(item.tenant == tenant and item.state == State.QUEUED for item in self.items.values())
        most = limits(tenant, plan or self.plans.get(tenant)).queued
        return not 0 < most <= waiting

    def others_came_and_went(self, place, block):
        """Only their places in the order stay used; the next is at `place` in a block of positions."""
        skipped = (place - self.last_seq - 1) % block

        def skip(conn):
            conn.execute("delete from sqlite_sequence where name = 'task'")
            conn.execute("insert into sqlite_sequence values ('task', ?)", (self.last_seq + skipped,))

        self.do(self.db.write(skip))
        self.last_seq += skipped

    # --- working ---

    @precondition(lambda self: any(item.on_offer for item in self.items.values()))
    @rule(after=AFTER, workers=st.integers(1, 3), then=st.none() | PLANS)
    def claim(self, after, workers, then):
        """Workers take what is most urgent; `then`: a plan is made at once, as chunks go on to be taken."""
        self.clock.now += after
        for _ in range(workers):
            claimed = self.claim_one()
            if claimed is not None and self.claims[claimed].number == PLAN and then is not None:
                self.make_plan(claimed, then)

    def claim_one(self):
        now = self.clock.now
        due = [item for item in self.items.values() if item.run_at is not None and item.run_at <= now]
        for item in sorted(due, key=lambda item: (not item.waits, item.run_at, item.seq)):
            if item.waits:  # which makes nobody younger
                item.run_at, item.waits = None, False
            else:
                self.items.enter(item, now)
        self.shares.follow(self.items.values())
        found = self.do(self.queue._claim_now())
        name = self.most_urgent()
        if name is None:
            later = [item.run_at - now for item in self.items.values() if item.run_at is not None]
            assert found == pytest.approx(min([60.0, *later]))
            return None
        number = self.items[name].on_offer[0]
        priority = self.items[name].priority
        item = self.items[name].leader or self.items[name]
        name = self.name_of(item)
        assert isinstance(found, Chunk)
        assert (found.task.id, found.number, found.claimed_at) == (name, number, now)
        part = item.parts[number]
        assert (found.failures, found.cut.samples if found.cut else 0) == (part.failures, part.samples)
        item.state = State.PROCESSING
        item.started_at = now if item.started_at is None else item.started_at
        part.state, part.holder, part.beat_at = "running", len(self.claims), now
        part.was_handed_out = True
        weight = limits(item.tenant, None).weight
        part.charge = self.shares.charge((priority, item.tenant), part.seconds(number), weight)
        part.charged_at = priority
        self.claims.append(found)
        self.follow()
        return part.holder

    def follow(self):
        """Who comes and goes within one verb may come back as from further away, or leave a trace."""
        self.shares.follow(self.items.values())
        rows = self.looking.execute("select * from share")
        found = {(row["priority"], row["tenant"]): row["vtime"] for row in rows}
        assert not (found.keys() - self.shares.given.keys()) & self.shares.waiting
        for key, given in self.shares.given.items():
            assert found[key] in (given, max(given, self.shares.level.get(key[0], 0.0)))
        self.shares.given = found

    def most_urgent(self):
        """Of the tenant whose turn it is what waited too long, the oldest; else as is the order."""
        for key in self.shares.in_turn():
            if ready := [name for name in self.items if self.may_be_claimed(name, *key)]:
                lifo = self.rules.order == "lifo"  # in the other order the oldest are next as it is
                too_long = [name for name in ready if lifo and self.waited_too_long(name)]
                return min(too_long, key=self.age) if too_long else min(ready, key=self.rank)
        return None

    def may_be_claimed(self, name, priority, tenant):
        item = self.items[name]
        at_work = sum(i.state == State.PROCESSING and i.tenant == tenant for i in self.items.values())
        limit = limits(tenant, self.plans.get(tenant)).concurrent
        may_start = item.state == State.PROCESSING or not 0 < limit <= at_work
        return item.offered and (item.priority, item.tenant) == (priority, tenant) and may_start

    def waited_too_long(self, name):
        return 0 < self.rules.max_wait_seconds < self.clock.now - self.items[name].lined_at

    def age(self, name):
        return self.items[name].lined_at, self.items[name].seq

    def name_of(self, item):
        return next(name for name, other in self.items.items() if other is item)

    def rank(self, name):
        item = self.items[name]
        return (-item.priority, item.seq if self.rules.order == "fifo" else -item.seq)

    def pick(self, pick):
        """A chunk that is owned: the claim, the task and the chunk in the model."""
        claim = sorted(self.held)[pick % len(self.held)]
        item = self.held[claim]
        return self.claims[claim], item, item.parts[self.claims[claim].number]

    @precondition(lambda self: self.held)
    @rule(pick=PICK, plan=PLANS)
    def finish(self, pick, plan):
        chunk, item, part = self.pick(pick)
        if chunk.number == PLAN:
            self.make_plan(part.holder, plan)
            return
        text = f"claim {part.holder}"
        self.do(self.queue.finish(chunk, [Segment(start=0, end=1, text=text)], effort=EFFORT))
        item.compute += EFFORT.seconds
        part.let_go("done")
        part.text = text
        item.advance()
        item.settle(self.clock.now)
        for other in self.items.followers(item):
            other.progress = max(other.progress, item.progress)
        self.items.settle(self.clock.now)

    def make_plan(self, claim, plan):
        item = self.held[claim]
        cuts, audio = (item.planned or (3, "f")) if plan == SAME else plan
        made = a_plan(cuts, audio)
        self.do(self.queue.plan(self.claims[claim], made, EFFORT))
        item.compute += EFFORT.seconds
        item.parts[PLAN].let_go("done")
        item.seconds = made.duration
        if made.model_sha256 != MODEL:
            item.content = None
        if item.planned != (cuts, audio):
            item.planned = (cuts, audio)
            new = {number: Part(cut.samples) for number, cut in enumerate(made.cuts, start=1)}
            item.parts = {PLAN: item.parts[PLAN], **new}
        item.advance()
        item.settle(self.clock.now)
        self.items.settle(self.clock.now)
        self.follow()

    @precondition(lambda self: self.held)
    @rule(after=AFTER, pick=PICK)
    def beat(self, after, pick):
        self.clock.now += after
        chunk, _, part = self.pick(pick)
        self.do(self.queue.beat(chunk))
        part.beat_at = self.clock.now

    @precondition(lambda self: self.held)
    @rule(pick=PICK, final=st.sampled_from([False, False, False, True]))
    def fail(self, pick, final):
        chunk, item, part = self.pick(pick)
        delay = self.rules.delay(part.failures)
        self.do(self.queue.fail(chunk, BOOM, final=final, effort=EFFORT))
        item.compute += EFFORT.seconds
        item.fail(chunk.number, BOOM.code, delay, final, self.clock.now)
        self.items.settle(self.clock.now)

    @precondition(lambda self: self.held)
    @rule(pick=PICK)
    def release(self, pick):
        chunk, item, part = self.pick(pick)
        self.do(self.queue.release(chunk, EFFORT))
        item.compute += EFFORT.seconds
        self.hand_back(item, part)

    def hand_back(self, item, part):
        self.shares.give_back((part.charged_at, item.tenant), part.charge)
        item.hand_back(part)

    @precondition(lambda self: self.held)
    @rule(pick=PICK)
    def replan(self, pick):
        """The decoded audio is gone, as one holder of a chunk finds after another."""
        chunk, item, part = self.pick(pick)
        if chunk.number != PLAN:
            self.do(self.queue.replan(chunk))
            self.hand_back(item, part)
            if item.parts[PLAN].state == "done":
                item.parts[PLAN].let_go("waiting")

    # --- what anyone may do ---

    @precondition(lambda self: self.items)
    @rule(
        pick=PICK,
        verb=st.sampled_from(["cancel", "retry", "change", "change"]),
        priority=st.none() | PRIORITIES,
        moment=MOMENTS,
    )
    def anyone(self, pick, verb, priority, moment):
        names = list(self.items)
        name = names[pick % len(names)]
        item = self.items[name]
        match verb:
            case "cancel":
                self.allowed(self.queue.cancel(name), item.state not in FINAL, item.cancel)
            case "retry":
                self.retry(name, item)
            case "change":
                run_at = None if moment is None else self.clock.now + moment
                verb = self.queue.change(name, Change(priority=priority, run_at=run_at))
                self.allowed(verb, item.state == State.QUEUED, partial(self.changed, item, priority, run_at))

    def allowed(self, verb, allowed, move):
        if allowed:
            self.do(verb)
            move(self.clock.now)
            self.items.settle(self.clock.now)
        else:
            with pytest.raises(WrongState):
                self.do(verb)

    def retry(self, name, item):
        verb = self.queue.retry(name)
        if item.state in (State.FAILED, State.CANCELLED) and (full := self.refused(item, None)):
            with pytest.raises(full):
                self.do(verb)
        else:
            self.allowed(verb, item.state in (State.FAILED, State.CANCELLED), partial(self.retried, item))

    def retried(self, item, now):
        item.retry(now)
        self.items.enter(item, now)

    def changed(self, item, priority, run_at, now):
        item.priority = item.priority if priority is None else priority
        if run_at is not None and run_at > now:
            item.delay(run_at)
        elif run_at is not None and item.waits:
            item.run_at, item.waits = None, False
        elif run_at is not None and item.run_at is not None:
            self.items.enter(item, now)

    # --- time, rescue, retention ---

    @precondition(lambda self: self.held)
    @rule(after=AFTER, silent_seconds=st.sampled_from([0.0, 4.0, 50.0, None]), certain=st.integers(0, 3))
    def workers_are_lost(self, after, silent_seconds, certain):
        self.clock.now += after
        if silent_seconds is None:
            self.die_and_start_again()
        else:
            self.sweep(self.clock.now - silent_seconds, self.claims[:certain] if certain else [])

    def sweep(self, older_than, certain):
        silent = [
            (item.seq, number, item)
            for item in self.items.values()
            for number, part in item.parts.items()
            if part.state == "running" and part.beat_at < older_than and part.holder >= len(certain)
        ]
        self.do(self.queue.sweep(older_than, certain))
        self.lose(silent, "worker_lost", self.rules.delay)

    def die_and_start_again(self):
        self.close()
        lost = [(item.seq, number, item) for item in self.items.values() for number in item.running]
        self.open()
        recovered = self.do(self.queue.recover())
        self.line_comes_back_to_the_present()
        for item in self.items.values():
            item.come_back_to_the_present(self.rules.max_retry_delay_seconds, self.clock.now)
        self.lose(lost, "interrupted", lambda failures: 0.0)
        went_on = {name for name, item in self.items.items() if item.state == State.PROCESSING}
        for name in went_on:
            self.items[name].state = State.QUEUED
        self.told = {name: item.state for name, item in self.items.items()}  # nobody listens yet
        assert {task.id for task in recovered} >= went_on

    def line_comes_back_to_the_present(self):
        """None in line is younger than now."""
        newest = max((item.lined_at for item in self.items.values() if item.offered), default=0.0)
        for item in self.items.values():
            item.lined_at -= max(0.0, newest - self.clock.now)

    @precondition(lambda self: self.items)
    @rule(seconds=st.sampled_from([-DAY, -3.0, 3.0, DAY]), back=st.booleans())
    def the_clock_is_set(self, seconds, back):
        for moved in (seconds, -seconds) if back else (seconds,):
            self.clock.now += moved
            self.do(self.queue.clock_jumped(moved))
            for item in self.items.values():
                item.clock_jumped(moved)

    def lose(self, lost, code, delay):
        for _, number, item in sorted(lost, key=lambda found: found[:2]):
            if item.state not in FINAL:
                item.fail(number, code, delay(item.parts[number].failures), False, self.clock.now)
                self.shares.follow(self.items.values())
        self.items.settle(self.clock.now)

    @precondition(lambda self: sum(item.state in FINAL for item in self.items.values()) > 1)
    @rule(completed=AGES, others=AGES, limit=st.integers(1, 3))
    def prune(self, completed, others, limit):
        now = self.clock.now
        gone = self.do(self.queue.prune(now - completed, now - others, limit))
        self.shares.forget()
        self.keys = {key: kept for key, kept in self.keys.items() if kept[2] >= now - KEY_SECONDS}
        old = {
            name: item.finished_at
            for name, item in self.items.items()
            if item.state in FINAL
            and item.finished_at < now - (others if item.state == State.FAILED else completed)
        }
        assert set(gone) <= old.keys()
        assert sorted(old[name] for name in gone) == sorted(old.values())[:limit]  # the oldest first
        for name in gone:
            item = self.items.pop(name)
            self.bills += [(item.tenant, bill) for bill in item.bills]
            with pytest.raises(TaskNotFound):
                self.do(self.queue.get(name))
        self.keys = {key: kept for key, kept in self.keys.items() if kept[1] in self.items}
        tenants = {item.tenant for item in self.items.values()}
        self.plans = {tenant: plan for tenant, plan in self.plans.items() if tenant in tenants}

    # --- what always holds ---

    @invariant()
    def a_stale_holder_changes_nothing(self):
        """Tried with another verb after each step; what it changed would be seen below."""
        stale = [chunk for claim, chunk in enumerate(self.claims) if claim not in self.held][-6:]
        self.tries += 1
        refusals = self.do(self.all_late(stale, LATE[self.tries % len(LATE)]))
        assert all(type(refusal) is LostClaim for refusal in refusals)

    async def all_late(self, stale, verb):
        return await asyncio.gather(*(self.late(chunk, verb) for chunk in stale), return_exceptions=True)

    def late(self, chunk, verb):
        match verb:
            case "beat":
                return self.queue.beat(chunk)
            case "finish" | "replan" if chunk.number == PLAN:
                return self.queue.plan(chunk, a_plan(1, "f"))
            case "finish":
                return self.queue.finish(chunk, [Segment(start=0, end=1, text="late")])
            case "fail":
                return self.queue.fail(chunk, BOOM)
            case "fail for good":
                return self.queue.fail(chunk, BOOM, final=True)
            case "release":
                return self.queue.release(chunk)
            case "replan":
                return self.queue.replan(chunk)

    @invariant()
    def the_queue_and_the_model_agree(self):
        self.follow()
        found = look(self.looking, self.rules.order)
        tasks = {task.id: task for task in found["tasks"]}
        line = sorted((name for name, item in self.items.items() if item.in_line), key=self.rank)

        assert list(tasks) == sorted(self.items, key=lambda name: -self.items[name].seq)
        for name, item in self.items.items():
            self.compare(item, tasks[name])
            self.compare_chunks(item, found["counters"][name], found["chunks"][name])
            assert found["twins"][name] == (item.leader and item.leader.seq, item.content)
            assert found["positions"][name] == (line.index(name) + 1 if name in line else None)
            assert [(mark, s.text) for mark, s in found["segments"][name]] == item.segments
            assert found["ends"][name] == item.ends
        assert found["orphans"] == 0
        assert found["kept"] == found["counted"]
        assert found["usage"] == self.usage()
        self.compare_stats(questions.stats(self.looking, self.clock.now))
        self.compare_told(self.do(self.news()))

    def usage(self):
        """By tenant and day: seconds of audio and of work; tasks completed, failed and cancelled."""
        sums = {}
        there = [(item.tenant, bill) for item in self.items.values() for bill in item.bills]
        for tenant, (at, state, audio, compute) in self.bills + there:
            day = datetime.fromtimestamp(at, UTC).date().isoformat()
            sums.setdefault((tenant, day), Counter()).update(
                {"audio_seconds": audio, "compute_seconds": compute, state: 1}
            )
        return sums

    async def news(self):
        events = []
        with suppress(TimeoutError):
            while True:
                events.append(await self.heard.next(0))
        return events

    def compare(self, item, task):
        said = (task.state, task.priority, task.attempt, task.run_at, task.started_at, task.finished_at)
        assert said == (
            item.state,
            item.priority,
            item.attempt,
            item.run_at,
            item.started_at,
            item.finished_at,
        )
        assert (task.error and task.error.code) == item.error
        assert task.progress == pytest.approx(item.progress)
        assert 0.0 <= task.progress <= 1.0

    def compare_chunks(self, item, counters, chunks):
        """The counters of a task are what counting its chunks gives; and 0 once it is over."""
        assert counters == (item.waiting, len(item.running))
        assert chunks == [
            (number, part.state, part.failures, part.beat_at, part.samples)
            for number, part in sorted(item.parts.items())
        ]

    def compare_stats(self, stats):
        items = sorted(self.items.values(), key=lambda item: item.seq)
        queued = [item for item in items if item.state == State.QUEUED]
        ended = [item for item in items if item.finished_at is not None]

        assert stats.by_state == {state: sum(item.state == state for item in items) for state in State}
        assert stats.delayed == sum(item.run_at is not None for item in queued)
        assert stats.oldest_queued_at == (queued[0].created_at if queued else None)
        assert sorted(stats.waits) == sorted(
            max(0.0, item.started_at - item.created_at) for item in ended if item.started_at is not None
        )
        assert sorted(stats.finished) == sorted(
            (item.finished_at, item.decoded_seconds)
            for item in ended
            if item.state == State.COMPLETED and 0 <= self.clock.now - item.finished_at < 60
        )

    def compare_told(self, events):
        """Every change of a state was told, after its commit."""
        for event in events:
            if event.kind == "task":
                self.told[event.task.id] = event.task.state
        for name, item in self.items.items():
            assert self.told[name] == item.state


def limits(tenant, plan):
    return Limits(
        concurrent=CONCURRENT.get(tenant, 1 if plan == SMALL else 0),
        queued=2 if plan == SMALL else 0,
        weight=WEIGHTS.get(tenant, 1.0),
    )


def a_plan(cuts, audio):
    scale = 16_000 if audio == "f" else 8_000
    made = tuple(Cut(pieces=(Piece(0, scale * (number + 1)),)) for number in range(cuts))
    return Plan(
        fingerprint=f"{audio}{cuts}",
        cuts=made,
        duration=float(cuts),
        language="en",
        model_sha256=MODEL if audio == "f" else "replaced since",
    )


def look(conn, order):
    """Everything that can be asked about every task, at one moment."""
    tasks = questions.list_tasks(conn, ListQuery(limit=1000))
    rows = conn.execute("select * from task").fetchall()
    counters = {row["id"]: (row["waiting"], row["running"]) for row in rows}
    twins = {row["id"]: (row["leader"], CONTENTS[row["content"]]) for row in rows}
    chunks = {task.id: [] for task in tasks}
    for row in conn.execute(
        """
        select id, number, chunk.state, failures, beat_at, chunk.samples
        from chunk join task on seq = task order by task, number
        """
    ):
        chunks[row[0]].append(tuple(row)[1:])
    (orphans,) = conn.execute(
        "select count(*) from chunk where task not in (select seq from task)"
    ).fetchone()
    return {
        "tasks": tasks,
        "counters": counters,
        "twins": twins,
        "chunks": chunks,
        "positions": {task.id: questions.position(conn, task.id, order) for task in tasks},
        "segments": {task.id: questions.segments(conn, task.id, Mark()) for task in tasks},
        "ends": {task.id: ends(conn, task) for task in tasks},
        "orphans": orphans,
        "usage": usage(conn),
        **dict(zip(("kept", "counted"), count(conn), strict=True)),
    }


def usage(conn):
    rows = sums(conn, UsageQuery(first="0", last="9", by=("tenant", "day")))
    values = ("audio_seconds", "compute_seconds", "completed", "failed", "cancelled")
    return {(row.tenant, row.day): Counter({name: getattr(row, name) for name in values}) for row in rows}


def ends(conn, task):
    """Of what the outside is told, and as what the task is shown to it."""
    told = outbox.find(conn, DeliveryQuery(task=task.id, limit=1000))
    return [delivery.task.state for delivery in reversed(told)]


def count(conn):
    kept = conn.execute(
        """
        select 'tally', state, delayed, tenant, priority, n from tally
        union all select 'place', null, level, priority, block, n from place
        union all select 'share', null, started, tenant, priority, offered from share where offered > 0
        order by 1, 2, 3, 4, 5
        """
    )
    counted = conn.execute(
        """
        with line as (
            select priority, seq from task where state = 'queued' and run_at is null and waiting > 0
          ),
          offer as (select * from task where waiting > 0 and run_at is null)
        select 'tally', state,
          iif(kind = 'risk_detection', 3,
            iif(state <> 'queued', 0, iif(run_at is not null, 1, 2 * (waiting = 0)))),
          tenant, priority, count(*)
          from task group by 1, 2, 3, 4, 5
        union all select 'place', null, 1, priority, seq / 128, count(*) from line group by 1, 2, 3, 4, 5
        union all select 'place', null, 2, priority, seq / 16384, count(*) from line group by 1, 2, 3, 4, 5
        union all select 'share', null, sum(state = 'processing'), tenant, priority, count(*) from offer
          group by tenant, priority
        order by 1, 2, 3, 4, 5
        """
    )
    return [tuple(row) for row in kept], [tuple(row) for row in counted]


QueueMachine.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=set(Phase) - {Phase.explain},  # it traces every line: minutes before a failure is shown
)
TestQueueMachine = pytest.mark.timeout(600)(QueueMachine.TestCase)  # a failure takes time to be made small


# --- what it has found ---


async def with_chunks_held(queue, n):
    """A task, and all of its n chunks with a worker each."""
    task, _ = await queue.submit(a_task())
    await queue.plan(await queue.claim(), a_plan(n, "f"))
    return task, [await queue.claim() for _ in range(n)]


def test_two_holders_may_find_the_decoded_audio_gone_one_after_the_other(with_queue):
    async def body(queue):
        _, (first, second) = await with_chunks_held(queue, 2)
        await queue.replan(first)
        remaking = await queue.claim()
        await queue.replan(second)  # the plan is being made already

        await queue.plan(remaking, a_plan(2, "f"))
        assert [(await queue.claim()).number for _ in range(2)] == [1, 2]

    with_queue(body)


def test_no_old_chunk_is_handed_out_while_the_plan_is_made_again(with_queue):
    async def body(queue):
        _, (first, second) = await with_chunks_held(queue, 2)
        await queue.replan(first)
        await queue.release(second)

        assert (await queue.claim()).number == PLAN
        assert isinstance(await queue._claim_now(), float)

    with_queue(body)


def test_what_was_owned_under_an_old_plan_does_not_fit_a_chunk_of_the_new_one(with_queue):
    async def body(queue):
        task, (first, second) = await with_chunks_held(queue, 2)
        await queue.replan(second)
        await queue.plan(await queue.claim(), a_plan(2, "g"))
        await queue.claim()  # the new chunk 1, claimed as often as the old one

        with pytest.raises(LostClaim):
            await queue.finish(first, [Segment(start=0, end=1, text="of the old plan")])
        assert list(await queue.segments(task.id)) == []

    with_queue(body)


def test_a_task_that_goes_on_with_any_chunk_is_told_to_be_processing(with_queue):
    async def body(queue):
        _, held = await with_chunks_held(queue, 1)
        await queue.release(*held)
        with queue._events.subscribe() as told:
            await queue.claim()

            assert (await told.next(1)).task.state == State.PROCESSING

    with_queue(body)


def test_progress_does_not_go_back_when_another_plan_begins_anew(with_queue):
    async def body(queue):
        _, (first, second) = await with_chunks_held(queue, 2)
        await queue.finish(first, [])
        replanned = await queue.replan(second)
        task = await queue.plan(await queue.claim(), a_plan(4, "g"))

        assert task.progress == replanned.progress > 0
        task = await queue.finish(await queue.claim(), [])  # a smaller share than that of the old plan
        assert task.progress == replanned.progress
        cancelled = await queue.cancel(task.id)
        assert (await queue.retry(cancelled.id)).progress == 0  # another attempt

    with_queue(body)
