"""Audio at a URL: a few at a time, and of each tenant some of them only."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.outside import GIFT, Outside, an_answer, fake_names
from whisperd import config
from whisperd.buckets import Buckets
from whisperd.outbound import Outbound
from whisperd.sources import AT_A_TIME, Sources
from whisperd.turns import NoTurn


def some_sources(**settings):
    outbound = config.Outbound(allowed_networks=("127.0.0.1",), **settings)
    names = fake_names({"example.org": ["127.0.0.1"]})
    settings = config.Config(outbound=outbound)
    return Sources(settings, Outbound(outbound, names), Buckets(settings.s3))


def run(body, **settings):
    async def main():
        async with asyncio.timeout(60), Outside().serving() as outside:
            outside.answers["/slow"] = [an_answer()[:-1], None]
            await body(some_sources(**settings), outside, f"http://example.org:{outside.port}/")

    asyncio.run(main())


def test_one_more_is_fetched_when_one_of_many_is_over():
    async def body(sources, outside, url):
        async with AsyncExitStack() as others:
            for _ in range(AT_A_TIME // 2 - 1):
                await others.enter_async_context(sources.open(f"{url}slow", 1000, "acme"))
            async with sources.open(f"{url}slow", 1000, "acme"):
                one_more = asyncio.create_task(fetched(sources, url, "acme"))
                for _ in range(100):
                    await asyncio.sleep(0)
                assert outside.connections == AT_A_TIME // 2

            assert await one_more == GIFT

    run(body)


def test_the_slow_servers_of_one_tenant_hold_up_no_other():
    async def body(sources, outside, url):
        slow = [asyncio.create_task(fetched(sources, f"{url}slow", "acme")) for _ in range(2 * AT_A_TIME)]
        while outside.connections < AT_A_TIME // 2:  # noqa: ASYNC110 - what it waits for signals nothing
            await asyncio.sleep(0.002)

        assert await fetched(sources, url, "other") == GIFT
        assert not any(task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)

    run(body)


def test_who_waits_for_a_turn_waits_no_longer_than_a_file_may_take():
    async def body(sources, outside, url):
        async with AsyncExitStack() as others:
            for _ in range(AT_A_TIME // 2):
                await others.enter_async_context(sources._turns.hold("acme", 0))

            with pytest.raises(NoTurn):
                await fetched(sources, url, "acme")
        assert outside.connections == 0

    run(body, download_seconds=0.05)


async def fetched(sources, url, tenant):
    async with sources.open(url, 1000, tenant) as download:
        return b"".join([piece async for piece in download.pieces])
