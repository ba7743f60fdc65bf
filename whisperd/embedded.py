"""The daemon's machinery for a single call: `whisperd transcribe` where no daemon runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import aiofiles
import msgspec
from ulid import ULID

from whisperd.config import Config
from whisperd.daemon import Machine, machine
from whisperd.task import FINAL, Audio, NewTask, Options, Task
from whisperd.transcript import Transcript

READ_BYTES = 256 * 1024


class Embedded:
    def __init__(self, parts: Machine) -> None:
        self._parts = parts

    async def submit_file(self, path: Path, options: Options, model: str | None = None) -> Task:
        """Queue a file. Raises OSError, ModelUnusable, and what the queue raises."""
        parts, task_id = self._parts, str(ULID())
        await parts.models.find(model or parts.config.workers.model)
        async with parts.spool.receive(task_id) as incoming, aiofiles.open(path, "rb") as file:
            while data := await file.read(READ_BYTES):
                await incoming.write(data)
        task, _ = await parts.queue.submit(
            NewTask(
                id=task_id,
                audio=Audio(name=path.name, size=incoming.size, sha256=incoming.sha256),
                model=model or parts.config.workers.model,
                options=options,
                max_retries=parts.config.queue.max_retries,
            )
        )
        return task

    async def wait(self, task_id: str, on_progress: Callable[[Task], None] = lambda task: None) -> Task:
        """The task, once it is over."""
        with self._parts.events.subscribe(task_id) as subscription:
            task = await self._parts.queue.get(task_id)
            while task.state not in FINAL:
                await subscription.next(seconds=86_400.0)
                task = await self._parts.queue.get(task_id)
                on_progress(task)
        return task

    async def transcript(self, task_id: str) -> Transcript:
        queue = self._parts.queue
        return Transcript.of(await queue.get(task_id), await queue.segments(task_id))


@asynccontextmanager
async def embedded(config: Config) -> AsyncIterator[Embedded]:
    """Run the pool on a queue of its own in a temporary folder, which goes with it."""
    with TemporaryDirectory(prefix="whisperd-", ignore_cleanup_errors=True) as folder:
        storage = msgspec.structs.replace(config.storage, data_dir=folder, models_dir=str(config.models_dir))
        async with machine(msgspec.structs.replace(config, storage=storage)) as parts:
            pooling = asyncio.create_task(parts.pool.run(), name="pool")
            try:
                yield Embedded(parts)
            finally:
                pooling.cancel()
                await asyncio.wait([pooling])
