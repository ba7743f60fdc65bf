"""What lies in the shared storage for a task that is completed: its transcript, and what was found in that.

One object, written once: so what rules want out of a transcript is there as soon as it is, for every host.
"""

from __future__ import annotations

import asyncio

import msgspec

from whisperd.look import Ended
from whisperd.redis_queue.client import RedisAway
from whisperd.redis_queue.storage import Storage
from whisperd.s3 import S3Error
from whisperd.transcript import Transcript


class Stored(Transcript, frozen=True, kw_only=True):
    """Complete, and as it was before anybody corrected it."""

    look: Ended | None = None  # that was submitted with it


async def encoded(stored: Stored) -> bytes:
    return await asyncio.to_thread(msgspec.json.encode, stored)


async def decoded(content: bytes) -> Stored:
    return await asyncio.to_thread(msgspec.json.decode, content, type=Stored)


async def find(storage: Storage, task_id: str) -> Stored | None:
    """None: nobody has written it. Raises RedisAway."""
    try:
        content = await storage.result(task_id)
    except S3Error as error:
        raise RedisAway(str(error)) from error
    return None if content is None else await decoded(content)
