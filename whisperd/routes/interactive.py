"""Waiting for a task on behalf of a connected client: what the calls share that answer with the transcript.

The client's connection is its interest. When it has gone for good its task is cancelled (see attendance.py);
when it comes back with the same request it joins the task that runs, or has just been completed, so that the
work is done once. Clients give up after 301 s without a byte (OpenAI's for Node) and send everything again:
an answer in JSON is begun before, with spaces, which JSON readers skip. What fails after that cannot be told
by a status any more: the connection is cut, and the retry is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from whisperd.events import Subscription
from whisperd.routes import Services
from whisperd.routes.errors import Refusal, stopping
from whisperd.task import FINAL, NewTask, Problem, State, Task, TaskError, TaskNotFound

log = structlog.get_logger(__name__)
JOIN_SECONDS = 600.0  # after its end a task is joined for so long: clients have at most this patience
RETELL_SECONDS = 60.0  # how long a failure is told again that its client did not hear of
OF_THE_FILE = {
    "unsupported_media",
    "no_audio",
    "audio_too_long",
}  # why a task can fail that is up to its audio

# Whether the answer of this request was begun and is not to be ended: the server may close the connection
# without a complaint.
CUT: ContextVar[bool] = ContextVar("cut", default=False)

T = TypeVar("T")


async def submit_or_join(here: Services, new: NewTask) -> Task:
    """Queue it; or return the task that does the same already, and drop the audio that came once more.

    Attend to it next. Raises what queue.submit does; then nothing is left of it.
    """
    try:
        async with here.attendance.submitting(new):
            if task := await _joinable(here, new):
                here.spool.remove(new.id)
            else:
                task, _ = await here.queue.submit(new)
                here.attendance.submitted(new, here.config.http.abandoned_seconds)
    except Exception:  # not a cancellation: the commit may still come, and needs its audio
        here.spool.remove(new.id)
        raise
    bind_contextvars(task_id=task.id)
    return task


async def _joinable(here: Services, new: NewTask) -> Task | None:
    task_id = here.attendance.same(new, here.config.http.abandoned_seconds)
    if task_id is None:
        return None
    try:
        task = await here.queue.get(task_id)
    except TaskNotFound:  # retention has removed it
        return None
    age = here.now() - (task.finished_at or here.now())
    match task.state:
        case State.FAILED:
            joins = here.attendance.is_untold(task.id) and age < RETELL_SECONDS
        case State.CANCELLED:
            joins = False
        case _:
            joins = age < JOIN_SECONDS
    return task if joins else None


async def finished(here: Services, task_id: str, seconds: float | None) -> Task:
    """The task once it is over; or as it is when the seconds are over, or when the daemon stops."""
    with here.events.subscribe(task_id) as subscription:
        return await over(here, await here.queue.get(task_id), subscription, seconds)


async def over(here: Services, task: Task, subscription: Subscription, seconds: float | None) -> Task:
    """As `finished`, of a task that was looked at after it was subscribed to: else its end can be missed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # for all news together, however often they come
            while task.state not in FINAL and (event := await subscription.next(seconds)) is not None:
                task = await here.queue.get(task.id) if event.kind == "left" else event.task
    return task


def check_completed(task: Task) -> None:
    """Raises Refusal for a task that is over and has no transcript, saying whose fault that is."""
    match task:
        case Task(state=State.COMPLETED):
            return
        case Task(error=Problem(code, message)) if code in OF_THE_FILE:
            raise Refusal(422, code, message, "file")
        case Task(error=Problem("timeout", message)):
            raise Refusal(422, "timeout", message, "timeout_seconds")
        case Task(error=Problem(code, message)):
            raise Refusal(500, code, message)
    raise Refusal(410, "cancelled", "the task was cancelled")


class Attended(Response):
    """An answer that its client waits for, connected, while the task is at work.

    A client that leaves ends it, and counts as having left the task.
    """

    def __init__(self, here: Services, task: Task) -> None:
        super().__init__()
        self._here = here
        self._task = task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        grace_seconds = self._here.config.http.abandoned_seconds
        with self._here.attendance.attend(self._task.id, grace_seconds), suppress(ClientDisconnect):
            whole = await unless_left(receive, self._tell(scope, receive, send))
            CUT.set(not whole)

    async def _tell(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Write the answer. Raises before it is begun; after that it returns False if it cannot be ended."""
        raise NotImplementedError

    async def _over(self, seconds: float | None) -> Task | None:
        """The task once it is over; None when the seconds are. Raises Refusal when the daemon stops."""
        task = await finished(self._here, self._task.id, seconds)
        if task.state in FINAL:
            self._here.attendance.over(task.id)
            return task
        if self._here.events.closed:
            raise stopping()
        return None

    def _cut(self, error: Exception) -> bool:
        """Give up an answer that was begun; returns False."""
        log.info("an answer that was begun is cut off", task_id=self._task.id, reason=str(error))
        self._here.attendance.untold(self._task.id)
        return False


class WhenOver(Attended):
    """What `write` makes of the task once it is over: it gets one in a final state, and may raise Refusal.

    `spaced`: the media type of an answer that may be begun with spaces; None: nothing is sent before the end.
    """

    def __init__(
        self, here: Services, task: Task, write: Callable[[Task], Awaitable[Response]], spaced: str | None
    ) -> None:
        super().__init__(here, task)
        self._write = write
        self._spaced = spaced

    async def _tell(self, scope: Scope, receive: Receive, send: Send) -> bool:
        quiet_seconds = self._here.config.http.heartbeat_after_seconds if self._spaced else None
        while (task := await self._over(quiet_seconds)) is None:
            if self._spaced:
                return await self._tell_begun(self._spaced, send)
        await (await self._write(task))(scope, receive, send)
        return True

    async def _tell_begun(self, media_type: str, send: Send) -> bool:
        headers = [(b"content-type", media_type.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            task = None
            while task is None:
                await send({"type": "http.response.body", "body": b" ", "more_body": True})
                task = await self._over(self._here.config.http.heartbeat_seconds)
            response = await self._write(task)
        except (Refusal, TaskError) as error:
            return self._cut(error)
        await send({"type": "http.response.body", "body": response.body})
        return True


async def unless_left(receive: Receive, working: Coroutine[Any, Any, T]) -> T:
    """What `working` returns or raises. Raises ClientDisconnect, with that stopped, if the client leaves."""
    leaving, done = asyncio.ensure_future(_left(receive)), asyncio.ensure_future(working)
    try:
        await asyncio.wait([leaving, done], return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise ClientDisconnect
        return await done
    finally:
        leaving.cancel()
        done.cancel()
        await asyncio.gather(leaving, done, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
