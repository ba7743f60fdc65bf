"""The loop that empties the outbox, with senders that do as the test tells them."""

import asyncio
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import structlog

from tests.conftest import a_task
from tests.test_detections import a_detection, a_sighting
from tests.test_outbox import ALL, HERE, HOUR, THERE, cancelled
from whisperd.db import Database
from whisperd.deliveries import AT_A_TIME, OF_A_PLACE, Deliveries
from whisperd.delivery import Reply
from whisperd.detections import Detections
from whisperd.events import Event, Events
from whisperd.outbox import Outbox
from whisperd.queue import SqliteQueue
from whisperd.task import Detection, StorageFull

TAKEN = Reply(status=200)
AWAY = Reply(problem="it cannot be reached", is_of_place=True)
DEADLINE = 20.0


class Receiver:
    """A sender, and all whom it sends to. `answers`: by URL a Reply, or an event to wait for."""

    def __init__(self):
        self.answers = {}
        self.asked = []  # (id, url), each attempt
        self.at_once = self.most_at_once = 0

    async def __call__(self, delivery):
        self.asked.append((delivery.id, delivery.url))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            answer = self.answers.get(delivery.url, TAKEN)
            if isinstance(answer, asyncio.Event):
                await answer.wait()
                return TAKEN
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.at_once -= 1

    def urls(self):
        return [url for _, url in self.asked]


class Post:
    """A queue, its outbox and the loop that empties it."""

    def __init__(self, db, clock, box=Outbox):
        self.clock, self.events, self.receiver = clock, Events(), Receiver()
        self.queue = SqliteQueue(db, self.events, now=clock)
        self.detections = Detections(db, self.events, self.queue.told_all, clock)
        self.box = box(db, clock)
        self.deliveries = Deliveries(
            self.box, self.events, {"webhook": self.receiver}, (), jitter=lambda: 1.0, steady=clock
        )

    @asynccontextmanager
    async def running(self):
        running = asyncio.create_task(self.deliveries.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])
        assert running.cancelled()

    async def ends(self, *urls):
        """A task for each of the addresses is over."""
        for url in urls:
            await cancelled(self.queue, callback_url=url)

    def later(self, seconds):
        self.clock.now += seconds
        self.deliveries.wake()

    async def states(self):
        return [delivery.state for delivery in await self.box.find(ALL)]

    async def until(self, condition):
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110 - what it waits for signals nothing
                await asyncio.sleep(0.002)

    async def until_settled(self, n):
        """So many are delivered or dead."""
        async with asyncio.timeout(DEADLINE):
            while sum(state != "waiting" for state in await self.states()) != n:  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    async def until_tried(self, n):
        """So many attempts have been made, and what came of them is noted."""
        await self.until(lambda: len(self.receiver.asked) >= n and not self.deliveries._held)


@pytest.fixture(autouse=True)
def logs():
    with structlog.testing.capture_logs() as logs:  # rendered, the traceback of each bug takes a second
        yield logs


@pytest.fixture
def with_post(tmp_path, clock):
    def run(body, box=Outbox):
        async def main():
            async with Database(tmp_path / "q.db") as db:
                await body(Post(db, clock, box))

        asyncio.run(main())

    return run


def test_an_alert_of_a_call_that_still_runs_is_told_at_once(with_post):
    async def body(post):
        own = post.detections
        async with post.running():
            await post.queue.submit(a_task(id="audio"))
            asked = Detection(alert_url=HERE)
            await post.queue.submit(a_detection("look", transcript="audio", detection=asked))
            (look,) = await own.hearing("audio")
            await post.ends(THERE)
            await post.until_settled(1)
            await own.tell(look, [a_sighting(0, 5)])
            await post.until_settled(2)

        assert post.receiver.urls() == [THERE, HERE]

    with_post(body)


def test_what_is_committed_is_told_at_once_and_once(with_post):
    async def body(post):
        async with post.running():
            await post.until(lambda: post.events._all)  # it listens, with nothing to do
            await post.ends(HERE, THERE)
            await post.until_settled(2)

        assert post.receiver.urls() == [HERE, THERE]
        assert await post.states() == ["delivered"] * 2

    with_post(body)


class Asked(Outbox):
    """Knows how often it was looked into."""

    looks = 0

    async def due(self, *args):
        self.looks += 1
        return await super().due(*args)


