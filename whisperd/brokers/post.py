"""The way to the broker, kept open: while it is away the daemon goes on, and tries again.

It takes messages, and is the sender of what is told of tasks; that waits in the outbox until it can be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from math import inf
from time import monotonic
from typing import Any, Protocol

import structlog
from msgspec.structs import replace

from whisperd.brokers import kafka, rabbit
from whisperd.brokers.identity import BrokersMissing
from whisperd.brokers.inbox import Inbox
from whisperd.brokers.inside import submitting
from whisperd.brokers.way import Way
from whisperd.config import Brokers, Config
from whisperd.delivery import Delivery, Reply

log = structlog.get_logger(__name__)
AGAIN_SECONDS = 1.0  # before it is tried again, and ever longer up to
AT_LAST_SECONDS = 30.0
WELL_SECONDS = 30.0  # that it was open, for the next try to be an early one again
AWAY = "the broker cannot be reached, or refuses brokers.username, its password, or its queues or topics"


class Sender(Protocol):
    """As deliveries.py has it."""

    async def __call__(self, delivery: Delivery) -> Reply: ...


def post_for(config: Config, body: Callable[[Delivery], bytes]) -> Post | None:
    """None where there is no broker. `body`: what is told of the end of a task.

    Raises BrokersMissing, BrokersUnusable.
    """
    if not config.brokers.url:
        return None
    broker = kafka if config.brokers.url.startswith("kafka") else rabbit
    try:
        broker.check(config.brokers)
    except ImportError as error:
        raise BrokersMissing("brokers need a library more: pip install 'whisperd[brokers]'") from error
    return Post(config, broker.connected, body)


Connected = Callable[[Brokers], AbstractAsyncContextManager[Way]]


class Post:
    def __init__(self, config: Config, connected: Connected, body: Callable[[Delivery], bytes]) -> None:
        # A host that answers no questions takes no submissions either.
        self._settings = config.brokers if config.redis.answers else replace(config.brokers, tasks="")
        self._connected = connected
        self._body = body
        self._inbox: Inbox | None = None
        self._way: Way | None = None  # while it is open

    @property
    def trouble(self) -> str | None:
        """Why messages or events wait; safe to show."""
        if self._way is None:
            return AWAY
        return self._inbox.trouble if self._inbox else None

    async def run(self, app: Any) -> None:
        """For ever. `app`: ours, by ASGI, which takes what messages say."""
        self._inbox, seconds = Inbox(submitting(app), self._settings.key_file), AGAIN_SECONDS
        while True:
            opened = inf
            try:
                async with self._connected(self._settings) as self._way:
                    log.info("connected to the broker")
                    opened = monotonic()
                    await self._work(self._way, self._inbox)
            except Exception as error:  # an edge: the libraries raise what they like
                if monotonic() - opened >= WELL_SECONDS:  # else one message may have ended it, and will again
                    seconds = AGAIN_SECONDS
                log.warning("the broker is away", error=_cause(error), again_in_seconds=seconds)
            finally:
                self._way = None
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, AT_LAST_SECONDS)

    async def _work(self, way: Way, inbox: Inbox) -> None:
        """Until the connection is lost, which raises; what was not acknowledged by then comes again."""
        async with asyncio.TaskGroup() as group:
            group.create_task(way.watch(), name="broker-watch")
            while self._settings.tasks:
                await way.take(lambda letter: inbox.settle(letter, way.bury), inbox.pause)

    def beside(self, others: Sender) -> Sender:
        """The sender of what goes to the broker; `others` sends the rest."""

        async def send(delivery: Delivery) -> Reply:
            return await (self._tell if delivery.url == self._settings.address else others)(delivery)

        return send

    async def _tell(self, delivery: Delivery) -> Reply:
        try:
            if self._way is None:
                raise ConnectionError
            await self._way.tell(delivery.event, self._body(delivery), delivery.id)
        except Exception:  # an edge, as above
            return Reply(problem="the broker cannot be reached", is_of_place=True)
        return Reply()


def _cause(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
