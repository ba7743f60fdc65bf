"""The minutes that are kept for charts: what stands in one, which have none, how they are put together."""

import asyncio
from itertools import pairwise

import pytest

from tests.conftest import a_task
from whisperd.db import Database
from whisperd.events import Events
from whisperd.minutes import KEPT_HOURS, Minutes
from whisperd.queue import SqliteQueue
from whisperd.task import Cut, Piece, Plan, Problem, Segment

GAUGES = {"busy": 0.5, "rss_bytes": 100, "gpu_bytes": None, "free_bytes": 7}
PLAN = Plan(fingerprint="f", cuts=(Cut(pieces=(Piece(0, 160_000),)),), duration=10.0, language="en")


class Watch:
    """A clock that stands still until it is moved."""

    time = 1_800_000_000.0

    def __call__(self):
        return self.time


@pytest.fixture
def run(tmp_path):
    """Run an async test body with a history, the queue it looks at, and their clock."""

    def run(body):
        async def main():
            watch = Watch()
            async with Database(tmp_path / "q.db") as db:
                await body(Minutes(db, watch), SqliteQueue(db, Events(), now=watch), watch)

        asyncio.run(main())

    return run


async def complete(queue):
    await queue.plan(await queue.claim(), PLAN)
    await queue.finish(await queue.claim(), [Segment(start=0.0, end=1.0, text="one")])


def test_a_minute_has_what_waits_and_what_ended_in_it(run):
    async def body(history, queue, watch):
        for n in range(3):
            await queue.submit(a_task(id=f"t{n}"))
        watch.time += 5
        await complete(queue)
        await queue.fail(await queue.claim(), Problem("no_audio", "no"), final=True)
        await history.record(GAUGES)
        step, (point,) = await history.points(1, 60)

        assert step == 60
        assert (point["queued"], point["processing"], point["done"], point["failed"]) == (1, 0, 1, 1)
        assert point["tasks_per_minute"] == 1
        assert point["audio_seconds_per_second"] == pytest.approx(10 / 60)
        assert point["wait_p50"] == point["wait_p95"] == 5
        assert {name: point[name] for name in GAUGES} == GAUGES

    run(body)


def test_an_idle_minute_is_not_kept_but_the_first_of_them(run):
    async def body(history, queue, watch):
        await history.record(GAUGES)
        assert (await history.points(1, 60))[1] == []

        await queue.submit(a_task())
        await complete(queue)
        for _ in range(5):
            await history.record(GAUGES)
            watch.time += 60

        _, points = await history.points(1, 60)
        assert [point["done"] for point in points][:2] == [1, 0]
        assert len(points) <= 3

    run(body)


def test_an_idle_daemon_changes_nothing(run):
    async def body(history, queue, watch):
        before = await history._db.changes()
        await history.record(GAUGES)
        assert await history._db.changes() == before

    run(body)


def test_more_minutes_than_points_are_put_together(run):
    async def body(history, queue, watch):
        for n in range(60):
            watch.time += 60
            if n < 30:
                await queue.submit(a_task(id=f"t{n}"))
            await history.record({**GAUGES, "rss_bytes": n, "free_bytes": n})
        step, points = await history.points(1, 6)

        assert step == 600
        assert len(points) == 6
        assert [point["queued"] for point in points] == [5.5, 15.5, 25.5, 30, 30, 30]
        assert [point["rss_bytes"] for point in points] == [9, 19, 29, 39, 49, 59]
        assert [point["free_bytes"] for point in points] == [0, 10, 20, 30, 40, 50]
        assert [b["at"] - a["at"] for a, b in pairwise(points)] == [600] * 5

    run(body)


def test_what_is_older_than_a_week_is_forgotten(run):
    async def body(history, queue, watch):
        await queue.submit(a_task())
        await history.record(GAUGES)
        watch.time += KEPT_HOURS * 3600 + 60
        await history.record(GAUGES)

        (count,) = await history._db.read(
            lambda conn: conn.execute("select count(*) from history").fetchone()
        )
        assert count == 1

    run(body)


def test_the_history_outlives_a_restart(run):
    async def first(history, queue, watch):
        await queue.submit(a_task())
        await history.record(GAUGES)

    async def second(history, queue, watch):
        assert len((await history.points(1, 60))[1]) == 1

    run(first)
    run(second)
