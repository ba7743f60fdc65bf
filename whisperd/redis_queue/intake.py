"""What a task needs that is to be made of a job: its audio, in the spool of this host, and its model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import msgspec
from msgspec.structs import replace

from whisperd.config import Config
from whisperd.look import text_audio
from whisperd.redis_queue import formats, stored
from whisperd.redis_queue.parts import Own
from whisperd.redis_queue.storage import SUBMITTED, Storage
from whisperd.rulebooks import need_libraries
from whisperd.sources import Sources
from whisperd.task import Audio, NewTask, Segment, TaskNotFound


class NoTranscript(Exception):
    """That which is to be looked through is not in the storage."""


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
        if isinstance(asked, formats.OurJob) and (asked.then or asked.detection):
            need_libraries()
        if isinstance(asked, formats.OurJob) and asked.detection:
            return await self._look(asked, bullmq_priority)
        audio = await self._audio(asked)
        new = formats.to_task(asked, audio, self._config.workers.model, bullmq_priority)
        await self._check_model(new.model)
        return new

    async def _look(self, asked: formats.OurJob, bullmq_priority: int) -> NewTask:
        """What looks through a text, or a transcript. Raises Malformed, NoTranscript, S3Error."""
        if asked.transcript is not None:
            said = await self._transcript(asked.transcript)
            audio = Audio(name=asked.audio.name, size=asked.audio.bytes, sha256=asked.audio.sha256)
        else:
            said = await self._text(asked)
            audio = text_audio(said)
        new = formats.to_task(asked, audio, self._config.workers.model, bullmq_priority)
        return replace(new, said=said)

    async def _transcript(self, task_id: str) -> tuple[Segment, ...]:
        content = await self._storage.result(task_id)
        if content is None:
            raise NoTranscript(task_id)
        return (await stored.decoded(content)).segments

    async def _text(self, asked: formats.OurJob) -> tuple[Segment, ...]:
        if (key := self._storage.key_of(asked.audio_url)) is None:
            raise formats.Malformed("its text does not lie in the shared storage")
        content = b"".join([piece async for piece in self._storage.pieces(key)])
        try:
            said = await asyncio.to_thread(msgspec.json.decode, content, type=tuple[Segment, ...])
        except msgspec.DecodeError:
            raise formats.Malformed("its text is not what was submitted") from None
        if text_audio(said).sha256 != asked.audio_sha256:
            raise formats.Malformed("its text is not what was submitted")
        return said

    async def _audio(self, asked: formats.OurJob | formats.TheirJob) -> Audio:
        """In the spool under the id of the task; it may be there from before."""
        with suppress(TaskNotFound):
            known = await self._own.queue.get(asked.task_id)
            if await asyncio.to_thread(self._own.spool.has_audio, known.id):
                return known.audio
        async with self._own.spool.receive(asked.task_id) as incoming:
            async with self._pieces(asked) as pieces:
                async for piece in pieces:
                    await incoming.write(piece)
            if asked.audio_sha256 not in (None, incoming.sha256):
                raise formats.Malformed("its audio is not what was submitted")
        return Audio(name=asked.audio_name, size=incoming.size, sha256=incoming.sha256)

    @asynccontextmanager
    async def _pieces(self, asked: formats.OurJob | formats.TheirJob) -> AsyncIterator[AsyncIterator[bytes]]:
        url, tenant = asked.audio_url, asked.tenant
        if key := self._storage.key_of(url):
            if key.startswith(SUBMITTED) and isinstance(asked, formats.TheirJob):
                raise formats.Malformed("its s3AudioUrl is what was submitted to whisperd, as another task")
            yield self._storage.pieces(key)
        else:
            most = self._config.http.max_upload_bytes
            async with self._sources.open(url, most, tenant) as download:
                yield download.pieces
