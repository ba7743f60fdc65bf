"""The way to RabbitMQ, through FastStream: queues that last, messages that are confirmed.

Ends of tasks go to a topic exchange, by what happened (`task.completed`): who wants to hear binds a queue to
it. Needs the extra brokers, which is loaded with `check` and not before.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from whisperd.brokers.inbox import Letter
from whisperd.config import Brokers

AT_A_TIME = 8  # messages that are being submitted, whose audio may have to be fetched
CLOSE_SECONDS = 5.0
CONFIRM_SECONDS = 15.0
LOOK_SECONDS = 1.0


class BrokersMissing(Exception):
    """The library is not installed."""


class BrokersUnusable(Exception):
    """A file of the settings is no good. The message is safe to show."""


class BrokerAway(Exception):
    """The connection is lost."""


def check(settings: Brokers) -> None:
    """Whether it could be used. Blocks for a second, once. Raises BrokersMissing, BrokersUnusable."""
    try:
        import faststream.rabbit  # noqa: F401
    except ImportError as error:
        raise BrokersMissing("brokers need a library more: pip install 'whisperd[brokers]'") from error
    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # else each loss of a connection is a traceback
    # What aio_pika leaves of each connection that did not come about.
    warnings.filterwarnings("ignore", "coroutine 'RobustConnection.close' was never awaited", RuntimeWarning)
    _security(settings)


@asynccontextmanager
async def connected(settings: Brokers) -> AsyncIterator[Rabbit]:
    """An open way. Raises what the libraries raise."""
    from faststream.rabbit import Channel, RabbitBroker

    broker = RabbitBroker(
        settings.url,
        security=await asyncio.to_thread(_security, settings),
        timeout=CONFIRM_SECONDS,
        default_channel=Channel(prefetch_count=AT_A_TIME, on_return_raises=True),
        logger=None,
        apply_types=False,
    )
    rabbit = Rabbit(broker, settings)
    try:
        await rabbit.open()
        yield rabbit
    finally:
        with suppress(Exception):  # of a connection that is gone already
            async with asyncio.timeout(CLOSE_SECONDS):
                await broker.stop()


class Rabbit:
    """Whatever goes wrong raises what the libraries raise: then it has to be opened anew."""

    def __init__(self, broker: Any, settings: Brokers) -> None:
        from faststream import AckPolicy
        from faststream.rabbit import ExchangeType, RabbitExchange, RabbitQueue

        self._broker = broker
        self._dead = RabbitQueue(settings.dead)
        self._events = RabbitExchange(settings.events, type=ExchangeType.TOPIC, durable=True)
        self._arrived = asyncio.Queue[Letter]()  # AT_A_TIME of a channel at most
        if settings.tasks:
            tasks = RabbitQueue(settings.tasks)
            # Nor an answer to `reply_to`, which would come before there is a task.
            take = broker.subscriber(tasks, ack_policy=AckPolicy.MANUAL, decoder=_as_it_came, no_reply=True)
            take(self._take)

    async def open(self) -> None:
        """Connect, and have there be what is written to: what nothing takes is dropped without a word."""
        await self._broker.start()
        await self._broker.declare_queue(self._dead)
        if self._events.name:
            await self._broker.declare_exchange(self._events)

    async def watch(self) -> None:
        """Raises BrokerAway once it is."""
        while await self._broker.ping(timeout=LOOK_SECONDS):  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(LOOK_SECONDS)
        raise BrokerAway

    async def next(self) -> Letter:
        """Waits for a message; of a channel no more than AT_A_TIME come that are not acknowledged."""
        return await self._arrived.get()

    async def _take(self, message: Any) -> None:
        self._arrived.put_nowait(_Letter(message))

    async def bury(self, letter: Letter, why: Mapping[str, str]) -> None:
        await self._send(letter.body, self._dead, message_id=letter.id, headers=dict(why))

    async def tell(self, event: str, body: bytes, message_id: str) -> None:
        """Returns when it is with all queues that are bound for it; there need be none."""
        await self._send(
            body,
            exchange=self._events,
            routing_key=event,
            message_id=message_id,
            content_type="application/json",
            mandatory=False,
        )

    async def _send(self, body: bytes, *where: Any, **options: Any) -> None:
        async with asyncio.timeout(CONFIRM_SECONDS):
            await self._broker.publish(body, *where, persist=True, **options)


class _Letter:
    def __init__(self, message: Any) -> None:
        self.body: bytes = message.body
        self.id: str | None = message.raw_message.message_id  # FastStream makes one up where there is none
        self.ack = message.ack


async def _as_it_came(message: Any) -> Any:
    """In place of FastStream's decoder, which refuses what is no JSON."""
    return message


def _security(settings: Brokers) -> Any:
    """Who we are, and whom we trust, as FastStream takes it. Raises BrokersUnusable."""
    from faststream.security import BaseSecurity, SASLPlaintext

    tls = settings.url.startswith("amqps:")
    context = _trusting(settings.ca_file) if tls else None
    if not settings.username:
        return BaseSecurity(ssl_context=context, use_ssl=tls)
    try:
        password = Path(settings.password_file).read_text().strip() if settings.password_file else ""
    except (OSError, UnicodeError):
        raise BrokersUnusable("brokers.password_file cannot be read") from None
    return SASLPlaintext(username=settings.username, password=password, ssl_context=context, use_ssl=tls)


def _trusting(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError):
        raise BrokersUnusable("brokers.ca_file is no file of certificates") from None