def test_an_end_that_nobody_is_to_hear_of_is_not_looked_for(with_post):
    async def body(post):
        async with post.running():
            await post.ends(HERE)
            await post.until_settled(1)
            looks = post.box.looks
            await post.ends(None, None, None)
            await asyncio.sleep(0.05)
            assert post.box.looks == looks
            post.deliveries.reload([THERE])
            await post.until(lambda: post.box.looks > looks)
            await post.ends(None)
            await post.until_settled(2)

        assert post.receiver.urls() == [HERE, THERE]

    with_post(body, Asked)


def test_what_was_left_from_before_is_told(with_post):
    async def body(post):
        await post.ends(HERE)
        async with post.running():
            await post.until_settled(1)

    with_post(body)


def test_hints_that_were_missed_cost_nothing(with_post):
    async def body(post):
        async with post.running():
            await post.until(lambda: post.events._all)
            task, _ = await post.queue.submit(a_task())
            for _ in range(1000):  # more than a subscriber may be behind
                post.events.publish(Event("progress", task))
            await post.ends(HERE)
            await post.until_settled(1)

    with_post(body)


def test_what_is_cut_off_in_mid_attempt_is_sent_again_with_its_id(with_post):
    async def body(post):
        post.receiver.answers[HERE] = asyncio.Event()
        await post.ends(HERE)
        async with post.running():
            await post.until(lambda: post.receiver.asked)
        post.deliveries._held.clear()
        del post.receiver.answers[HERE]
        async with post.running():
            await post.until_settled(1)

        first, second = post.receiver.asked
        assert first == second

    with_post(body)


# --- isolation ---


def test_an_address_that_hangs_holds_up_no_other(with_post):
    async def body(post):
        hangs = post.receiver.answers[HERE] = asyncio.Event()
        await post.ends(*[HERE] * 20, THERE, THERE)
        async with post.running():
            await post.until_settled(2)
            assert post.receiver.urls().count(HERE) == OF_A_PLACE
            assert post.receiver.urls().count(THERE) == 2
            hangs.set()
            await post.until_settled(22)

    with_post(body)


def test_no_more_than_ten_are_on_their_way_at_a_time(with_post):
    async def body(post):
        urls = [f"https://host{n}.example/" for n in range(25)]
        hangs = asyncio.Event()
        post.receiver.answers = dict.fromkeys(urls, hangs)
        await post.ends(*urls)
        async with post.running():
            await post.until(lambda: post.receiver.at_once == AT_A_TIME)
            hangs.set()
            await post.until_settled(25)

        assert post.receiver.most_at_once == AT_A_TIME
        assert sorted(post.receiver.urls()) == sorted(urls)

    with_post(body)


def test_a_place_that_is_down_is_tried_with_one_at_a_time_and_ever_more_rarely(with_post):
    async def body(post):
        post.receiver.answers[HERE] = AWAY
        await post.ends(*[HERE] * 20)
        async with post.running():
            await post.until_tried(OF_A_PLACE)  # those that set out before any had failed
            tried = len(post.receiver.asked)
            for pause in (5, 10, 20, 40, 80, 160, 300, 300):
                post.later(pause - 1)
                await post.ends(THERE)  # so that it has certainly looked
                await post.until_settled(len(post.receiver.urls()) - tried)
                assert post.receiver.urls().count(HERE) == tried
                post.later(1)
                tried += 1
                await post.until(lambda n=tried: post.receiver.urls().count(HERE) == n)
                await post.until(lambda: not post.deliveries._held)

    with_post(body)


def test_ten_thousand_that_wait_for_a_dead_place_hold_up_nobody(with_post):
    async def body(post):
        post.receiver.answers[HERE] = AWAY
        await post.ends(HERE)

        def many(conn):
            conn.execute(
                """
                with recursive number (n) as (select 1 union all select n + 1 from number where n < 9999)
                insert into outbox
                  (id, kind, event, task, tenant, url, place, snapshot, created_at, due_at, expires_at)
                select 'msg_' || n, kind, event, task, tenant, url, place, snapshot, created_at, due_at,
                  expires_at from outbox, number
                """
            )

        await post.queue._db.write(many)
        async with post.running():
            await post.until_tried(OF_A_PLACE)
            await post.ends(*[THERE] * 10)
            await post.until(lambda: post.receiver.urls().count(THERE) == 10)
            assert post.receiver.urls().count(HERE) == OF_A_PLACE

            del post.receiver.answers[HERE]  # it is back
            post.later(5)
            await post.until(lambda: post.receiver.urls().count(HERE) > 100)

    with_post(body)


