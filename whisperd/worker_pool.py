"""The worker pool: how many slots there are, and what is told to all of them.

Starts and ends slots, pauses, drains and resizes, stops the work on what was cancelled. What one slot does
is in slot.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import count

import structlog
from msgspec.structs import replace

from whisperd.counts import Counts
from whisperd.events import Events
from whisperd.orders import Model, PoolSettings
from whisperd.restraint import Restraint
from whisperd.slot import PoolFailed, Shared, Slot, WorkerInfo
from whisperd.spool import Spool
from whisperd.task import FINAL, Chunk, Task, TaskQueue

__all__ = ["Model", "PoolFailed", "PoolSettings", "WorkerInfo", "WorkerPool"]
log = structlog.get_logger(__name__)
LOOK_SECONDS = 5.0  # between two looks for a worker that had nothing to do, at most


class WorkerPool:
    def __init__(
        self,
        queue: TaskQueue,
        events: Events,
        spool: Spool,
        find_model: Callable[[str], Awaitable[Model]],
        default_model: str,
        settings: PoolSettings,
        counts: Counts | None = None,
    ) -> None:
        restraint = Restraint(settings.calm_seconds)
        self._shared = Shared(
            queue, spool, find_model, default_model, settings, restraint, counts or Counts()
        )
        self._shared.resumed.set()
        self._events = events
        self._slots = self._shared.slots
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None  # while it runs
        self._ended = False
        self.resize(settings.workers)

    async def run(self) -> None:
        """Work until drained or cancelled; cancelled, hand the unfinished chunks back."""
        try:
            async with asyncio.TaskGroup() as self._group:
                beside = [
                    self._group.create_task(self._watch(), name="pool-watch"),
                    self._group.create_task(self._test_the_idle(), name="pool-canary"),
                ]
                for slot in self._slots:
                    self._start(slot)
                if not self._slots:  # and none is to come: others do the work
                    self.ready.set()
                await self._shared.draining.wait()
                if self._tasks:
                    await asyncio.wait(self._tasks)
                for watch in beside:
                    watch.cancel()
        finally:
            self._group, self._ended = None, True

    @property
    def ready(self) -> asyncio.Event:
        """Set once a worker is, or was, ready."""
        return self._shared.ready

    @property
    def settings(self) -> PoolSettings:
        return self._shared.settings

    @property
    def deaths(self) -> Counter[str]:
        """Children replaced so far, by cause.

        crashed, hung, out_of_memory, model_unusable; memory: replaced between chunks for its size; cancelled,
        timeout: ended with its task, which it did not leave at once.
        """
        return self._shared.restarts.by_cause

    def lately_died(self) -> Counter[str]:
        """Those of the last quarter of an hour that say something of the workers: see restarts.py."""
        return self._shared.restarts.lately()

    @property
    def canary_trouble(self) -> str | None:
        """Why a worker could not transcribe a second of sound when it had nothing else to do."""
        return next((slot.canary.trouble for slot in self._slots if slot.canary.trouble), None)

    @property
    def is_fit(self) -> bool:
        """Whether any worker is left that did not fail at its last second of sound."""
        return not self._slots or any(slot.canary.trouble is None for slot in self._slots)

    def workers(self) -> list[WorkerInfo]:
        return [slot.info() for slot in self._slots]

    @property
    def at_hand(self) -> int:
        """How many slots take chunks, now or once their child is ready; those that rest or leave do not."""
        return sum(slot.takes_chunks for slot in self._slots)

    def held(self) -> Sequence[Chunk]:
        """The chunks in work, and those whose outcome is not committed yet, however old their leases look."""
        return [slot.chunk for slot in self._slots if slot.chunk is not None]

    def responsive(self) -> bool:
        """Whether its machinery turns: it has not ended unasked, nor hang all slots in a start, nor have all
        met a storage that fails, which a restart may mend.

        Says nothing of whether any child works: one that keeps dying is started again and again, and the
        workers' states tell. Slots that wait for work notice nothing of the storage.
        """
        if self._ended:
            return self._shared.draining.is_set()
        return not self._slots or not all(slot.stuck for slot in self._slots)

    def drain(self) -> None:
        """Claim nothing more; `run` ends when the chunks in work are finished."""
        self._shared.draining.set()
        for slot in self._slots:
            slot.canary.give_way()
        self._shared.poke()

    @property
    def paused(self) -> bool:
        return not self._shared.resumed.is_set()

    def pause(self) -> None:
        """Claim nothing more until `resume`; the chunks in work are finished. Not kept over a restart."""
        self._shared.resumed.clear()
        self._shared.poke()

    def resume(self) -> None:
        self._shared.resumed.set()

    def resize(self, workers: int) -> None:
        """Have that many slots: new ones start, superfluous ones end after their chunks."""
        if workers < 0:
            raise ValueError("a pool has no fewer than no workers")
        staying = [slot for slot in self._slots if not slot.leaving]
        # Resting ones go first: one that works always stays.
        for slot in sorted(staying, key=lambda slot: (slot.resting, slot.number))[workers:]:
            slot.leave()
        for _ in range(workers - len(staying)):
            self._add()

    def reload(self, settings: PoolSettings) -> None:
        """Take over what can change at run time: the number of workers, and the limits on each.

        Of a chunk in work the limits stay what they were. Threads, GPU, niceness, address space and audio
        length stay until the daemon starts again: chunks of one task would be run in two ways.
        """
        self._shared.settings = replace(
            self._shared.settings,
            workers=settings.workers,
            max_rss_bytes=settings.max_rss_bytes,
            max_seconds_per_chunk=settings.max_seconds_per_chunk,
            silence_seconds=settings.silence_seconds,
            calm_seconds=settings.calm_seconds,
            canary_after_seconds=settings.canary_after_seconds,
            canary_limit_seconds=settings.canary_limit_seconds,
            affinity_seconds=settings.affinity_seconds,
            ttl_seconds=settings.ttl_seconds,
            least=settings.least,
            patience_seconds=settings.patience_seconds,
        )
        self._shared.restraint.calm_seconds = settings.calm_seconds
        self._shared.poke()
        self.resize(settings.workers)

    def _add(self) -> None:
        taken = {slot.number for slot in self._slots}
        slot = Slot(self._shared, next(number for number in count(1) if number not in taken))
        self._slots.append(slot)
        self._slots.sort(key=lambda slot: slot.number)
        if self._group is not None and not self._shared.draining.is_set():
            self._start(slot)

    def _start(self, slot: Slot) -> None:
        assert self._group is not None
        task = self._group.create_task(self._occupied(slot), name=f"slot-{slot.number}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _occupied(self, slot: Slot) -> None:
        await slot.run()
        if slot.leaving:
            self._slots.remove(slot)

    async def _watch(self) -> None:
        """Stop the work on a task that was cancelled, or left: a hint missed here is found by the next beat.

        And let nothing that may be claimed now wait for a canary: that one is aborted, and takes its second
        at most where the hint was missed.
        """
        while not self._events.closed:
            with self._events.subscribe(wants=lambda event: event.kind in ("task", "left")) as subscription:
                async for event in subscription:
                    over = event.task.state in FINAL or event.kind == "left"
                    self._shared.note(event.task.id, over=over)
                    if over:
                        self._abort(event.task)
                    if event.kind == "task":  # it came, is planned, is over and makes room for its tenant's
                        self._make_way()

    def _make_way(self) -> None:
        if not any(slot.free for slot in self._slots):
            for slot in self._slots:
                slot.canary.give_way()

    async def _test_the_idle(self) -> None:
        """One after the other: nobody should notice."""
        while True:
            after = self.settings.canary_after_seconds
            if after and (slot := self._untested(after)):
                slot.test()
            await asyncio.sleep(min(LOOK_SECONDS, after / 4) if after else LOOK_SECONDS)

    def _untested(self, after: float) -> Slot | None:
        """The idle worker of which nothing was heard for longest, if that is long, whatever others do."""
        sings = any(slot.canary.sings for slot in self._slots)
        if sings or self.paused or self._shared.draining.is_set():
            return None
        quiet = [slot for slot in self._slots if slot.free and slot.canary.quiet_seconds >= after]
        return max(quiet, key=lambda slot: slot.canary.quiet_seconds, default=None)

    def _abort(self, task: Task) -> None:
        for slot in self._slots:
            if slot.chunk is not None and slot.chunk.task.id == task.id:
                slot.abort()
