"""Audio at a URL: a few at a time."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.outside import GIFT, Outside, an_answer, fake_names
from whisperd import config
from whisperd.buckets import Buckets
from whisperd.outbound import Outbound, OutboundError
from whisperd.sources import AT_A_TIME, Sources


def some_sources(**settings):
    outbound = config.Outbound(allowed_networks=("127.0.0.1",), **settings)
    names = fake_names({"example.org": ["127.0.0.1"]})
    settings = config.Config(outbound=outbound)
    return Sources(settings, Outbound(outbound, names), Buckets(settings.s3))


def run(body, **settings):
    async def main():
        async with asyncio.timeout(60), Outside().serving() as outside:
            await body(some_sources(**settings), outside, f"http://example.org:{outside.port}/")

    asyncio.run(main())


def test_one_more_is_fetched_when_one_of_many_is_over():
    async def body(sources, outside, url):
        outside.answers["/slow"] = [an_answer()[:-1], None]
        async with AsyncExitStack() as others:
            for _ in range(AT_A_TIME - 1):
                await others.enter_async_context(sources.open(f"{url}slow", 1000))
            async with sources.open(f"{url}slow", 1000):
                one_more = asyncio.create_task(fetched(sources, url))
                for _ in range(100):
                    await asyncio.sleep(0)
                assert outside.connections == AT_A_TIME

            assert await one_more == GIFT

    run(body)


def test_who_waits_for_a_turn_waits_no_longer_than_a_file_may_take():
    async def body(sources, outside, url):
        async with AsyncExitStack() as others:
            for _ in range(AT_A_TIME):
                await others.enter_async_context(sources._turn())

            with pytest.raises(OutboundError, match="too many files are being fetched"):
                await fetched(sources, url)
        assert outside.connections == 0

    run(body, download_seconds=0.05)


async def fetched(sources, url):
    async with sources.open(url, 1000) as download:
        return b"".join([piece async for piece in download.pieces])
