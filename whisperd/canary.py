"""The canary: a second of sound for a worker that had nothing to do for long: could it still do something?

It meets nothing of the queue: no task, no chunk, no usage, no event. Which worker is asked, and when, is the
pool's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from math import inf
from time import monotonic

import structlog

from whisperd.children import Child, ChildDied, Limits
from whisperd.engine.protocol import Abort, Alive, Probe, Refused, Transcribed
from whisperd.task import Problem

log = structlog.get_logger(__name__)


class Canary:
    def __init__(self, worker: int, now: Callable[[], float] = monotonic) -> None:
        self._worker = worker
        self._now = now
        self._well_at = now()  # when the worker last did what it was asked to
        self._failures = 0  # in a row
        self._singing: tuple[Child, int] | None = None  # the request that its child is at
        self.wanted = False
        self.seconds: float | None = None  # that the last one took which was heard out
        self.trouble: str | None = None  # why the last one failed, until the worker has done something

    @property
    def sings(self) -> bool:
        return self._singing is not None

    @property
    def quiet_seconds(self) -> float:
        """For how long nobody knows whether the worker works."""
        return self._now() - self._well_at

    def began(self) -> None:
        """A new child has loaded its model; unless the last one failed that says enough for now."""
        if not self._failures:
            self._well_at = self._now()

    def well(self) -> None:
        """The worker did what it was asked to, by a task or by the canary."""
        self._well_at, self._failures, self.trouble = self._now(), 0, None

    def give_way(self) -> None:
        """There is real work: stop, as soon as the child does. It is not killed: it would lose its model."""
        self.wanted = False
        if self._singing is not None:
            child, number = self._singing
            child.send(Abort(number))

    async def sing(self, child: Child, request: Probe, limits: Limits) -> None:
        """Raises ChildDied where the child cannot do it, or not in time: it is of no use then."""
        self._singing, began = (child, request.number), self._now()
        try:
            if await self._heard_out(child, request, limits):
                self.seconds = round(self._now() - began, 3)
        except ChildDied as died:
            self._failed(died.problem)
            raise
        finally:
            self._singing = None

    async def _heard_out(self, child: Child, request: Probe, limits: Limits) -> bool:
        """Whether it was transcribed; else it gave way."""
        async with aclosing(child.answer(request, limits)) as answers:
            async for answer in answers:
                if isinstance(answer, Refused):
                    raise ChildDied(Problem(answer.code, answer.message))
                if isinstance(answer, Transcribed):
                    self.well()
                    log.debug("canary", worker=self._worker, seconds=answer.seconds)
                    return True
                if not isinstance(answer, Alive):  # it gave way, which says that it is there
                    self._well_at = self._now()
        return False

    def _failed(self, problem: Problem) -> None:
        """The next child is asked at once, and after that as seldom as any: to load a model costs, too."""
        self._failures += 1
        self._well_at = -inf if self._failures == 1 else self._now()
        self.trouble = (
            f"worker {self._worker} could not transcribe a second of sound: {problem.message}; it is started "
            "again. If that does not help, its last words in the log and `whisperd doctor` say more"
        )
