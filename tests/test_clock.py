"""Clocks that are set: what moves with them, what stays, and by which time something is forgotten."""

import asyncio
from contextlib import suppress

import pytest

from tests.conftest import a_task
from tests.test_queue import BOOM, a_plan, completed, planned, said
from whisperd import clock as clocks
from whisperd.clock import Clock
from whisperd.db import Database
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.task import Change, Chunk, Rules, State, StorageFull

DAY = 86_400.0
HOUR = 3600.0


class Watches:
    """A wall clock and a steady one, moved by hand: time passes on both, only the wall clock is set."""

    def __init__(self):
        self.wall, self.steady = 1_000_000.0, 500.0
        self.clock = Clock(lambda: self.wall, lambda: self.steady)

    def pass_by(self, seconds):
        self.wall += seconds
        self.steady += seconds

    def set_by(self, seconds):
        self.wall += seconds


@pytest.fixture
def watches():
    return Watches()


# --- the clock ---


def test_time_goes_on_as_the_steady_clock_does_and_jumps_only_at_a_look(watches):
    watches.pass_by(5)
    assert watches.clock.now() == watches.wall
    watches.set_by(DAY)
    watches.pass_by(5)

    assert watches.clock.now() == watches.wall - DAY
    assert watches.clock.jump() == DAY
    assert watches.clock.now() == watches.wall
    assert watches.clock.jump() == 0.0


def test_a_clock_that_is_slewed_is_followed_and_is_no_jump(watches):
    watches.set_by(1.5)

    assert watches.clock.jump() == 0.0
    assert watches.clock.now() == watches.wall


def test_a_clock_set_forward_makes_nothing_older_for_what_may_be_deleted(watches):
    watches.set_by(DAY)
    watches.clock.jump()
    watches.pass_by(HOUR)

    assert watches.clock.cautious() == watches.wall - DAY


def test_a_clock_set_back_makes_nothing_older_either(watches):
    watches.set_by(-DAY)
    watches.clock.jump()

    assert watches.clock.cautious() == watches.wall


def test_a_clock_that_was_set_right_again_is_believed_at_once(watches):
    for seconds in (-DAY, DAY, DAY, -DAY):
        watches.set_by(seconds)
        watches.clock.jump()

    assert watches.clock.cautious() == watches.wall


def test_a_clock_that_stays_for_a_day_where_it_was_set_is_believed(watches):
    """A machine without a battery boots in 1970: what it keeps must not be kept for ever."""
    watches.set_by(56 * 365 * DAY)
    watches.clock.jump()
    watches.pass_by(DAY)

    assert watches.clock.cautious() == watches.wall


def test_the_real_clocks_agree_with_each_other():
    clock = Clock()

    assert clock.jump() == 0.0
    assert abs(clock.now() - clocks.time.time()) < 1


def test_a_jump_is_told_until_it_could_be_written_down(watches, monkeypatch):
    monkeypatch.setattr(clocks, "LOOK_SECONDS", 0.0)
    told = []

    async def jumped(seconds):
        told.append(seconds)
        if len(told) == 1:
            watches.set_by(HOUR)
            raise StorageFull("no disk space is left for the queue")

    async def main():
        watches.set_by(DAY)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await watches.clock.follow(jumped)

    asyncio.run(main())
    assert told == [DAY, DAY + HOUR]


# --- what the queue makes of it ---


@pytest.fixture
def with_watched_queue(tmp_path, watches):
    """As with_queue, by a Clock; `queue.set_by` sets the wall clock as it is found out a moment later."""

    def run(body, **rules):
        async def main():
            async with Database(tmp_path / "q.db") as db:
                clock = watches.clock = Clock(lambda: watches.wall, lambda: watches.steady)
                queue = SqliteQueue(db, Events(), Rules(**rules), clock.now, clock.cautious)

                async def set_by(seconds):
                    watches.set_by(seconds)
                    await queue.clock_jumped(clock.jump())

                queue.set_by = set_by
                await body(queue)

        asyncio.run(main())

    return run


async def waits_for_its_next_attempt(queue, **fields):
    await queue.submit(a_task(**fields))
    return await queue.fail(await queue.claim(), BOOM)


JUMPS = pytest.mark.parametrize("seconds", [DAY, -DAY])
RETRY = {"retry_delay_seconds": 100.0, "max_retry_delay_seconds": 100.0}


@JUMPS
def test_a_retry_starts_neither_early_nor_late_when_the_clock_is_set(with_watched_queue, watches, seconds):
    async def body(queue):
        await waits_for_its_next_attempt(queue)
        await queue.set_by(seconds)

        watches.pass_by(74)  # the jitter takes up to a quarter off
        assert isinstance(await queue._claim_now(), float)
        watches.pass_by(26)
        assert isinstance(await queue._claim_now(), Chunk)

    with_watched_queue(body, **RETRY)


