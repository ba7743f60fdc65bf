"""The way to Kafka, through FastStream: one message of a partition at a time, in their order.

The offset that is committed is the one behind the last message that is settled. A message has an id of its
own, its place in the topic: it becomes no second task, whether its sender named it or not. Needs the extra
brokers, which is loaded with `check` and not before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from whisperd.brokers.identity import identity
from whisperd.brokers.inbox import Settle
from whisperd.brokers.way import CONFIRM_SECONDS, LOOK_SECONDS, BrokerAway, Pause, stopped
from whisperd.config import Brokers

log = structlog.get_logger(__name__)
OPEN_SECONDS = 60.0
OUT_SECONDS = 300.0  # of the group, for a host that could take nothing
ANSWER_SECONDS = 5.0
DAY_MS = 24 * 3600 * 1000
MOST_BYTES = 64 * 2**20  # of a dead letter; what its topic takes is for the broker to say
CUT_BYTES = 16 * 2**10  # of the body of one that was refused
CUT_CHARACTERS = 1000  # of each of its headers


def check(settings: Brokers) -> None:
    """Whether it could be used. Blocks for a second, once. Raises ImportError, BrokersUnusable."""
    import faststream.kafka  # noqa: F401

    from whisperd.brokers.records import read_any_name

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # else it tells each try while a broker is away
    read_any_name()
    identity(settings)


@asynccontextmanager
async def connected(settings: Brokers) -> AsyncIterator[Kafka]:
    """An open way. Raises what the libraries raise."""
    from faststream.kafka import KafkaBroker

    from whisperd.brokers.leftovers import ended

    broker = KafkaBroker(
        settings.url.partition("://")[2].split(","),
        security=await asyncio.to_thread(identity, settings),
        client_id="whisperd",
        acks="all",
        max_request_size=MOST_BYTES,
        logger=None,
        apply_types=False,
    )
    kafka = Kafka(broker, settings)
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            await kafka.open()
        yield kafka
    finally:
        async with ended(broker):
            await stopped(broker)


class Kafka:
    """Whatever goes wrong raises what the libraries raise: then it has to be opened anew."""

    def __init__(self, broker: Any, settings: Brokers) -> None:
        self._broker = broker
        self._settings = settings
        self._lanes: Any = None
        self._tasks: Any = None
        self._lost = asyncio.Event()

    async def open(self) -> None:
        """Connect, and have there be what is read and written, as far as the broker lets us."""
        from faststream.kafka import Topic

        await self._broker.start()
        names = (self._settings.tasks, self._settings.dead, self._settings.events)
        await self._broker.config.admin.create_topics([Topic(name) for name in names if name])
        if self._settings.tasks:
            self._subscribe()

    def _subscribe(self) -> None:
        from faststream import AckPolicy

        from whisperd.brokers.lanes import Lanes

        self._lanes = Lanes(self._consumer, self._lost)
        self._tasks = self._broker.subscriber(
            self._settings.tasks,
            group_id=self._settings.group,
            auto_offset_reset="earliest",
            max_poll_interval_ms=DAY_MS,  # audio may be long in coming; who hangs sends no heartbeat
            ack_policy=AckPolicy.MANUAL,
            listener=self._lanes,
            isolation_level="read_committed",
        )

    def _consumer(self) -> Any:
        return self._tasks.consumer

    async def watch(self) -> None:
        while await self._broker.ping(timeout=ANSWER_SECONDS):  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(LOOK_SECONDS)
        self._lost.set()
        raise BrokerAway

    async def take(self, settle: Settle, pause: Pause) -> None:
        """What cannot be taken now waits, and its partition with it, and disturbs no other member.

        At last the group is left for a while: so the partitions go to others, where there are any.
        """
        await self._follow(settle, pause)
        await asyncio.sleep(pause(OUT_SECONDS))

    async def _follow(self, settle: Settle, pause: Pause) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                full = self._lanes.open(group, settle, pause)
                await self._tasks.start()
                while not full.is_set():
                    self._consumer()._coordinator.check_errors()  # else nobody hears of them
                    with suppress(TimeoutError):
                        await asyncio.wait_for(full.wait(), LOOK_SECONDS)
                await self._lanes.close()
        finally:
            in_order = await stopped(self._tasks)
        if not in_order:
            raise BrokerAway

    async def bury(self, letter: Any, why: Mapping[str, str]) -> None:
        """A message of a lane. One that the topic refuses goes there cut: it would be refused for ever."""
        from aiokafka.errors import BrokerResponseError

        headers = {**why, **letter.place, "message_id": letter.id}
        try:
            await self._send(letter.body, self._settings.dead, headers, letter.key)
        except BrokerResponseError as refused:
            if refused.retriable:
                raise
            log.warning("a dead letter is cut, since it was refused", error=type(refused).__name__)
            cut = {name: value[:CUT_CHARACTERS] for name, value in headers.items()}
            cut["body_bytes"] = str(len(letter.body))
            key = letter.key and letter.key[:CUT_CHARACTERS]
            await self._send(letter.body[:CUT_BYTES], self._settings.dead, cut, key)

    async def tell(self, event: str, body: bytes, message_id: str) -> None:
        await self._send(body, self._settings.events, {"event": event, "message_id": message_id})

    async def _send(
        self, body: bytes, topic: str, headers: Mapping[str, str], key: bytes | None = None
    ) -> None:
        async with asyncio.timeout(CONFIRM_SECONDS):
            await self._broker.publish(body, topic, headers=dict(headers), key=key)
