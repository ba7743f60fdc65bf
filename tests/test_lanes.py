"""The partitions of Kafka that are followed: what ends one of them, what rests, and what does not."""

import asyncio
from types import SimpleNamespace

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, CorruptRecordException, TopicAuthorizationFailedError

from whisperd.brokers import lanes as module
from whisperd.brokers.lanes import Lanes

ONE, OTHER = TopicPartition("tasks", 0), TopicPartition("tasks", 1)


class Consumer:
    """Each partition has so many messages, and no more come."""

    def __init__(self, messages=1):
        self.committed, self._messages, self._given = [], messages, {}

    async def getone(self, partition):
        offset = self._given.setdefault(partition, 0)
        if offset == self._messages:
            await asyncio.Event().wait()
        self._given[partition] += 1
        return SimpleNamespace(
            **partition._asdict(), offset=offset, timestamp=0, key=None, value=b"", headers=()
        )

    async def commit(self, offsets):
        self.committed.extend(offsets.items())


class Damaged(Consumer):
    """What is first in partition 0 can be read only at the third try."""

    tries = 0

    async def getone(self, partition):
        if partition == ONE:
            self.tries += 1
            if self.tries < 3:
                raise CorruptRecordException
        return await super().getone(partition)


def at_once(least):
    """A pause that is none."""
    return 0.0


def follow(consumer, settle, use, pause=at_once):
    """`use` has the lanes and what tells that they are full, while both partitions are followed."""

    async def main():
        lanes = Lanes(lambda: consumer, asyncio.Event())
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            full = lanes.open(group, settle, pause)
            await lanes.on_partitions_assigned([ONE, OTHER])
            await use(lanes, full)
            full.set()
            await lanes.close()

    asyncio.run(main())


def test_a_message_that_has_to_wait_ends_no_work_on_those_of_other_partitions(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0)
    consumer, begun, goes_on = Consumer(), asyncio.Event(), asyncio.Event()

    async def settle(letter):
        if letter.id.startswith("tasks/0/"):
            await begun.wait()
            return False
        begun.set()
        await goes_on.wait()
        await letter.ack()
        return True

    async def use(lanes, full):
        await full.wait()
        asyncio.get_running_loop().call_later(0.05, goes_on.set)

    follow(consumer, settle, use)

    assert consumer.committed == [(OTHER, 1)]


def test_a_commit_that_comes_too_late_ends_its_partition_and_nothing_else():
    consumer = Consumer()

    async def settle(letter):
        if letter.id.startswith("tasks/0/"):
            raise CommitFailedError
        await letter.ack()
        return True

    async def use(lanes, full):
        await asyncio.sleep(0.05)

    follow(consumer, settle, use)

    assert consumer.committed == [(OTHER, 1)]


def test_a_message_that_has_to_wait_is_tried_again_before_what_is_behind_it():
    consumer, tried, done = Consumer(messages=2), [], asyncio.Event()

    async def settle(letter):
        if letter.id.startswith("tasks/1/"):
            return True
        tried.append(letter.id)
        if len(tried) <= 3:
            return False
        await letter.ack()
        if len(consumer.committed) == 2:
            done.set()
        return True

    async def use(lanes, full):
        await done.wait()
        assert not full.is_set()

    follow(consumer, settle, use)

    assert tried == ["tasks/0/0/0"] * 4 + ["tasks/0/1/0"]
    assert consumer.committed == [(ONE, 1), (ONE, 2)]


def test_while_one_message_has_to_wait_none_is_tried():
    tried = []

    async def settle(letter):
        tried.append(letter.id)
        return letter.id.startswith("tasks/1/")

    async def use(lanes, full):
        await asyncio.sleep(0.05)

    follow(Consumer(messages=9), settle, use, pause=lambda least: 60.0)

    assert tried == ["tasks/0/0/0", "tasks/1/0/0"]


def test_others_get_the_partitions_only_once_nothing_was_taken_for_long(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.3)
    last = asyncio.Event()

    def refusals(letter):
        return letter.id.startswith("tasks/0/") or last.is_set()

    async def settle(letter):
        await asyncio.sleep(0.01)
        return not refusals(letter)

    async def use(lanes, full):
        await asyncio.sleep(1)
        assert not full.is_set()
        last.set()
        await full.wait()

    follow(Consumer(messages=1000), settle, use)


def test_what_was_refused_before_a_long_silence_does_not_count(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.5)

    async def settle(letter):
        await asyncio.sleep(0.01)
        return letter.id.startswith("tasks/1/")

    async def use(lanes, full):
        await asyncio.sleep(0.1)
        await lanes.on_partitions_revoked([ONE])
        await asyncio.sleep(1)
        await lanes.on_partitions_assigned([ONE])
        await asyncio.sleep(0.1)
        assert not full.is_set()

    follow(Consumer(messages=2), settle, use)


def test_a_damaged_batch_holds_up_its_own_partition_until_it_can_be_read(monkeypatch):
    monkeypatch.setattr(module, "REST_SECONDS", 0.05)
    consumer, done = Damaged(messages=2), asyncio.Event()

    async def settle(letter):
        await letter.ack()
        if len(consumer.committed) == 4:
            done.set()
        return True

    async def use(lanes, full):
        await done.wait()
        assert not full.is_set()

    follow(consumer, settle, use)

    assert consumer.committed == [(OTHER, 1), (OTHER, 2), (ONE, 1), (ONE, 2)]


def test_a_dead_letter_that_is_refused_holds_up_its_own_partition_until_it_is_taken(monkeypatch):
    monkeypatch.setattr(module, "REST_SECONDS", 0.05)
    consumer, tried, done = Consumer(messages=2), [], asyncio.Event()

    async def settle(letter):
        tried.append(letter.id)
        if letter.id == "tasks/0/0/0" and tried.count(letter.id) < 3:
            raise TopicAuthorizationFailedError
        await letter.ack()
        if len(consumer.committed) == 4:
            done.set()
        return True

    async def use(lanes, full):
        await done.wait()
        assert not full.is_set()

    follow(consumer, settle, use, pause=lambda least: 60.0)

    assert consumer.committed == [(OTHER, 1), (OTHER, 2), (ONE, 1), (ONE, 2)]


def test_a_host_that_comes_back_is_as_patient_as_before(monkeypatch):
    now, refused = [1000.0], []
    monkeypatch.setattr(module, "monotonic", lambda: now[0])

    async def settle(letter):
        refused.append(letter.id)
        now[0] += 100
        return False

    async def use(lanes, full):
        await full.wait()
        await lanes.close()
        refused.clear()
        async with asyncio.TaskGroup() as group:
            full = lanes.open(group, settle, at_once)
            await lanes.on_partitions_assigned([ONE])
            await full.wait()
            await lanes.close()

    follow(Consumer(messages=2), settle, use)

    assert len(refused) == 4  # of which the last is 300 s after the first


def test_what_is_being_settled_as_its_partition_is_taken_from_us_is_committed():
    consumer, begun = Consumer(), asyncio.Event()

    async def settle(letter):
        if letter.id.startswith("tasks/0/"):
            begun.set()
            await asyncio.sleep(0.05)
            await letter.ack()
        return True

    async def use(lanes, full):
        await begun.wait()
        await lanes.on_partitions_revoked([ONE])
        assert (ONE, 1) in consumer.committed

    follow(consumer, settle, use)
