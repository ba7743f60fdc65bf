"""What lies in the shared storage for a task that is completed: its transcript, and what was found in that.

One object, written once: so what rules want out of a transcript is there as soon as it is, for every host.
It stays when Redis has forgotten the task, whose id another tenant may use then: its own alone is shown it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from whisperd.look import Ended
from whisperd.redis_queue.client import RedisAway
from whisperd.redis_queue.formats import NOBODY
from whisperd.redis_queue.storage import Storage
from whisperd.s3 import S3Error
from whisperd.task import Detection, Task
from whisperd.transcript import Transcript


class Stored(Transcript, frozen=True, kw_only=True):
    """Complete, and as it was before anybody corrected it."""

    look: Ended | None = None  # that was submitted with it
    peaks: bytes = b""  # the waveform of its audio, see engine/peaks.py; none: an older host has written it


class _Waveform(Struct, frozen=True):
    """What is needed to draw it."""

    task: Task | None = None
    peaks: bytes = b""


class Found(Struct, frozen=True, kw_only=True):
    """What a look that came later has found in a transcript, as far as it tells what is to be redacted."""

    asked: Detection
    rules: str | None  # SHA-256 of those that were sent with it
    hidden: str  # JSON: places and rules_errors of its report

    @classmethod
    def by(cls, look: Ended, report: str) -> Found:
        return cls(asked=look.asked, rules=look.rules, hidden=hidden(report))


class _Report(Struct, frozen=True):
    places: Raw
    rules_errors: Raw


def hidden(report: str) -> str:
    """What redaction needs of it, as a host's own database has it."""
    found = msgspec.json.decode(report, type=_Report)
    return msgspec.json.encode([found.places, found.rules_errors]).decode()


async def encoded(stored: Stored) -> bytes:
    return await asyncio.to_thread(msgspec.json.encode, stored)


async def decoded(content: bytes) -> Stored:
    return await asyncio.to_thread(msgspec.json.decode, content, type=Stored)


async def find(storage: Storage, task_id: str, tenant: str) -> Stored | None:
    """None: nobody has written it, or it is another tenant's. Raises RedisAway."""
    content = await _content(storage, task_id)
    found = None if content is None else await decoded(content)
    return found if found is not None and is_of(found.task, tenant) else None


async def peaks(storage: Storage, task_id: str, tenant: str) -> bytes | None:
    """None: there are none, or not yet, or they are another tenant's. Raises RedisAway."""
    content = await _content(storage, task_id)
    if content is None:
        return None
    found = await asyncio.to_thread(msgspec.json.decode, content, type=_Waveform)
    return (found.peaks or None) if found.task is not None and is_of(found.task, tenant) else None


def is_of(task: Task, tenant: str) -> bool:
    """`tenant`: as its job says; nobody's, if that cannot be read, which no tenant may see."""
    return tenant in (NOBODY, task.tenant)


async def _content(storage: Storage, task_id: str) -> bytes | None:
    try:
        return await storage.result(task_id)
    except S3Error as error:
        raise RedisAway(str(error)) from error


async def looks(storage: Storage, transcription_id: str) -> Mapping[str, Found]:
    """By the ids of their tasks, in order of submission. Raises RedisAway."""
    try:
        kept = await storage.looks(transcription_id)
    except S3Error as error:
        raise RedisAway(str(error)) from error
    return {task_id: msgspec.json.decode(content, type=Found) for task_id, content in kept.items()}
