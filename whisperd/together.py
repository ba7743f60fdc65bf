"""Calls made together: those that come while one is under way share the next one.

A hop to a thread and back costs about as much as what is asked there, and an fsync as much for one name in a
folder as for sixty. Who asks alone is not held up: his call begins at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


class Together(Generic[Job]):
    """`call` is given some jobs, `most` at a time, and returns an outcome of each: an exception is raised."""

    def __init__(self, call: Callable[[Sequence[Job]], Awaitable[Sequence[Any]]], most: int) -> None:
        self._call = call
        self._most = most
        self._waiting: list[tuple[Job, asyncio.Future[Any]]] = []
        self._going: asyncio.Future[Sequence[Any]] | None = None

    def ask(self, job: Job) -> asyncio.Future[Any]:
        """Its outcome. A job that has begun is done, whoever cancels the answer."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, answer))
        if self._going is None:
            self._go()
        return answer

    def _go(self) -> None:
        batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        self._going = going = asyncio.ensure_future(self._call([job for job, _ in batch]))
        going.add_done_callback(partial(self._settle, [answer for _, answer in batch]))

    def _settle(self, answers: Sequence[asyncio.Future[Any]], gone: asyncio.Future[Sequence[Any]]) -> None:
        self._going = None
        if self._waiting:
            self._go()
        for answer, outcome in zip(answers, _outcomes(gone, len(answers)), strict=True):
            if answer.done():  # its caller was cancelled
                continue
            if isinstance(outcome, BaseException):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)


def _outcomes(gone: asyncio.Future[Sequence[Any]], many: int) -> Sequence[Any]:
    """Trouble of the call is that of all who shared it."""
    if gone.cancelled():
        return [asyncio.CancelledError()] * many
    error = gone.exception()
    return gone.result() if error is None else [error] * many


def attempt(call: Callable[[], Outcome]) -> Outcome | Exception:
    """What it returns, or what it raises: that of one job is not the trouble of those beside it."""
    try:
        return call()
    except Exception as error:
        return error
