"""Kafka's records, read whatever bytes the names of their headers are. Loads aiokafka.

aiokafka reads no record whose header's name is not UTF-8, nor what stands behind it in its batch: so the
partition would stand still for good.
"""

from __future__ import annotations

from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record import memory_records
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.util import decode_varint_py


def read_any_name() -> None:
    """From now on, in this process: with backslashes for what is no text."""
    fetcher.MemoryRecords = memory_records._MemoryRecordsPy
    memory_records.DefaultRecordBatch = _Batch


class _Batch(_DefaultRecordBatchPy):  # type: ignore[misc]
    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer: bytearray = _Buffer(self._buffer)

    def _read_msg(self) -> Any:
        return super()._read_msg(decode_varint_py)


class _Buffer(bytearray):
    def __getitem__(self, where: Any) -> Any:
        found = super().__getitem__(where)
        return _Text(found) if isinstance(where, slice) else found


class _Text(bytes):
    """What is asked for as text is a header's name, and nothing else."""

    def decode(self, *_: Any) -> str:
        return super().decode(errors="backslashreplace")
