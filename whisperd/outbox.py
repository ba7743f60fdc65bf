"""The outbox as verbs: each one function of whisperd.sql.outbox, run as one transaction.

Its rows are written by the queue, in the transaction that ends a task. Holds no state but the database's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from time import time

from whisperd.db import Database
from whisperd.delivery import Delivery, DeliveryQuery
from whisperd.sql import outbox


class Outbox:
    """Every verb is safe to cancel: it is done whole or not at all. They raise what Database.write does."""

    def __init__(self, db: Database, now: Callable[[], float] = time) -> None:
        self._db = db
        self.now = now

    async def point(self, urls: Collection[str]) -> None:
        """From now on these addresses hear of every task; what waits for others of before is given up."""
        await self._db.write(outbox.point, urls, self.now())

    async def recover(self, longest_delay: float) -> None:
        """At a start: what waits is due within `longest_delay`, and has an hour at least to be tried in."""
        await self._db.write(outbox.come_back_to_the_present, longest_delay, self.now())

    async def due(
        self, held: Collection[str], room: Mapping[str, int], each: int, most: int
    ) -> Sequence[Delivery]:
        """Up to `most` that are due and not held: of each place up to `each`, or to its `room`."""
        return await self._db.read(outbox.due, self.now(), held, room, each, most)

    async def next_due(self, held: Collection[str], shut: Collection[str]) -> float | None:
        """Seconds until one is due that is not held, of a place that is not shut. Negative: it is late."""
        at = await self._db.read(outbox.next_due, held, shut)
        return None if at is None else at - self.now()

    async def delivered(self, delivery: Delivery, status: int | None) -> None:
        await self._db.write(outbox.delivered, delivery, status, self.now())

    async def failed(self, delivery: Delivery, status: int | None, problem: str, delay: float) -> None:
        """There is another attempt after `delay` seconds; or none, when its time is over."""
        await self._db.write(outbox.failed, delivery, status, problem, delay, self.now())

    async def disable(self, url: str) -> None:
        """Tell this address nothing more, until something is resent to it or retention has forgotten it."""
        await self._db.write(outbox.disable, url, self.now())

    async def resend(self, delivery_id: str, tenant: str | None = None) -> Delivery:
        """Make it due now, with its old id, if it is of this tenant. Raises DeliveryNotFound."""
        return await self._db.write(outbox.resend, delivery_id, tenant, self.now())

    async def find(self, query: DeliveryQuery) -> Sequence[Delivery]:
        return await self._db.read(outbox.find, query)

    async def undelivered(self) -> Mapping[str, int]:
        """How many are "waiting", and how many "dead"."""
        return await self._db.read(outbox.undelivered)

    async def prune(self, delivered_before: float, dead_before: float, limit: int = 500) -> None:
        """Give up what has waited for more than its time, so that nothing grows without bound.

        And forget what was delivered, or given up, before these times, which should be cautious ones.
        """
        while await self._db.write(outbox.expire, self.now(), limit) == limit:
            pass
        while await self._db.write(outbox.prune, delivered_before, dead_before, limit) == limit:
            pass
