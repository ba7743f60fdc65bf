"""The audio of tasks as every host hands it out: read from the shared storage, a part at a time.

What a job names as its audio is handed out only if it is the task's own, or was put there by the program that
added the job: so nobody hears, by a task of theirs, what was submitted over HTTP as another one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence, Set
from dataclasses import dataclass

from whisperd.redis_queue import formats
from whisperd.redis_queue.boards import Boards
from whisperd.redis_queue.client import RedisAway
from whisperd.redis_queue.seen import Seen
from whisperd.redis_queue.storage import SUBMITTED, Storage
from whisperd.s3 import S3Error, S3NotFound
from whisperd.task import Kind, QueueAway, Task

PART_BYTES = 2**20  # in memory at a time, for each who listens
HEAD_BYTES = 64  # that tell what kind of media it is


@dataclass(frozen=True, slots=True)
class StoredAudio:
    size: int
    head: bytes
    tag: str  # another one, if it is other audio
    written_at: float  # Unix seconds
    _storage: Storage
    _key: str
    _version: str | None

    async def pieces(self, first: int, end: int) -> AsyncGenerator[bytes, None]:
        """From one byte to before another. Raises S3Error, also where it is other audio by now."""
        for start in range(first, end, PART_BYTES):
            until = min(start + PART_BYTES, end)
            yield (await self._storage.part(self._key, start, until, self._version)).content


class SharedAudio:
    def __init__(self, board: Boards, storage: Storage) -> None:
        self._board = board
        self._storage = storage

    async def find(self, task: Task) -> StoredAudio | None:
        """None: it does not lie there, or not any more. Raises QueueAway, for the storage too."""
        key = await self._key_of(task)
        if key is None:
            return None
        try:
            head = await self._storage.part(key, 0, HEAD_BYTES)
        except S3NotFound:
            return None
        except S3Error as error:
            raise RedisAway(str(error)) from error
        tag = task.audio.sha256[:32] if key.startswith(SUBMITTED) else (head.version or "").strip('"')
        return StoredAudio(head.size, head.content, tag, head.at, self._storage, key, head.version)

    async def kept(self, tasks: Sequence[Task]) -> Set[str]:
        """The ids of those whose audio lies there as long as Redis knows their jobs; it is not looked for.

        None, while Redis is away.
        """
        submitted = [task.id for task in tasks if task.audio.sha256]  # Node's have none
        try:
            standing = await self._board.standing(submitted) if submitted else ()
        except QueueAway:
            return frozenset()
        return {task_id for task_id, one in zip(submitted, standing, strict=True) if one != "gone"}

    async def _key_of(self, task: Task) -> str | None:
        seen = await self._board.look(task.id) if task.kind is Kind.TRANSCRIPTION else None
        if seen is None or not _is_of(seen, task):
            return None
        key = self._storage.key_of(formats.audio_url(seen))
        is_own = key == SUBMITTED + task.id and bool(formats.shown(seen).audio.sha256)  # Node's have none
        is_producers = key is not None and key.startswith("audio/") and not key.startswith(SUBMITTED)
        return key if is_own or is_producers else None


def _is_of(seen: Seen, task: Task) -> bool:
    """Whether it is the task that the caller may see: the id of one may be the number of another's job."""
    shown = formats.shown(seen)
    return (shown.id, shown.kind, shown.tenant, shown.redact) == (
        task.id,
        task.kind,
        task.tenant,
        task.redact,
    )
