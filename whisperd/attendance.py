"""Attendance: which connected clients wait for which tasks, and what becomes of a task that all have left.

A task that such a client submitted is cancelled once its last one has been gone for a grace, unless one came
back meanwhile: clients whose connection broke send everything again, and join what runs.

Only this process knows of it. A restart forgets who waited: what was submitted runs to its end then.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TypeAlias
from weakref import WeakValueDictionary

import structlog
from msgspec import Struct

from whisperd.task import (
    NewTask,
    QueueAway,
    StorageBusy,
    StorageFailed,
    StorageFull,
    Task,
    TaskNotFound,
    WrongState,
)

log = structlog.get_logger(__name__)
REMEMBERED = 10_000  # requests whose task is known
AGAIN_SECONDS = 1.0  # until the next try to cancel, while the storage or the shared queue is in trouble

Cancel: TypeAlias = Callable[[str], Awaitable[Task]]


class _Attended(Struct):
    """A task that is cancelled once nobody waits for it."""

    content: Hashable
    clients: int = 0
    ends_at: float = 0.0  # with no client left: when the grace is over


class Attendance:
    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._tasks: dict[str, _Attended] = {}
        self._asked: OrderedDict[Hashable, str] = OrderedDict()  # what was asked for, and its last task
        self._untold: OrderedDict[Hashable, str] = OrderedDict()  # the tasks whose failure nobody heard of
        self._submitting: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()
        self._left = asyncio.Event()
        self._stopped = False

    def submitting(self, new: NewTask) -> asyncio.Lock:
        """To hold from the look for the same until it is `submitted`: else two that come at once miss it."""
        return self._submitting.setdefault(_content(new), asyncio.Lock())  # there while somebody holds it

    def submitted(self, new: NewTask, grace_seconds: float) -> None:
        """A client has submitted it; it attends next, or is gone already."""
        content = _content(new)
        self._tasks[new.id] = _Attended(content)
        self._leave(self._tasks[new.id], grace_seconds)
        _remember(self._asked, content, new.id)

    def same(self, new: NewTask, grace_seconds: float) -> str | None:
        """The last task with the same tenant, audio, model, options and addresses, over or not.

        One that runs is not cancelled for another grace: time enough to attend.
        """
        task_id = self._asked.get(_content(new))
        if (task := self._tasks.get(task_id or "")) and not task.clients:
            self._leave(task, grace_seconds)
        return task_id

    @contextmanager
    def attend(self, task_id: str, grace_seconds: float) -> Iterator[None]:
        """A client waits for the task as long as the block lasts."""
        task = self._tasks.get(task_id)
        if task is None:  # it is over
            yield
            return
        task.clients += 1
        try:
            yield
        finally:
            task.clients -= 1
            if not task.clients:
                self._leave(task, grace_seconds)

    def over(self, task_id: str) -> None:
        """The task has ended: there is nothing left to cancel."""
        self._tasks.pop(task_id, None)

    def untold(self, task_id: str) -> None:
        """How it failed could not be told to its client: whoever asks for the same again shall hear of it."""
        _remember(self._untold, task_id, task_id)

    def is_untold(self, task_id: str) -> bool:
        return task_id in self._untold

    def stop(self) -> None:
        """Cancel nothing more: it is not by themselves that clients leave from now on."""
        self._stopped = True
        self._left.set()

    async def cancel_abandoned(self, cancel: Cancel) -> None:
        """Cancel what nobody waits for any more, each at its time, until the stop."""
        while not self._stopped:
            self._left.clear()  # before looking, never after: else one could be missed
            for task_id in [id for id, task in self._tasks.items() if self._is_abandoned(task)]:
                await self._cancel(task_id, cancel)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds_left()):
                    await self._left.wait()

    def _is_abandoned(self, task: _Attended) -> bool:
        return not task.clients and task.ends_at <= self._now()

    def _seconds_left(self) -> float | None:
        """Until the next grace is over; None: there is none."""
        ends = [task.ends_at for task in self._tasks.values() if not task.clients]
        return max(0.0, min(ends) - self._now()) if ends else None

    async def _cancel(self, task_id: str, cancel: Cancel) -> None:
        task = self._tasks.get(task_id)
        if task is None or not self._is_abandoned(task):  # while another was cancelled, one came back
            return
        # Forgotten first: who comes while the cancel is on its way gets a task of its own.
        del self._tasks[task_id]
        if self._asked.get(task.content) == task_id:
            del self._asked[task.content]
        try:
            await cancel(task_id)
            log.info("cancelled: its client has gone", task_id=task_id)
        except (WrongState, TaskNotFound):  # it was over
            pass
        except (StorageFull, StorageBusy, StorageFailed, QueueAway):
            self._tasks[task_id] = task
            self._leave(task, AGAIN_SECONDS)

    def _leave(self, task: _Attended, grace_seconds: float) -> None:
        task.ends_at = self._now() + grace_seconds
        self._left.set()


def _content(new: NewTask) -> Hashable:
    """Whom to call and where to write count: a task does neither for a request that joined it."""
    return new.tenant, new.audio.sha256, new.model, new.options, new.callback_url, new.result_url


def _remember(known: OrderedDict[Hashable, str], key: Hashable, task_id: str) -> None:
    known[key] = task_id
    known.move_to_end(key)
    if len(known) > REMEMBERED:
        known.popitem(last=False)
