"""The partitions of Kafka that are followed: what ends one of them, and what does not."""

import asyncio
from types import SimpleNamespace

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError

from whisperd.brokers.lanes import Lanes

ONE, OTHER = TopicPartition("tasks", 0), TopicPartition("tasks", 1)


class Consumer:
    """Each partition has one message, and no more comes."""

    def __init__(self):
        self.committed, self._given = [], set()

    async def getone(self, partition):
        if partition in self._given:
            await asyncio.Event().wait()
        self._given.add(partition)
        return SimpleNamespace(
            value=b"", headers=(), topic="tasks", partition=partition.partition, offset=0, timestamp=0
        )

    async def commit(self, offsets):
        self.committed.extend(offsets)


def test_a_message_that_has_to_wait_ends_no_work_on_those_of_other_partitions():
    consumer, goes_on = Consumer(), asyncio.Event()

    async def settle(letter):
        if letter.id.startswith("tasks/0/"):
            return False
        await goes_on.wait()
        await letter.ack()
        return True

    async def main():
        lanes = Lanes(lambda: consumer)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            full = lanes.open(group, settle)
            await lanes.on_partitions_assigned([OTHER, ONE])
            await full.wait()
            closing = group.create_task(lanes.close())
            await asyncio.sleep(0.05)
            goes_on.set()
            await closing

    asyncio.run(main())

    assert consumer.committed == [OTHER]


def test_a_commit_that_comes_too_late_ends_its_partition_and_nothing_else():
    consumer = Consumer()

    async def settle(letter):
        if letter.id.startswith("tasks/0/"):
            raise CommitFailedError
        await letter.ack()
        return True

    async def main():
        lanes = Lanes(lambda: consumer)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            lanes.open(group, settle)
            await lanes.on_partitions_assigned([ONE, OTHER])
            await asyncio.sleep(0.05)
            await lanes.close()

    asyncio.run(main())

    assert consumer.committed == [OTHER]
