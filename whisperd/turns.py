"""Turns at something of which there is little, shared between tenants: none can have all of it.

A tenant is given one more while it holds fewer than are free (dynamic thresholds: Choudhury and Hahne 1998,
https://doi.org/10.1109/90.664262). So one alone holds half of them at most, the next half of the rest, and
it takes five tenants to hold all of 16.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class NoTurn(Exception):
    """None came in time. `own`: the tenant holds some itself, so it is to wait for its own."""

    def __init__(self, *, own: bool) -> None:
        super().__init__("none came in time")
        self.own = own


class Turns:
    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []  # who came first stands first

    @asynccontextmanager
    async def hold(self, tenant: str, seconds: float) -> AsyncIterator[None]:
        """Hold one for the time of the block, once one has come. Raises NoTurn after `seconds`."""
        await self._take(tenant, seconds)
        try:
            yield
        finally:
            self._give_back(tenant)

    async def _take(self, tenant: str, seconds: float) -> None:
        if self._may(tenant):  # then nobody else of this tenant waits
            self._held[tenant] += 1
            return
        given = asyncio.get_running_loop().create_future()
        self._waiting.append((tenant, given))
        try:
            async with asyncio.timeout(seconds):
                await given
        except BaseException as error:
            if given.done() and not given.cancelled():  # it came just now, too late
                self._give_back(tenant)
            else:
                self._waiting.remove((tenant, given))
            if isinstance(error, TimeoutError):
                raise NoTurn(own=self._held[tenant] > 0) from None
            raise

    def _may(self, tenant: str) -> bool:
        return self._held[tenant] < self._most - self._held.total()

    def _give_back(self, tenant: str) -> None:
        self._held[tenant] -= 1
        self._held += Counter()  # no tenant stays at 0
        for waits in list(self._waiting):
            if not waits[1].done() and self._may(waits[0]):  # done: it has given up
                self._held[waits[0]] += 1
                self._waiting.remove(waits)
                waits[1].set_result(None)
