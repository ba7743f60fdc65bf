"""The way to RabbitMQ, through FastStream: queues that last, messages that are confirmed.

Ends of tasks go to a topic exchange, by what happened (`task.completed`): who wants to hear binds a queue to
it. Needs the extra brokers, which is loaded with `check` and not before.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from whisperd.brokers.identity import identity
from whisperd.brokers.inbox import Letter, Settle
from whisperd.brokers.way import (
    AT_A_TIME,
    CONFIRM_SECONDS,
    LOOK_SECONDS,
    BrokerAway,
    Pause,
    finished,
    stopped,
)
from whisperd.config import Brokers


def check(settings: Brokers) -> None:
    """Whether it could be used. Blocks for a second, once. Raises ImportError, BrokersUnusable."""
    import faststream.rabbit  # noqa: F401

    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # else each loss of a connection is a traceback
    # What aio_pika leaves of each connection that did not come about.
    warnings.filterwarnings("ignore", "coroutine 'RobustConnection.close' was never awaited", RuntimeWarning)
    _read_any_text()
    identity(settings)


@asynccontextmanager
async def connected(settings: Brokers) -> AsyncIterator[Rabbit]:
    """An open way. Raises what the libraries raise."""
    from faststream.rabbit import Channel, RabbitBroker

    broker = RabbitBroker(
        settings.url,
        security=await asyncio.to_thread(identity, settings),
        timeout=CONFIRM_SECONDS,
        default_channel=Channel(on_return_raises=True),
        logger=None,
        apply_types=False,
    )
    rabbit = Rabbit(broker, settings)
    try:
        await rabbit.open()
        yield rabbit
    finally:
        await stopped(broker)


class Rabbit:
    """Whatever goes wrong raises what the libraries raise: then it has to be opened anew."""

    def __init__(self, broker: Any, settings: Brokers) -> None:
        from faststream.rabbit import ExchangeType, RabbitExchange

        self._broker = broker
        self._connection: Any = None
        self._tasks = settings.tasks
        self._dead = settings.dead
        self._events = RabbitExchange(settings.events, type=ExchangeType.TOPIC, durable=True)
        self._lost = asyncio.Event()

    async def open(self) -> None:
        """Connect, and have there be what is written to: what nothing takes is dropped without a word."""
        from faststream.rabbit import RabbitQueue

        await self._broker.start()
        self._connection = await self._broker.connect()
        self._connection.close_callbacks.add(self._lose)
        for name in filter(None, (self._dead, self._tasks)):
            await self._broker.declare_queue(RabbitQueue(name))
        if self._events.name:
            await self._broker.declare_exchange(self._events)

    def _lose(self, *_: Any) -> None:
        """Before the library restores what it lost: with old calls beside those that come again."""
        self._lost.set()

    async def watch(self) -> None:
        while await self._broker.ping(timeout=LOOK_SECONDS):  # a line that is cut tells nobody
            with suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), LOOK_SECONDS)
                break
        self._lost.set()
        raise BrokerAway

    async def take(self, settle: Settle, pause: Pause) -> None:
        """Of a channel that is closed after: so nothing of it stays with us."""
        await self._take(settle)
        await asyncio.sleep(pause(0))

    async def _take(self, settle: Settle) -> None:
        channel = await self._connection.channel()
        await channel.set_qos(prefetch_count=AT_A_TIME)
        queue = await channel.get_queue(self._tasks, ensure=False)
        channel.close_callbacks.add(self._lose)
        async with asyncio.TaskGroup() as group:
            intake = _Intake(settle, group, self._lost)
            tag = await queue.consume(intake.came)
            try:
                await intake.full.wait()
            except asyncio.CancelledError:
                intake.over = True
                raise
            await queue.cancel(tag)
            intake.closed.set()
        channel.close_callbacks.remove(self._lose)
        await channel.close()

    async def bury(self, letter: Letter, why: Mapping[str, str]) -> None:
        await self._send(letter.body, self._dead, message_id=_short(letter.id), headers=dict(why))

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


class _Intake:
    """Messages of one consumer, each settled by a task of its own, until one cannot be now."""

    def __init__(self, settle: Settle, group: asyncio.TaskGroup, lost: asyncio.Event) -> None:
        self._settle = settle
        self._group = group
        self._lost = lost
        self.full = asyncio.Event()
        self.over = False  # it is cut off, so what comes goes back
        self.closed = asyncio.Event()  # nothing comes any more, so what goes back does not come here

    async def came(self, message: Any) -> None:
        if not (self._lost.is_set() or self.over):
            self._group.create_task(self._take(message), name="message")

    async def _take(self, message: Any) -> None:
        if self.full.is_set() or not await finished(self._settle(_Letter(message)), self._lost):
            self.full.set()
            await self.closed.wait()
            await message.nack(requeue=True)


class _Letter:
    def __init__(self, message: Any) -> None:
        self.body: bytes = message.body
        self.id: str | None = message.message_id
        self.ack = message.ack


def _short(message_id: str | None) -> str | None:
    """As AMQP has it, in at most 255 bytes: an escaped one may be longer."""
    return message_id and message_id.encode()[:255].decode(errors="ignore")


def _read_any_text() -> None:
    """Else a property in Latin-1 ends the connection, and its message comes again at once, for ever.

    So does a time that is none, as one in microseconds.
    """
    from pamqp import decode

    read_table, read_time = decode.field_table, decode.timestamp

    def text(value: bytes) -> tuple[int, str]:
        end = 1 + value[0]
        return end, value[1:end].decode(errors="backslashreplace")

    def table(value: bytes) -> tuple[int, Any]:
        try:
            return read_table(value)
        except (ValueError, OverflowError):  # a name or a time in it; we read none
            return 4 + int.from_bytes(value[:4], "big"), {}

    def moment(value: bytes) -> tuple[int, Any]:
        try:
            return read_time(value)
        except (ValueError, OverflowError):
            return 8, None

    decode.METHODS.update(shortstr=text, table=table, timestamp=moment)
