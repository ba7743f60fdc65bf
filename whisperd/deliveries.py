"""The loop that empties the outbox: what is due goes to the sender of its kind, and what came of it is noted.

At least once: a row is marked after the attempt, so one that a crash cut off is sent again, with its old id.
A place (scheme, host and port) that does not answer, or asks for it, is left alone for a while as a whole and
then tried with one delivery at a time; so neither a slow nor a dead one holds up others, however much waits
for it. Waits for commits and times, and polls nothing. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Protocol, TypeVar

import structlog

from whisperd.delivery import GONE, Delivery, Reply
from whisperd.events import Event, Events, tells_an_end
from whisperd.outbox import Outbox
from whisperd.task import StorageBusy, StorageFailed, StorageFull

log = structlog.get_logger(__name__)
T = TypeVar("T")

AT_A_TIME = 10
OF_A_PLACE = 3  # of them at most
ATTEMPT_SECONDS = 30.0  # an attempt that takes longer has failed, whatever its sender thinks
FIRST_DELAY_SECONDS = 5.0
LONGEST_DELAY_SECONDS = 3 * 3600.0
LONGEST_PAUSE_SECONDS = 300.0  # of a place: one that is back after hours is noticed soon
LOOK_SECONDS = 60.0  # a look at least so often, as clocks may be set
STORAGE_SECONDS = 5.0  # before the outbox is tried again
_TROUBLES = (StorageFull, StorageBusy, StorageFailed)


class Sender(Protocol):
    """Delivers one kind. Whatever goes wrong is a Reply; safe to cancel, then it may have been delivered."""

    async def __call__(self, delivery: Delivery) -> Reply: ...


@dataclass(slots=True)
class _Place:
    """How one scheme, host and port does. Where nothing is known of one, there is none of these."""

    held: int = 0
    failures: int = 0  # in a row
    opens_at: float = 0.0  # on the steady clock

    def room(self, now: float) -> int:
        """How many more may be sent there at present; one that failed is tried with one at a time."""
        return max(0, (1 if self.failures else OF_A_PLACE) - self.held) if self.opens_at <= now else 0

    def is_forgettable(self, now: float) -> bool:
        return not self.held and (not self.failures or now - self.opens_at > LONGEST_DELAY_SECONDS)


class Deliveries:
    def __init__(
        self,
        outbox: Outbox,
        events: Events,
        senders: Mapping[str, Sender],
        endpoints: Collection[str],
        jitter: Callable[[], float] = lambda: random.uniform(0.75, 1.0),
        steady: Callable[[], float] = monotonic,
    ) -> None:
        """`senders`: by the kind of what they deliver; `endpoints`: the addresses that hear of every task."""
        self._outbox = outbox
        self._events = events
        self._senders = senders
        self._jitter = jitter
        self._steady = steady
        self._wake = asyncio.Event()
        self._all_are_told = bool(endpoints)  # of an end, and not only who is to hear of one task
        self._endpoints: Collection[str] | None = None  # to be taken over
        self._held: set[str] = set()  # ids of those that are being tried
        self._places: dict[str, _Place] = {}

    def wake(self) -> None:
        """Look again: something else is due, or at another time."""
        self._wake.set()

    async def resend(self, delivery_id: str, tenant: str | None = None) -> Delivery:
        """Deliver it now, whatever became of it, if it is of this tenant. Raises DeliveryNotFound."""
        delivery = await self._outbox.resend(delivery_id, tenant)
        self.wake()
        return delivery

    def reload(self, endpoints: Collection[str]) -> None:
        """Other addresses hear of every task from the next look on."""
        self._endpoints, self._all_are_told = endpoints, bool(endpoints)
        self.wake()

    async def run(self) -> None:
        """For ever. Cut off, it leaves in the outbox whatever is not known to be delivered."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="deliveries-listen")
            while True:
                self._wake.clear()  # before looking, never after: else a commit can be missed
                await self._patiently(self._take_over)
                await self._patiently(lambda: self._start(group))
                seconds = await self._patiently(self._seconds)
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._wake.wait()

    async def _listen(self) -> None:
        """Events are hints: after having fallen behind there may be more to do than was heard of."""
        while not self._events.closed:
            with self._events.subscribe(wants=self._may_be_told) as subscription:
                self.wake()
                async for _ in subscription:
                    self.wake()

    def _may_be_told(self, event: Event) -> bool:
        """Whether an address may be there for it: where none is, the outbox is not looked into."""
        addressed = self._all_are_told or event.task.callback_url or event.task.result_url
        return event.kind == "finding" or (bool(addressed) and tells_an_end(event))

    async def _take_over(self) -> None:
        if (endpoints := self._endpoints) is not None:
            await self._outbox.point(endpoints)
            self._endpoints = None

    async def _start(self, group: asyncio.TaskGroup) -> None:
        most = AT_A_TIME - len(self._held)
        room = {name: place.room(self._steady()) for name, place in self._places.items()}
        for delivery in await self._outbox.due(self._held, room, OF_A_PLACE, most):
            self._held.add(delivery.id)
            self._places.setdefault(delivery.place, _Place()).held += 1
            group.create_task(self._deliver(delivery), name=f"deliver {delivery.id}")

    async def _seconds(self) -> float:
        """Until there is something to start, as far as nobody wakes us."""
        if len(self._held) >= AT_A_TIME:
            return LOOK_SECONDS
        now = self._steady()
        shut = [name for name, place in self._places.items() if not place.room(now)]
        until_due = await self._outbox.next_due(self._held, shut)
        opening = [place.opens_at - now for place in self._places.values() if place.opens_at > now]
        return max(0.0, min([LOOK_SECONDS, *opening, *([] if until_due is None else [until_due])]))

    async def _deliver(self, delivery: Delivery) -> None:
        place = self._places[delivery.place]
        try:
            reply = await self._attempt(delivery)
            delay = self._settle(place, reply, delivery)
            await self._patiently(lambda: self._note(delivery, reply, delay))
        finally:
            place.held -= 1
            self._held.discard(delivery.id)
            self._forget()
            self.wake()

    async def _attempt(self, delivery: Delivery) -> Reply:
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                return await self._senders[delivery.kind](delivery)
        except TimeoutError:
            return Reply(problem=f"it took longer than {ATTEMPT_SECONDS:g} seconds", is_of_place=True)
        except Exception as error:  # an edge: what a sender does wrong costs a delivery an attempt, no more
            log.error(
                "a sender broke", delivery=delivery.id, task_id=delivery.task_id, kind=delivery.kind,
                exc_info=error,
            )  # fmt: skip
            return Reply(problem="whisperd failed to send it; its log says why")

    def _forget(self) -> None:
        now = self._steady()
        self._places = {name: p for name, p in self._places.items() if not p.is_forgettable(now)}

    def _settle(self, place: _Place, reply: Reply, delivery: Delivery) -> float:
        """Note how the place does; the seconds until this delivery is tried again if it was not taken."""
        least = min(reply.retry_after or 0.0, LONGEST_DELAY_SECONDS)
        if not reply.is_of_place:
            place.failures = 0
        elif place.opens_at <= self._steady():  # else it is known from another that was on its way as well
            pause = min(self._delay(place.failures), LONGEST_PAUSE_SECONDS)
            place.failures += 1
            place.opens_at = self._steady() + max(pause, least)
        return max(self._delay(delivery.attempts), least)

    def _delay(self, failures: int) -> float:
        longest = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(failures, 30))
        return longest * self._jitter()

    async def _note(self, delivery: Delivery, reply: Reply, delay: float) -> None:
        if reply.problem is None:
            await self._outbox.delivered(delivery, reply.status)
            return
        log.info(
            "a delivery failed", delivery=delivery.id, task_id=delivery.task_id, to=delivery.place,
            status=reply.status, problem=reply.problem,
        )  # fmt: skip
        if reply.status == GONE:
            await self._outbox.disable(delivery.url)
        else:
            await self._outbox.failed(delivery, reply.status, reply.problem, delay)

    async def _patiently(self, verb: Callable[[], Awaitable[T]]) -> T:
        """A delivery is held until the disk takes what came of it: else it would be sent again and again."""
        while True:
            try:
                return await verb()
            except _TROUBLES:
                await asyncio.sleep(STORAGE_SECONDS)
