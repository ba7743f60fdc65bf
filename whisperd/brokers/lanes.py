"""Each partition of Kafka's that we are given: its messages one after the other, in a task of its own.

Loads aiokafka.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    BrokerResponseError,
    CommitFailedError,
    CorruptRecordException,
    IllegalStateError,
)

from whisperd.brokers.inbox import Letter, Settle
from whisperd.brokers.way import AT_A_TIME, CONFIRM_SECONDS, Pause, finished

log = structlog.get_logger(__name__)
REST_SECONDS = 30.0  # of one partition, before what holds it up is tried again
PATIENCE_SECONDS = 300.0  # that nothing could be taken, before others shall have the partitions
ID = "message_id"  # the header that names a message


class Lanes(ConsumerRebalanceListener):  # type: ignore[misc]
    """What is taken from us is left soon: another host has it, from its last commit."""

    def __init__(self, consumer: Callable[[], Any], lost: asyncio.Event) -> None:
        self._consumer = consumer
        self._lost = lost  # the connection, over which nothing can be committed then
        self._lanes: dict[TopicPartition, asyncio.Task[None]] = {}
        self._busy: set[TopicPartition] = set()  # those of which a message is being settled
        self._room = asyncio.Semaphore(AT_A_TIME)
        self._again = 0.0  # by time.monotonic: until then nothing is tried
        self._refused_since: float | None = None  # by the same, without one that was taken

    def open(self, group: asyncio.TaskGroup, settle: Settle, pause: Pause) -> asyncio.Event:
        """What is set once it is better that others have what we cannot take."""
        self._lanes, self._group, self._settle, self._pause = {}, group, settle, pause
        self._full = asyncio.Event()
        self._refused_since, self._again = None, 0.0
        return self._full

    async def close(self) -> None:
        """What is being settled is, first: one message that has to wait must not undo the work on others."""
        await self.on_partitions_revoked(self._lanes.keys() - self._busy)
        await asyncio.gather(*self._lanes.values(), return_exceptions=True)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        for partition in assigned:
            lane = self._follow(partition)
            self._lanes[partition] = self._group.create_task(lane, name=f"partition-{partition.partition}")

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        lanes = [lane for partition in revoked if (lane := self._lanes.pop(partition, None))]
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)

    async def _follow(self, partition: TopicPartition) -> None:
        while not self._full.is_set():
            letter = Message(self._consumer(), partition, await self._next(partition))
            try:
                await self._settled(letter, partition)
            except (CommitFailedError, IllegalStateError):  # it is another's by now
                return

    async def _next(self, partition: TopicPartition) -> Any:
        while True:
            try:
                return await self._consumer().getone(partition)
            except CorruptRecordException:  # another copy may have it whole
                log.error("a batch of Kafka's is damaged", **partition._asdict())
                await asyncio.sleep(REST_SECONDS)

    async def _settled(self, letter: Letter, partition: TopicPartition) -> None:
        """Tried until it is, or we are full. A dead letter that is refused holds up its own lane only."""
        while not self._full.is_set():
            try:
                if await self._is_settled(letter, partition):
                    return
            except BrokerResponseError as refused:
                if refused.retriable:
                    raise
                log.error("Kafka refuses a dead letter", error=type(refused).__name__, **partition._asdict())
                await asyncio.sleep(REST_SECONDS)
            else:
                self._rest()

    async def _is_settled(self, letter: Letter, partition: TopicPartition) -> bool:
        await asyncio.sleep(self._again - monotonic())
        async with self._room:
            if monotonic() < self._again:  # another has just been refused
                return False
            self._busy.add(partition)
            try:
                settled = await finished(self._settle(letter), self._lost)
            finally:
                self._busy.discard(partition)
        if settled:
            self._refused_since = None
        return settled

    def _rest(self) -> None:
        """One that could not be settled tells for all: they have the same queue."""
        now = monotonic()
        if self._refused_since is None or now - self._again > PATIENCE_SECONDS:  # what was then is over
            self._refused_since = now
        if now >= self._again:
            self._again = now + self._pause(0)
        if now - self._refused_since >= PATIENCE_SECONDS:
            self._full.set()


class Message:
    """One of a partition, as a letter."""

    def __init__(self, consumer: Any, partition: TopicPartition, record: Any) -> None:
        self._consumer = consumer
        self._partition = partition
        self._behind = record.offset + 1
        self.body: bytes = record.value or b""
        self.id: str | None = _named(record) or _place(record)
        self.key: bytes | None = record.key
        self.place = {name: str(getattr(record, name)) for name in ("topic", "partition", "offset")}

    async def ack(self) -> None:
        async with asyncio.timeout(CONFIRM_SECONDS):
            await self._consumer.commit({self._partition: self._behind})


def _named(record: Any) -> str:
    """By its sender."""
    return (dict(record.headers).get(ID) or b"").decode(errors="backslashreplace")


def _place(record: Any) -> str:
    """With its time, since a topic that is made anew counts from 0 again."""
    return f"{record.topic}/{record.partition}/{record.offset}/{record.timestamp}"
