"""Each partition of Kafka's that we are given: its messages one after the other, in a task of its own.

Loads aiokafka.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError

from whisperd.brokers.inbox import Settle

AT_A_TIME = 8  # messages that are being submitted, whose audio may have to be fetched
COMMIT_SECONDS = 15.0
ID = "message_id"  # the header that names a message


class Lanes(ConsumerRebalanceListener):  # type: ignore[misc]
    """What is taken from us is left at once: another host has it, from its last commit."""

    def __init__(self, consumer: Callable[[], Any]) -> None:
        self._consumer = consumer
        self._lanes: dict[TopicPartition, asyncio.Task[None]] = {}
        self._busy: set[TopicPartition] = set()  # those of which a message is being settled
        self._room = asyncio.Semaphore(AT_A_TIME)

    def open(self, group: asyncio.TaskGroup, settle: Settle) -> asyncio.Event:
        """What is set once a message cannot be settled now."""
        self._lanes, self._group, self._settle = {}, group, settle
        self._full = asyncio.Event()
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
            record = await self._consumer().getone(partition)
            self._busy.add(partition)
            try:
                async with self._room:
                    if not await self._settle(_Letter(self._consumer(), partition, record)):
                        self._full.set()
            except (CommitFailedError, IllegalStateError):  # it is another's by now
                return
            finally:
                self._busy.discard(partition)


class _Letter:
    def __init__(self, consumer: Any, partition: TopicPartition, record: Any) -> None:
        self._consumer = consumer
        self._partition = partition
        self._behind = record.offset + 1
        self.body: bytes = record.value or b""
        self.id: str | None = _named(record) or _place(record)

    async def ack(self) -> None:
        async with asyncio.timeout(COMMIT_SECONDS):
            await self._consumer.commit({self._partition: self._behind})


def _named(record: Any) -> str:
    """By its sender."""
    return (dict(record.headers).get(ID) or b"").decode(errors="backslashreplace")


def _place(record: Any) -> str:
    """With its time, since a topic that is made anew counts from 0 again."""
    return f"{record.topic}/{record.partition}/{record.offset}/{record.timestamp}"
