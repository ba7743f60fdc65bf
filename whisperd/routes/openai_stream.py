"""stream=true of OpenAI's audio API: the transcript as Server-Sent Events, a delta a segment, as it is made.

The deltas joined are the text of the last event, and that of a request without stream. Nothing is sent before
there is something to say, so that what fails early has its status; what fails later is an event of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, suppress
from time import monotonic
from typing import Literal

import msgspec
from msgspec import Struct
from starlette.types import Receive, Scope, Send

from whisperd.routes import Services
from whisperd.routes.dialects import openai_error
from whisperd.routes.errors import Refusal, as_refusal, stopping
from whisperd.routes.interactive import Attended, check_completed
from whisperd.routes.openai_bodies import Usage, diarized_segment, usage
from whisperd.routes.openai_form import OpenAIForm
from whisperd.task import FINAL, START, Segment, Task, TaskError
from whisperd.transcript import Transcript

MEDIA_TYPE = "text/event-stream; charset=utf-8"
_HEADERS = [(b"content-type", MEDIA_TYPE.encode()), (b"x-accel-buffering", b"no")]
_PING = b": ping\n\n"
_END = b"data: [DONE]\n\n"


class Delta(Struct, frozen=True, kw_only=True):
    type: Literal["transcript.text.delta"] = "transcript.text.delta"
    delta: str


class Done(Struct, frozen=True, kw_only=True):
    type: Literal["transcript.text.done"] = "transcript.text.done"
    text: str
    usage: Usage


class Streamed(Attended):
    def __init__(self, here: Services, task: Task, form: OpenAIForm) -> None:
        super().__init__(here, task)
        self._form = form
        self._mark = START
        self._text = ""  # as far as it has been told
        self._told = 0  # segments
        self._waiting: list[Segment] = []  # for what may still come before them

    async def _tell(self, scope: Scope, receive: Receive, send: Send) -> bool:
        async with aclosing(self._frames()) as frames:
            first = await anext(frames)
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await _send(send, first)
            try:
                async for frame in frames:
                    await _send(send, frame)
            except (Refusal, TaskError) as error:
                await _send(send, _frame(openai_error(as_refusal(error))))
        await send({"type": "http.response.body", "body": b""})
        return True

    async def _frames(self) -> AsyncGenerator[bytes, None]:
        """Raises what ends the stream before its end."""
        here = self._here
        ping_at = monotonic() + here.config.http.heartbeat_after_seconds
        while True:
            with here.events.subscribe(self._task.id) as subscription:
                task, frames = await self._news()
                if not frames and monotonic() >= ping_at:
                    frames = [_PING]
                for frame in frames:
                    ping_at = monotonic() + here.config.http.heartbeat_seconds
                    yield frame
                if task.state in FINAL:
                    return
                if here.events.closed:
                    raise stopping()
                with suppress(TimeoutError):
                    await subscription.next(max(0.0, ping_at - monotonic()))

    async def _news(self) -> tuple[Task, list[bytes]]:
        queue = self._here.queue
        task = await queue.get(self._task.id)  # before its segments: a final state has them all
        settled = await queue.settled(task.id)  # before them, too: what is finished later comes later
        marked = await queue.segments(task.id, self._mark)
        self._mark = marked[-1][0] if marked else self._mark
        frames = self._deltas(task, [segment for _, segment in marked], settled)
        if task.state in FINAL:
            self._here.attendance.over(task.id)
            check_completed(task)
            frames += [_frame(self._done(task)), _END]
        return task, frames

    def _deltas(self, task: Task, more: Sequence[Segment], settled: float) -> list[bytes]:
        """What can be said now, in order of time: the chunks of split channels overlap."""
        self._waiting += more
        self._waiting.sort(key=lambda segment: segment.start)
        due = [segment for segment in self._waiting if segment.start < settled]
        del self._waiting[: len(due)]
        return [frame for segment in due for frame in self._said(task, segment)]

    def _said(self, task: Task, segment: Segment) -> Iterator[bytes]:
        transcript = Transcript(task=task, segments=(segment,))
        self._told += 1
        if text := transcript.text:
            delta = (transcript.space if self._text else "") + text
            self._text += delta
            yield _frame(Delta(delta=delta))
        if self._form.response_format == "diarized_json":
            yield _frame(diarized_segment(self._told, segment))

    def _done(self, task: Task) -> Done:
        return Done(text=self._text, usage=usage(Transcript(task=task, segments=())))


async def _send(send: Send, frame: bytes) -> None:
    await send({"type": "http.response.body", "body": frame, "more_body": True})


def _frame(event: Struct) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"
