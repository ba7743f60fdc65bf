"""What risk detection found, as the outside sees it where several hosts share a queue.

Of what this host has done its own database tells; of all else what lies in the shared storage, where a
transcript and what was found in it are one object. It keeps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whisperd.detections import Detections
from whisperd.look import Ended, Kept, Seen, Standing
from whisperd.redis_queue import formats, stored
from whisperd.redis_queue.shared_queue import SharedQueue
from whisperd.redis_queue.storage import Storage
from whisperd.task import State, Task, TaskNotFound


class SharedDetections:
    """Detections of tasks on any host: what it does not say itself is the local one's. Raises QueueAway."""

    def __init__(self, local: Detections, queue: SharedQueue, storage: Storage) -> None:
        self._local = local
        self._queue = queue
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._local, name)

    async def first(self, transcription_id: str) -> Task:
        if await self._queue.is_here(transcription_id):
            return await self._local.first(transcription_id)
        if (look := await self._queue.look(transcription_id)) is None:
            raise TaskNotFound(f"nothing looks through task {transcription_id}")
        return look

    async def kept(self, task_id: str) -> Kept | None:
        return await self._kept(task_id, (await self._queue.get(task_id)).tenant)

    async def newest(self, transcription_id: str) -> Kept | None:
        tenant = (await self._queue.get(transcription_id)).tenant
        for task_id in reversed([*await stored.looks(self._storage, transcription_id)]):
            if found := await self._kept(task_id, tenant):
                return found
        if await self._queue.is_here(transcription_id):
            return await self._local.newest(transcription_id)
        return await self._stored(transcription_id, tenant)

    async def redaction(self, transcription: Task, edit: str | None) -> Sequence[Seen]:
        later = {} if edit else await stored.looks(self._storage, transcription.id)
        others = [Seen(one.asked, one.rules, False, one.hidden) for one in later.values()]
        if await self._queue.is_here(transcription.id):
            return [*await self._local.redaction(transcription, edit), *others]
        first = await self._ended(transcription.id, transcription.tenant)
        return others if first is None else [_seen(first, edit), *others]

    async def is_awaited(self, transcription_id: str) -> bool:
        return await self.standing(transcription_id) == "awaited"

    async def standing(self, transcription_id: str) -> Standing | None:
        """Of looks of their own only those of this host: whoever polls a task shall need no storage."""
        if await self._queue.is_here(transcription_id):
            return await self._local.standing(transcription_id)
        look = await self._queue.look(transcription_id)
        if look is None or look.state in (State.FAILED, State.CANCELLED):
            return None
        return "completed" if look.state is State.COMPLETED else "awaited"

    async def _kept(self, task_id: str, tenant: str) -> Kept | None:
        job = formats.transcription_of(task_id) or task_id  # one of its own, if it looks through a text
        if not await self._queue.is_here(job):
            return await self._stored(job, tenant)
        found = await self._local.kept(task_id)
        return found if found is not None and stored.is_of(found.task, tenant) else None

    async def _stored(self, job: str, tenant: str) -> Kept | None:
        look = await self._ended(job, tenant)
        return None if look is None or look.report is None else Kept(look.task, look.report, look.edit)

    async def _ended(self, job: str, tenant: str) -> Ended | None:
        found = await stored.find(self._storage, job, tenant)
        return None if found is None else found.look


def _seen(look: Ended, edit: str | None) -> Seen:
    """`edit`: the token of the correction that it is about."""
    found = None if look.report is None or look.edit != edit else stored.hidden(look.report)
    return Seen(asked=look.asked, rules=look.rules, is_first=True, hidden=found)
