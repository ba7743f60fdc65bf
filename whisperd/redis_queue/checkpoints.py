"""What is finished of a task that is not over, where another host finds it if this one dies.

    checkpoints/ID/FINGERPRINT/0   the cuts of the plan
    checkpoints/ID/FINGERPRINT/N   the transcript of its chunk N

Nothing of it is fenced, and need not be: a fingerprint is that of audio, model, options and cuts, so whoever
writes a chunk of it writes what any other would have written. Best effort: what cannot be kept, or not be
read, is heard again. A task that is completed has its transcript instead, and loses these; of one that is not
they stay, for another try, until retention.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import msgspec
import structlog

from whisperd.events import Events
from whisperd.job import Checkpoint, Finished
from whisperd.redis_queue.hints import heard
from whisperd.redis_queue.ledger import Ledger
from whisperd.redis_queue.storage import Storage
from whisperd.s3 import S3Error
from whisperd.task import PLAN, Cut, StorageBusy, StorageFailed, StorageFull

log = structlog.get_logger(__name__)
AT_ONCE = 16  # objects that are read
_KEY = re.compile(r"[^/]+/[^/]+/[0-9]{1,9}")
T = TypeVar("T")


class Checkpoints:
    def __init__(self, storage: Storage, ledger: Ledger, events: Events) -> None:
        self._storage = storage
        self._ledger = ledger
        self._events = events
        self._kept: dict[str, tuple[str, set[int]]] = {}  # by task: the plan, and its chunks that are stored
        self._completed: set[str] = set()  # tasks of which nothing is to be kept any more
        self._more = asyncio.Event()
        self.trouble: str | None = None  # why nothing was kept at the last try

    async def find(self, task_id: str) -> Checkpoint | None:
        """What others have finished of it. Raises S3Error."""
        plans = await self._stored(task_id)
        if not plans:
            return None
        fingerprint, numbers = max(plans.items(), key=lambda plan: len(plan[1]))
        numbers -= {PLAN}
        cuts = await self._read(f"{task_id}/{fingerprint}/{PLAN}", tuple[Cut, ...])
        if cuts is None:
            return None
        found = zip(numbers, await self._chunks(task_id, fingerprint, numbers), strict=True)
        chunks = {number: chunk for number, chunk in found if chunk is not None}
        return Checkpoint(fingerprint=fingerprint, cuts=cuts, chunks=chunks)

    def completed(self, task_id: str) -> None:
        """Its transcript is in the storage: nothing of this is needed any more."""
        self._completed.add(task_id)
        self._more.set()

    async def run(self, tasks: Callable[[], Collection[str]]) -> None:
        """For ever. `tasks`: those that this host is at work on."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="checkpoints-listen")
            while True:
                await heard(self._more)
                await self._keep_all(set(tasks()))
                await self._drop_all()

    async def _listen(self) -> None:
        while not self._events.closed:
            with self._events.subscribe(wants=lambda event: event.kind == "segment") as subscription:
                async for _ in subscription:
                    self._more.set()

    # --- writing ---

    async def _keep_all(self, tasks: Collection[str]) -> None:
        for task_id in self._kept.keys() - tasks:
            del self._kept[task_id]
        for task_id in tasks:
            with self._later():
                await self._keep(task_id)

    async def _keep(self, task_id: str) -> None:
        known, numbers = self._kept.get(task_id, (None, set()))
        new = await self._ledger.unkept(task_id, known, numbers)
        if new is None:
            return
        if new.fingerprint != known:  # what others have stored, or an earlier start, need not be again
            numbers = (await self._stored(task_id)).get(new.fingerprint, set())
            self._kept[task_id] = (new.fingerprint, numbers)
        for number, said in {PLAN: new.cuts, **new.chunks}.items():
            if number not in numbers:
                await self._write(f"{task_id}/{new.fingerprint}/{number}", said)
                numbers.add(number)

    async def _drop_all(self) -> None:
        import obstore

        for task_id in list(self._completed):
            with self._later(), self._storage.troubles():
                if keys := await self._keys(task_id):
                    await obstore.delete_async(self._storage.checkpoints, keys)
                self._completed.discard(task_id)

    @contextmanager
    def _later(self) -> Iterator[None]:
        """What cannot be done now is done at the next look, and said once."""
        try:
            yield
        except (S3Error, StorageFull, StorageBusy, StorageFailed) as error:
            if str(error) != self.trouble:
                log.warning("what is finished is not kept for other hosts", reason=str(error))
            self.trouble = str(error)
        else:
            self.trouble = None

    # --- the objects ---

    async def _stored(self, task_id: str) -> dict[str, set[int]]:
        """The numbers of what is there, by the plan."""
        plans: dict[str, set[int]] = {}
        for key in await self._keys(task_id):
            _, fingerprint, number = key.split("/")
            plans.setdefault(fingerprint, set()).add(int(number))
        return plans

    async def _keys(self, task_id: str) -> list[str]:
        import obstore

        with self._storage.troubles():
            found = await obstore.list(self._storage.checkpoints, task_id).collect_async()
        return [entry["path"] for entry in found if _KEY.fullmatch(entry["path"])]

    async def _chunks(
        self, task_id: str, fingerprint: str, numbers: Collection[int]
    ) -> Sequence[Finished | None]:
        room = asyncio.Semaphore(AT_ONCE)

        async def read(number: int) -> Finished | None:
            async with room:
                return await self._read(f"{task_id}/{fingerprint}/{number}", Finished)

        return await asyncio.gather(*map(read, numbers))

    async def _read(self, key: str, kind: type[T]) -> T | None:
        """None: it cannot be read."""
        import obstore

        try:
            with self._storage.troubles():
                result = await obstore.get_async(self._storage.checkpoints, key)
                content = bytes(await result.bytes_async())
            return msgspec.json.decode(content, type=kind)
        except (S3Error, msgspec.DecodeError):
            log.warning("what another host has finished cannot be read, and is done again", object=key)
            return None

    async def _write(self, key: str, said: object) -> None:
        import obstore

        with self._storage.troubles():
            await obstore.put_async(self._storage.checkpoints, key, msgspec.json.encode(said))
