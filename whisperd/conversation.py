"""What a slot has its child do: one request at a time, within its times, stopped when it has to be.

Knows the child and what is held for it; nothing of where chunks come from, nor of what becomes of an outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from itertools import count
from math import inf
from time import monotonic

from whisperd import orders
from whisperd.children import Child, Outcome
from whisperd.engine.protocol import Abort, Aborted, Alive, MakePlan, Refused, Transcribe
from whisperd.holding import Holding
from whisperd.orders import PoolSettings
from whisperd.restarts import CANCELLED, TIMEOUT
from whisperd.task import Problem

ABORT_SECONDS = 1.2  # to stop on request, before it is killed; a cancel must be done in 2 s
OUT_OF_TIME = Refused(TIMEOUT, "the task took longer than its timeout_seconds")


class Conversation:
    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._numbers = count(1)
        self._child: Child | None = None  # that is asked
        self._asked: int | None = None  # the request that it works on
        self._alive_at = 0.0  # its last sign of life at that
        self.asked_at = 0.0  # of the last request

    def next_number(self) -> int:
        return next(self._numbers)

    @property
    def silent_seconds(self) -> float | None:
        """Since the last sign of life, while something is asked."""
        return monotonic() - self._alive_at if self._asked is not None else None

    def abort(self, why: Problem | None = None) -> None:
        """Stop what is asked: tell the child, and kill it if it does not obey in time.

        That is no fault of the child's: CTranslate2 stops between two runs of its model only, which may be
        seconds apart. `why`: the cause of its death then; else that its task was over.
        """
        child, asked = self._child, self._asked
        if child is None or asked is None:
            return
        child.send(Abort(asked))

        def kill_if_still_at_it() -> None:
            if self._child is child and self._asked == asked:
                late = Problem(CANCELLED, f"child {child.pid} did not stop at once when its task was over")
                child.kill(why or late)

        asyncio.get_running_loop().call_later(ABORT_SECONDS, kill_if_still_at_it)

    async def have_done(
        self,
        child: Child,
        request: MakePlan | Transcribe,
        ends: float,
        settings: PoolSettings,
        *,
        is_over: bool,
    ) -> Outcome:
        """Have the request done until the task's time `ends`. Raises ChildDied. Safe to cancel.

        `is_over`: the task has ended already. Nothing is awaited before an abort is heard: none is missed.
        """
        self._child, self._asked = child, request.number
        self.asked_at = self._alive_at = monotonic()
        try:
            if is_over:
                return Aborted()
            if ends <= monotonic():  # not to be asked of a child, only to be stopped again
                return OUT_OF_TIME
            with self._stopped_at(ends):
                outcome = await self._heard_out(child, request, settings)
            return OUT_OF_TIME if isinstance(outcome, Aborted) and ends <= monotonic() else outcome
        finally:
            self._child = self._asked = None

    @contextmanager
    def _stopped_at(self, ends: float) -> Iterator[None]:
        """A child that obeys goes on with the next chunk; one that is killed has to load its model anew."""
        if ends == inf:
            yield
            return
        why = Problem(OUT_OF_TIME.code, OUT_OF_TIME.message)
        timer = asyncio.get_running_loop().call_later(ends - monotonic(), self.abort, why)
        try:
            yield
        finally:
            timer.cancel()

    async def _heard_out(
        self, child: Child, request: MakePlan | Transcribe, settings: PoolSettings
    ) -> Outcome:
        """What the child says last; the lease is kept while it shows life."""
        beaten_at = monotonic()
        async with aclosing(child.answer(request, orders.limits(settings))) as answers:
            async for answer in answers:
                if not isinstance(answer, Alive):
                    return answer
                self._alive_at = monotonic()
                if self._alive_at - beaten_at >= settings.beat_seconds:
                    beaten_at = self._alive_at
                    if not await self._holding.beat():
                        self.abort()
        raise AssertionError("an answer ends with the last word")
