"""librdkafka's mock cluster, a Kafka in memory with its protocol; and what its other clients do with it."""

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiokafka
import confluent_kafka
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from confluent_kafka import Consumer, Producer, TopicPartition

FROM_ITS_BEGINNING = 0
A_PRODUCER = 0  # a kind of client
PRODUCE, JOIN, LEAVE = 0, 11, 13  # kinds of requests
TOO_LARGE = 10
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

    def send_latin(self, *bodies, name="caf\xe9"):
        """As one batch of the topic's, each with a header that has this name, in Latin-1."""

        async def send():
            async with aiokafka.AIOKafkaProducer(bootstrap_servers=self.bootstrap) as producer:
                batch = producer.create_batch()
                batch._builder = _DefaultRecordBatchBuilderPy(2, 0, False, -1, -1, 0, 2**20)
                for body in bodies:
                    batch.append(key=b"key", value=body, timestamp=None, headers=[(_Latin(name), b"")])
                await (await producer.send_batch(batch, "whisperd.tasks", partition=0))

        asyncio.run(send())

    def refuse_next(self, error=TOO_LARGE):
        """The next message that is sent by anybody."""
        self._ask("refuse", error)

    def asked(self, kind):
        """How many requests of this kind there have been."""
        return self._ask("count", kind)

    def _ask(self, *words):
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

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


class _Latin(str):
    def encode(self, *_):
        return super().encode("latin-1")


class _Closing:
    def __init__(self, consumer):
        self._consumer = consumer

    def __enter__(self):
        return self._consumer

    def __exit__(self, *_):
        self._consumer.close()


def serve():
    """Until our starter goes; what it asks for meanwhile is a line each."""
    (path,) = Path(confluent_kafka.__file__).parents[1].glob("confluent_kafka.libs/librdkafka*")
    library = ctypes.CDLL(path)
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    library.rd_kafka_mock_get_requests.restype = ctypes.POINTER(ctypes.c_void_p)
    client = _pointer(library.rd_kafka_new, A_PRODUCER, None, None, 0)
    cluster = _pointer(library.rd_kafka_mock_cluster_new, client, 1)
    library.rd_kafka_mock_start_request_tracking(cluster)
    address = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()
    print(address.partition(":")[2], flush=True)
    for line in sys.stdin:
        what, value = json.loads(line)
        print({"refuse": _refuse, "count": _count}[what](library, cluster, value), flush=True)
    os._exit(0)


def _refuse(library, cluster, error):
    number = ctypes.byref(ctypes.c_int(error))
    library.rd_kafka_mock_push_request_errors_array(cluster, PRODUCE, ctypes.c_size_t(1), number)
    return error


def _count(library, cluster, kind):
    size = ctypes.c_size_t()
    requests = library.rd_kafka_mock_get_requests(cluster, ctypes.byref(size))
    kinds = [library.rd_kafka_mock_request_api_key(ctypes.c_void_p(one)) for one in requests[: size.value]]
    library.rd_kafka_mock_request_destroy_array(requests, size)
    return kinds.count(kind)


def _pointer(function, *arguments):
    function.restype = ctypes.c_void_p
    return ctypes.c_void_p(function(*arguments))


if __name__ == "__main__":
    serve()