# --- answers ---


@pytest.mark.parametrize("problem", [Reply(status=500, problem="it answered 500"), KeyError("a bug")])
def test_an_address_that_fails_is_tried_over_a_day_with_growing_waits_and_then_given_up(with_post, problem):
    async def body(post):
        post.receiver.answers[HERE] = problem
        await post.ends(HERE)
        started, waits = post.clock.now, []
        async with post.running():
            while await post.states() == ["waiting"]:
                await post.until_tried(len(waits) + 1)
                waits.append(post.clock.now - started)
                wait = await post.box.next_due([], [])
                post.later(wait or 0.0)

        assert waits[:4] == [0, 5, 15, 35]
        assert waits[-1] == 24 * HOUR
        assert max(b - a for a, b in pairwise(waits)) == 3 * HOUR
        assert len(waits) == 20
        assert await post.states() == ["dead"]

    with_post(body)


def test_one_address_that_fails_does_not_shut_its_place(with_post):
    async def body(post):
        other = f"{HERE}&other"
        post.receiver.answers[HERE] = Reply(status=404, problem="it answered 404")
        await post.ends(HERE, *[other] * 10)
        async with post.running():
            await post.until_settled(10)

        assert post.receiver.urls().count(other) == 10

    with_post(body)


def test_retry_after_is_waited_for_by_the_whole_place(with_post):
    async def body(post):
        post.receiver.answers[HERE] = Reply.answered(429, {"retry-after": "600"})
        await post.ends(HERE)
        async with post.running():
            await post.until_tried(1)
            del post.receiver.answers[HERE]
            await post.ends(HERE)
            post.later(599)
            await post.ends(THERE)
            await post.until_settled(1)
            assert post.receiver.urls() == [HERE, THERE]
            post.later(1)
            await post.until_settled(3)

    with_post(body)


@pytest.mark.parametrize(
    ("status", "headers", "taken", "retry_after"),
    [
        (200, {}, True, None),
        (299, {}, True, None),
        (302, {"location": "http://169.254.169.254/"}, False, None),
        (503, {"retry-after": "7"}, False, 7.0),
        (503, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, False, None),
        (429, {"retry-after": "-1"}, False, None),
        (429, {"retry-after": "9" * 40}, False, None),
        (500, {"retry-after": "7"}, False, None),
    ],
)
def test_an_answer_is_read_as_it_is_meant(status, headers, taken, retry_after):
    reply = Reply.answered(status, headers)

    assert (reply.problem is None, reply.retry_after) == (taken, retry_after)


def test_gone_is_gone(with_post):
    async def body(post):
        post.receiver.answers[HERE] = Reply.answered(410, {})
        await post.ends(HERE, HERE, HERE, HERE, HERE)
        async with post.running():
            await post.until_settled(5)
            await post.ends(HERE)
            await post.ends(THERE)
            await post.until_settled(6)

        assert post.receiver.urls().count(HERE) <= OF_A_PLACE

    with_post(body)


def test_other_endpoints_are_taken_over_while_it_runs(with_post):
    async def body(post):
        async with post.running():
            post.deliveries.reload([HERE])
            await post.until(lambda: post.deliveries._endpoints is None)
            await cancelled(post.queue)
            await post.until_settled(1)

        assert post.receiver.urls() == [HERE]

    with_post(body)


# --- storage ---


class FullFor3Tries(Outbox):
    tries = 0

    async def delivered(self, delivery, status):
        self.tries += 1
        if self.tries <= 3:
            raise StorageFull("no disk space is left")
        await super().delivered(delivery, status)


def test_a_full_disk_lets_nothing_be_sent_twice(with_post, monkeypatch):
    monkeypatch.setattr("whisperd.deliveries.STORAGE_SECONDS", 0.001)

    async def body(post):
        await post.ends(HERE)
        async with post.running():
            await post.until_settled(1)

        assert post.box.tries == 4
        assert post.receiver.urls() == [HERE]

    with_post(body, FullFor3Tries)
