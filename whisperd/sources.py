"""Where audio at a URL comes from, whatever its scheme: a few at a time, each within the time for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from whisperd.buckets import Buckets, is_s3
from whisperd.config import Config
from whisperd.outbound import Download, Outbound, OutboundError

AT_A_TIME = 16  # some 1 MB of memory each


class Sources:
    def __init__(self, config: Config, outbound: Outbound, buckets: Buckets) -> None:
        self._outbound = outbound
        self._buckets = buckets
        self._seconds = config.outbound.download_seconds
        self._turns = asyncio.Semaphore(AT_A_TIME)

    @asynccontextmanager
    async def open(self, url: str, max_bytes: int) -> AsyncIterator[Download]:
        """What is at `url`, its bytes still to come. Raises OutboundError; out of its `pieces`, too."""
        from_there = self._buckets.download if is_s3(url) else self._outbound.download
        async with self._turn(), from_there(url, max_bytes=max_bytes, seconds=self._seconds) as found:
            yield found

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise OutboundError("too many files are being fetched; try again later") from None
        try:
            yield
        finally:
            self._turns.release()
