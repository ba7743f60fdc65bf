"""Kafka's records, as they are read since their headers may have any name."""

import struct

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder

from whisperd.brokers.kafka import check
from whisperd.config import Brokers

NO_PRODUCER, PRODUCER, OTHER_PRODUCER = -1, 7, 8
ABORT = b"\0\0\0\0"
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


class Latin(str):
    def encode(self, *_):
        return super().encode("latin-1")


class Builder(_DefaultRecordBatchBuilderPy):
    is_control = False

    def _get_attributes(self, *asked):
        return super()._get_attributes(*asked) | (self.CONTROL_MASK if self.is_control else 0)


def batch(*values, at=0, codec=0, producer=NO_PRODUCER, headers=(), key=None, is_control=False):
    builder = Builder(2, codec, producer != NO_PRODUCER, producer, 0, 0, 2**20)
    builder.is_control = is_control
    for offset, value in enumerate(values):
        builder.append(offset, 0, key, value, list(headers))
    return struct.pack(">q", at) + bytes(builder.build())[8:]


def read(*batches, aborted=()):
    check(Brokers(url="kafka://a"))
    records = fetcher.MemoryRecords(b"".join(batches))
    place = TopicPartition("tasks", 0)
    return list(PartitionRecords(place, records, list(aborted), 0, None, None, True, READ_COMMITTED))


@pytest.mark.parametrize("codec", CODECS)
def test_a_header_may_have_any_name_and_hides_nothing_of_its_batch(codec):
    headers = [(Latin("caf\xe9"), b"\xe9"), ("message_id", b"one")]

    records = read(batch(b"first", b"second", codec=CODECS[codec], headers=headers, key=b"\xe9"))

    assert [(record.offset, record.value, record.key) for record in records] == [
        (0, b"first", b"\xe9"),
        (1, b"second", b"\xe9"),
    ]
    assert {record.headers for record in records} == {(("caf\\xe9", b"\xe9"), ("message_id", b"one"))}


def test_of_a_transaction_that_was_aborted_nothing_is_read():
    records = read(
        batch(b"aborted", producer=PRODUCER),
        batch(b"committed", at=1, producer=OTHER_PRODUCER),
        batch(b"", at=2, producer=PRODUCER, key=ABORT, is_control=True),
        batch(b"begun anew", at=3, producer=PRODUCER),
        aborted=[(PRODUCER, 0)],
    )

    assert [(record.offset, record.value) for record in records] == [(1, b"committed"), (3, b"begun anew")]


def test_messages_of_the_old_format_are_read():
    old = LegacyRecordBatchBuilder(1, 0, 2**20)
    old.append(0, timestamp=0, key=None, value=b"old")

    assert [record.value for record in read(bytes(old.build()), batch(b"new", at=1))] == [b"old", b"new"]


def test_a_batch_that_is_damaged_is_not_passed_over():
    whole = batch(b"first", b"second")

    with pytest.raises(CorruptRecordException):
        read(whole[:-3] + b"x" + whole[-2:])
