"""Where audio at a URL comes from, whatever its scheme: a few at a time, each within the time for it.

Of each tenant some of these few only: slow servers take all the time that there is for a file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from whisperd.buckets import Buckets, is_s3
from whisperd.config import Config
from whisperd.outbound import Download, Outbound
from whisperd.turns import Turns

AT_A_TIME = 16  # some 1 MB of memory each


class Sources:
    def __init__(self, config: Config, outbound: Outbound, buckets: Buckets) -> None:
        self._outbound = outbound
        self._buckets = buckets
        self._seconds = config.outbound.download_seconds
        self._turns = Turns(AT_A_TIME)

    @asynccontextmanager
    async def open(self, url: str, max_bytes: int, tenant: str) -> AsyncIterator[Download]:
        """What is at `url`, its bytes still to come. Raises NoTurn, OutboundError; out of `pieces`, too."""
        from_there = self._buckets.download if is_s3(url) else self._outbound.download
        async with (
            self._turns.hold(tenant, self._seconds),
            from_there(url, max_bytes=max_bytes, seconds=self._seconds) as found,
        ):
            yield found
