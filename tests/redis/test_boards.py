"""Several queues of one Redis, as hosts with and without a part in them see them; without daemons."""

import asyncio
import contextlib
import time

import pytest

from whisperd.config import Redis as Settings
from whisperd.job import Depth, Job
from whisperd.redis_queue.board import Board
from whisperd.redis_queue.boards import Boards
from whisperd.redis_queue.client import close, connected
from whisperd.redis_queue.index import LOOK_AT
from whisperd.redis_queue.link import Link

LOCK_SECONDS = 2.0


@contextlib.asynccontextmanager
async def some_boards(redis, **settings):
    settings = Settings(
        url=redis.url,
        routes={"tenant:acme": "acme"},
        lock_seconds=LOCK_SECONDS,
        stalled_seconds=0.5,
        **settings,
    )
    link = Link(settings)
    try:
        yield Boards(settings, lambda queue: Board(link, settings, (1, 1), queue))
    finally:
        await link.close()


@pytest.fixture
def body(redis):
    """Runs an async test with the boards of a host that takes nothing from the queue acme."""

    def run(test):
        async def main():
            async with some_boards(redis) as boards, asyncio.timeout(60):
                await test(boards)

        asyncio.run(main())

    return run


async def until_acme_has(boards, depth, meanwhile=lambda: asyncio.sleep(0)):
    while (await boards.depths())["acme"] != depth:
        await meanwhile()
        await asyncio.sleep(0.05)


def test_what_the_only_host_of_a_queue_left_waits_again_unserved(body, redis):
    async def test(boards):
        await boards.add("one", "transcription", {"tenant": "acme"}, priority=1)
        async with some_boards(redis, take_from=("acme",)) as dying:
            assert (await dying.take()).job.id == "one"
        assert (await boards.depths())["acme"] == Depth(0, 0, 1, is_served=True)

        await until_acme_has(boards, Depth(1, 0, 0, is_served=False), boards.sweep)

    body(test)


def test_what_is_due_waits_and_what_is_not_yet_is_delayed(body):
    async def test(boards):
        await boards.add("later", "transcription", {"tenant": "acme"}, priority=1, delay=3_600_000)
        await boards.add("soon", "transcription", {"tenant": "acme"}, priority=1, delay=1)

        await until_acme_has(boards, Depth(1, 1, 0, is_served=False))

    body(test)


def test_a_queue_may_come_while_all_are_asked(body):
    async def test(boards):
        before = Job(id="1", queue="of-earlier-settings", token="ours:1", begun=1)

        seen, verdict = await asyncio.gather(boards.look("1"), boards.beat(before))

        assert (seen, verdict) == (None, "gone")
        assert "of-earlier-settings" in boards.each()

    body(test)


def test_what_redis_has_forgotten_leaves_the_order_of_lists_by_and_by(body, redis):
    async def test(boards):
        await boards.add("kept", "transcription", {}, priority=1)
        index = "bull:transcription:whisperd:tasks"
        fill = "for n = 1, 5000 do redis.call('zadd', KEYS[1], n, 'gone' .. n) end"
        redis.cli("eval", fill, 1, index)

        while redis.cli("zcard", index) != "1":
            await boards.tidy()

        assert redis.cli("zrange", index, 0, -1) == "kept"

    body(test)


def test_much_that_has_happened_is_told_in_pieces(body, redis):
    async def test(boards):
        board = boards.each()["transcription"]
        tell = "for n = 1, 250 do redis.call('xadd', KEYS[1], '*', 'event', 'failed', 'jobId', n) end"
        redis.cli("eval", tell, 1, "bull:transcription:events")

        heard, place = [], "0"
        while len(heard) < 250:
            place, changed, _ = await board.news(place)
            assert len(changed) <= LOOK_AT
            heard += changed

        assert heard == [str(n) for n in range(1, 251)]

    body(test)


def test_the_place_behind_each_job_in_lists_is_free_for_what_looks_through_its_transcript(body, redis):
    async def test(boards):
        for n in range(30):
            await boards.add(f"job-{n}", "transcription", {}, priority=1)

        places = redis.cli("zrange", "bull:transcription:whisperd:tasks", 0, -1, "withscores").split()[1::2]
        assert [int(place) % 2 for place in places] == [0] * 30

    body(test)


def test_a_look_is_not_cancelled_once_its_job_is_over(body, redis):
    async def test(boards):
        await boards.add("one", "transcription", {}, priority=1)
        await boards.complete((await boards.take()).job, {})

        assert await boards.cancel_look("one") == "over"
        assert redis.cli("hexists", "bull:transcription:one", "risk_cancelled") == "0"

    body(test)


@pytest.mark.parametrize("end", ["complete", "fail"])
def test_a_lock_that_ran_out_unseen_costs_no_end_while_nobody_has_begun_the_job_anew(body, redis, end):
    async def test(boards):
        async with some_boards(redis, take_from=("acme",)) as host:
            await boards.add("one", "transcription", {"tenant": "acme"}, priority=1)
            held = (await host.take()).job
            redis.cli("del", "bull:acme:one:lock")

            await (host.complete(held, {}) if end == "complete" else host.fail(held, "no", final=True))

        assert (await boards.look("one")).state == {"complete": "completed", "fail": "failed"}[end]

    body(test)


def test_a_connection_that_ended_while_nobody_used_it_fails_no_question(redis):
    async def main():
        client = connected(Settings(url=redis.url))
        await asyncio.gather(*[client.blpop("none", 0.2) for _ in range(4)])  # each has one of its own
        redis.kill()
        redis.start()
        await asyncio.sleep(0.1)  # their ends have come

        assert await asyncio.gather(*[client.ping() for _ in range(4)]) == [True] * 4
        await close(client)

    asyncio.run(main())


def test_the_end_of_a_job_has_a_host_that_waits_look_again(body, redis):
    """Its tenant may have one more at work then."""

    async def test(boards):
        await boards.add("one", "transcription", {}, priority=1)
        held = (await boards.take()).job
        async with some_boards(redis) as other:
            while await other.take() is None:  # what came before is looked at
                waiting = asyncio.create_task(other.wait())
                await asyncio.wait([waiting], timeout=0.3)
                if not waiting.done():
                    break
            began = time.monotonic()
            await boards.complete(held, {})
            await waiting

        assert time.monotonic() - began < 2

    body(test)
