"""The daemon's machinery for a single call: `whisperd transcribe` where no daemon runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import aiofiles
import msgspec
from ulid import ULID

from whisperd.config import Config, Redis, Webhooks
from whisperd.machine import Machine, machine
from whisperd.task import FINAL, Audio, ModelUnusable, NewTask, Options, Task
from whisperd.transcript import Transcript, language_refusal
from whisperd.worker_pool import PoolFailed, WorkerInfo

READ_BYTES = 256 * 1024


class Embedded:
    def __init__(self, parts: Machine) -> None:
        self._parts = parts

    async def submit_file(self, path: Path, options: Options, model: str | None = None) -> Task:
        """Queue a file. Raises OSError, ModelUnusable, and what the queue raises."""
        parts, task_id = self._parts, str(ULID())
        model = model or parts.config.workers.model
        await self._check_model(model, options.language)
        async with parts.spool.receive(task_id) as incoming, aiofiles.open(path, "rb") as file:
            while data := await file.read(READ_BYTES):
                await incoming.write(data)
        task, _ = await parts.queue.submit(
            NewTask(
                id=task_id,
                audio=Audio(name=path.name, size=incoming.size, sha256=incoming.sha256),
                model=model,
                options=options,
                max_retries=parts.config.queue.max_retries,
            )
        )
        return task

    async def _check_model(self, model: str, language: str) -> None:
        await self._parts.models.find(model)
        multilingual = await self._parts.models.multilingual(model)
        if refusal := language_refusal(language, model, multilingual):
            raise ModelUnusable(refusal)

    async def wait(self, task_id: str, on_progress: Callable[[Task], None] = lambda task: None) -> Task:
        """The task, once it is over and its audio gone. Raises PoolFailed when the workers cannot run."""
        with self._parts.events.subscribe(task_id) as subscription:
            task = await self._parts.queue.get(task_id)
            while task.state not in FINAL:
                if await anext(aiter(subscription), None) is None:
                    raise PoolFailed("the workers stopped")
                task = await self._parts.queue.get(task_id)
                on_progress(task)
        await asyncio.to_thread(
            self._parts.spool.remove, task_id
        )  # a batch must not need room for all its audio
        return task

    def workers(self) -> Sequence[WorkerInfo]:
        return self._parts.pool.workers()

    async def transcript(self, task_id: str) -> Transcript:
        queue = self._parts.queue
        return Transcript.of(await queue.get(task_id), await queue.segments(task_id))


@asynccontextmanager
async def embedded(config: Config) -> AsyncIterator[Embedded]:
    """Run the pool on a queue of its own in a temporary folder, which goes with it."""
    with TemporaryDirectory(prefix="whisperd-", ignore_cleanup_errors=True) as folder:
        storage = msgspec.structs.replace(config.storage, data_dir=folder, models_dir=str(config.models_dir))
        here = msgspec.structs.replace(  # there is no outside
            config, storage=storage, webhooks=Webhooks(), redis=Redis()
        )
        async with machine(here) as parts:
            # Not in a TaskGroup: it would wrap what the body raises. It is awaited below.
            pooling = asyncio.create_task(parts.pool.run(), name="pool")
            pooling.add_done_callback(lambda ended: parts.events.close())  # whoever waits hears of it
            try:
                yield Embedded(parts)
            except PoolFailed:
                _reraise(pooling)
                raise
            finally:
                pooling.cancel()
                await asyncio.wait([pooling])


def _reraise(pooling: asyncio.Task[None]) -> None:
    """Raise the reason why the pool ended, out of its group."""
    error = pooling.exception() if pooling.done() and not pooling.cancelled() else None
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error