@JUMPS
def test_a_time_that_a_user_chose_is_a_time_of_day(with_watched_queue, watches, seconds):
    async def body(queue):
        submitted, _ = await queue.submit(a_task(run_at=watches.wall + 2 * DAY))
        patched = await waits_for_its_next_attempt(queue)
        await queue.change(patched.id, Change(run_at=watches.wall + 3 * DAY))
        chosen = [submitted.run_at, watches.wall + 3 * DAY]
        await queue.set_by(seconds)

        assert [(await queue.get(task.id)).run_at for task in (submitted, patched)] == chosen

    with_watched_queue(body, **RETRY)


def test_a_clock_set_past_the_time_that_a_user_chose_wakes_the_workers(with_watched_queue, watches):
    async def body(queue):
        await queue.submit(a_task(run_at=watches.wall + DAY))
        claiming = asyncio.create_task(queue.claim())
        await asyncio.sleep(0)
        assert isinstance(await queue._claim_now(), float)  # by now the other one waits
        await queue.set_by(DAY)

        async with asyncio.timeout(5):
            assert (await claiming).number == 0

    with_watched_queue(body)


def test_a_task_that_runs_is_not_out_of_time_because_the_clock_was_set(with_watched_queue, watches):
    async def body(queue):
        await planned(queue, 2, timeout_seconds=600)
        watches.pass_by(10)
        await queue.set_by(DAY)
        chunk = await queue.claim()

        assert chunk.claimed_at - chunk.task.started_at == 10

    with_watched_queue(body)


@JUMPS
def test_a_lease_lasts_as_long_as_it_should_when_the_clock_is_set(with_watched_queue, watches, seconds):
    async def body(queue):
        await queue.submit(a_task())
        await queue.claim()
        await queue.set_by(seconds)

        watches.pass_by(100)
        assert await queue.sweep(watches.clock.now() - 101) == []
        (swept,) = await queue.sweep(watches.clock.now() - 99)
        assert swept.error.code == "worker_lost"

    with_watched_queue(body)


def test_what_is_done_between_the_jump_and_the_look_is_in_the_old_time(with_watched_queue, watches):
    """Else it would be moved by the jump once more, and wait for a day."""

    async def body(queue):
        watches.set_by(DAY)
        task = await waits_for_its_next_attempt(queue)
        await queue.clock_jumped(watches.clock.jump())

        assert (await queue.get(task.id)).run_at <= watches.wall + 100

    with_watched_queue(body, **RETRY)


def test_a_clock_set_back_while_the_daemon_was_away_strands_no_retry(with_watched_queue, watches):
    async def before(queue):
        await waits_for_its_next_attempt(queue)
        await queue.submit(a_task("chosen", run_at=watches.wall + 2 * HOUR))

    async def after(queue):
        await queue.recover()
        watches.pass_by(100)

        assert isinstance(await queue._claim_now(), Chunk)
        assert isinstance(await queue._claim_now(), float)

    with_watched_queue(before, **RETRY)
    watches.set_by(-DAY)
    with_watched_queue(after, **RETRY)


def test_a_clock_set_back_while_the_daemon_was_away_gives_no_task_more_time(with_watched_queue, watches):
    async def before(queue):
        await planned(queue, 2, timeout_seconds=600)

    async def after(queue):
        await queue.recover()
        chunk = await queue.claim()

        assert chunk.task.started_at == chunk.claimed_at

    with_watched_queue(before)
    watches.set_by(-DAY)
    with_watched_queue(after)


def test_a_clock_set_forward_forgets_neither_results_nor_keys_early(with_watched_queue, watches):
    async def body(queue):
        first = await completed(queue, idempotency_key="k")
        await queue.set_by(30 * DAY)
        keep = watches.clock.cautious() - DAY

        assert await queue.prune(keep, keep) == []
        assert (await queue.submit(a_task(idempotency_key="k"))) == (first, False)
        watches.pass_by(DAY + 1)
        keep = watches.clock.cautious() - DAY
        assert await queue.prune(keep, keep) == [first.id]

    with_watched_queue(body)


def test_waits_are_never_negative(with_watched_queue, watches):
    async def body(queue):
        await queue.submit(a_task())
        await queue.set_by(-DAY)
        await queue.plan(await queue.claim(), a_plan(1))
        await queue.finish(await queue.claim(), said("one"))
        stats = await queue.stats()

        assert stats.waits == (0.0,)
        assert len(stats.finished) == 1
        await queue.set_by(-DAY)
        assert (await queue.stats()).finished == ()  # what is to come is not of the last minute
        assert (await queue.stats()).by_state[State.COMPLETED] == 1

    with_watched_queue(body)
