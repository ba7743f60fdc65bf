"""What a task needs that is to be made of a job: its audio, in the spool of this host, and its model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from whisperd.config import Config
from whisperd.redis_queue import formats
from whisperd.redis_queue.parts import Own
from whisperd.redis_queue.storage import Storage
from whisperd.rulebooks import need_libraries
from whisperd.sources import Sources
from whisperd.task import Audio, NewTask, TaskNotFound


class Intake:
    def __init__(
        self,
        own: Own,
        storage: Storage,
        sources: Sources,
        check_model: Callable[[str], Awaitable[bool]],
        config: Config,
    ) -> None:
        self._own = own
        self._storage = storage
        self._sources = sources
        self._check_model = check_model
        self._config = config

    async def task_of(self, asked: formats.OurJob | formats.TheirJob, bullmq_priority: int) -> NewTask:
        """Raises what a download, the spool and the model's name can be refused for, and RiskMissing."""
        if isinstance(asked, formats.OurJob) and asked.then is not None:
            need_libraries()
        audio = await self._audio(asked)
        new = formats.to_task(asked, audio, self._config.workers.model, bullmq_priority)
        await self._check_model(new.model)
        return new

    async def _audio(self, asked: formats.OurJob | formats.TheirJob) -> Audio:
        """In the spool under the id of the task; it may be there from before."""
        with suppress(TaskNotFound):
            known = await self._own.queue.get(asked.task_id)
            if await asyncio.to_thread(self._own.spool.has_audio, known.id):
                return known.audio
        async with self._own.spool.receive(asked.task_id) as incoming:
            async with self._pieces(asked.audio_url, asked.tenant) as pieces:
                async for piece in pieces:
                    await incoming.write(piece)
            if asked.audio_sha256 not in (None, incoming.sha256):
                raise formats.Malformed("its audio is not what was submitted")
        return Audio(name=asked.audio_name, size=incoming.size, sha256=incoming.sha256)

    @asynccontextmanager
    async def _pieces(self, url: str, tenant: str) -> AsyncIterator[AsyncIterator[bytes]]:
        if key := self._storage.key_of(url):
            yield self._storage.pieces(key)
        else:
            most = self._config.http.max_upload_bytes
            async with self._sources.open(url, most, tenant) as download:
                yield download.pieces
