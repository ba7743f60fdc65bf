"""librdkafka's mock cluster, a Kafka in memory with its protocol; and what its other clients do with it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import aiokafka
from confluent_kafka import Consumer, Producer, TopicPartition

FROM_ITS_BEGINNING = 0
QUIET = {"log_level": 0}


class Kafka:
    """A mock cluster of one broker, in a process of its own, which forgets all when it ends."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.port = json.loads(self._process.stdout.readline())
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.url = f"kafka://{self.bootstrap}"
        self._producer = Producer(
            {"bootstrap.servers": self.bootstrap, "compression.type": "zstd", **QUIET}  # as many of theirs do
        )

    def away(self):
        """Hears and says nothing, as one behind a line that is cut."""
        self._process.send_signal(signal.SIGSTOP)

    def back(self):
        self._process.send_signal(signal.SIGCONT)

    def close(self):
        self._process.kill()
        self._process.communicate()

    def send(self, body, message_id=None, topic="whisperd.tasks", partition=0):
        headers = {} if message_id is None else {"message_id": message_id}
        self._producer.produce(topic, body, partition=partition, headers=headers)
        assert self._producer.flush(30) == 0

    def told(self, topic, count=1, timeout=90):
        """The first messages that are in it, or come; each its body and its headers."""
        with self._consumer("test") as consumer:
            parts = self._partitions(topic, timeout)
            consumer.assign([TopicPartition(topic, part, FROM_ITS_BEGINNING) for part in parts])
            deadline, found = time.monotonic() + timeout, []
            while len(found) < count:
                assert time.monotonic() < deadline, f"{len(found)} of {count} in {topic}"
                message = consumer.poll(0.2)
                if message is not None and message.error() is None:
                    found.append((message.value(), dict(message.headers())))
            return found

    def _partitions(self, topic, timeout=30):
        """Asking for a topic makes it, and takes a moment."""
        deadline = time.monotonic() + timeout
        while not (found := self._producer.list_topics(topic, 30).topics[topic].partitions):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return list(found)

    def count(self, topic):
        """How many messages are in it."""
        with self._consumer("test") as consumer:
            parts = [TopicPartition(topic, part) for part in self._partitions(topic)]
            ends = [consumer.get_watermark_offsets(part, timeout=30) for part in parts]
            return sum(high - low for low, high in ends)

    def committed(self, partition=0, topic="whisperd.tasks", group="whisperd"):
        """The offset of the message that the group reads next; negative: it committed none."""
        with self._consumer(group) as consumer:
            return consumer.committed([TopicPartition(topic, partition)], 30)[0].offset

    def commit(self, offset, partition=0, topic="whisperd.tasks", group="whisperd"):
        """In place of the group, as its only member once those who died are missed."""

        async def commit():
            settings = {"bootstrap_servers": self.bootstrap, "enable_auto_commit": False}
            async with aiokafka.AIOKafkaConsumer(topic, group_id=group, **settings) as consumer:
                place = aiokafka.TopicPartition(topic, partition)
                async with asyncio.timeout(60):
                    while place not in consumer.assignment():  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                await consumer.commit({place: offset})

        asyncio.run(commit())

    def _consumer(self, group):
        settings = {"bootstrap.servers": self.bootstrap, "group.id": group, "enable.auto.commit": False}
        return _Closing(Consumer({**settings, **QUIET}))


class _Closing:
    def __init__(self, consumer):
        self._consumer = consumer

    def __enter__(self):
        return self._consumer

    def __exit__(self, *_):
        self._consumer.close()


def serve():
    """Until our starter goes."""
    server = Producer({"test.mock.num.brokers": 1, **QUIET})
    (broker,) = server.list_topics(timeout=30).brokers.values()
    print(broker.port, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    serve()
