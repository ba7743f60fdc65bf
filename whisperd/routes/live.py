"""Live updates: Server-Sent Events for one task or for all, a WebSocket for any.

An event is a hint to look into the table. The transcript is always read from there, in order, so a stream
that is cut off and resumed has neither gaps nor doubles, also over a restart of the daemon.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, to_builtins
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from whisperd.events import Event, Subscription
from whisperd.risk.detection import Finding, Missing
from whisperd.routes import Services, caller, services, task_of
from whisperd.routes.call import Answer, Call, Header, Socket
from whisperd.routes.findings import found, quoted
from whisperd.routes.status import current_stats
from whisperd.routes.view import progress_view, segment_view, shown, task_view
from whisperd.task import (
    FINAL,
    START,
    Kind,
    Mark,
    Segment,
    State,
    StorageBusy,
    StorageFailed,
    Task,
    TranscriptElsewhere,
)

PING_SECONDS = 15.0  # between comments that keep an idle stream open
STATS_SECONDS = 2.0  # between two statistics on a WebSocket or a stream of everything
MAX_SUBSCRIPTIONS = 10_000  # task ids a WebSocket may name
PROTOCOL = "whisperd"  # the subprotocol that a WebSocket may speak
_Id = Annotated[str, Meta(max_length=100)]  # remembered as long as the WebSocket lasts
_USAGE = f'send {{"subscribe": ["<task_id>", …]}}, {MAX_SUBSCRIPTIONS} ids at most'


async def events(request: Request) -> Response:
    """What happens to the task, as Server-Sent Events.

    `task`, then `segment`s in the transcript's order and `progress`, then the final `task`. There are no
    `segment`s of a task that was submitted with `redact`. Of risk detection: `risk.finding`s before that.

    The id of every frame is the place in the transcript: "12.3" is after the third segment of chunk 12. That
    of the final `task` has its state behind it; who comes back with it is told that there is no more (204).
    """
    here = services(request)
    task = await task_of(request)
    mark, heard = _mark(request.headers.get("last-event-id"))
    if task.state == heard and not await _said(here, task, mark):
        return Response(status_code=204)  # what keeps a browser's EventSource from asking for ever
    return _stream(request, _frames(here, task, mark))


def _stream(request: Request, frames: AsyncIterator[str]) -> Response:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if request.method == "HEAD":  # a stream without a body would not end either
        return Response(media_type="text/event-stream", headers=headers)
    return StreamingResponse(frames, media_type="text/event-stream", headers=headers)


def _mark(text: str | None) -> tuple[Mark, State | None]:
    """The place that an id names, and the final state behind it, if it is that of a last event."""
    if text is None:
        return START, None
    chunk, segment, *state = text.split(".")
    return Mark(int(chunk), int(segment)), State(state[0]) if state else None


async def _frames(here: Services, task: Task, mark: Mark) -> AsyncIterator[str]:
    with here.events.subscribe(task.id) as subscription:
        state = None
        while True:
            task = await here.queue.get(task.id)  # before its segments: a final state has them all
            if task.state != state and task.state not in FINAL:
                yield _frame("task", mark, await shown(here, task))
            state = task.state
            for place, segment in await _said(here, task, mark):
                mark = place
                yield _frame("segment", mark, segment_view(task, segment))
            yield _frame("progress", mark, progress_view(task))
            for finding in await _findings(here, task):
                yield _frame("risk.finding", mark, finding)
            if task.state in FINAL:
                yield _frame("task", f"{mark}.{task.state}", await shown(here, task))
                return
            async for ping in _until_news(subscription):
                yield ping
            if here.events.closed or subscription.fell_behind:
                return  # the client comes back with Last-Event-ID


async def _said(here: Services, task: Task, mark: Mark) -> Sequence[tuple[Mark, Segment]]:
    """Nothing of what is to be redacted: by its first half a number is not known to be one."""
    if task.redact:
        return []
    try:
        return await here.queue.segments(task.id, mark)
    except TranscriptElsewhere:
        return []


async def _findings(here: Services, task: Task) -> Sequence[Finding | Missing]:
    """Of risk detection, once it is completed."""
    if task.kind is not Kind.RISK_DETECTION or task.state is not State.COMPLETED:
        return []
    kept = await here.detections.kept(task.id)
    if kept is None:  # it was removed just now
        return []
    said = await quoted(here, kept)
    document = await found(here, kept, said, hidden=said.redact is not None)
    return [*document.findings, *document.missing]


async def _until_news(subscription: Subscription) -> AsyncIterator[str]:
    while True:
        try:
            await subscription.next(PING_SECONDS)
        except TimeoutError:
            yield ": ping\n\n"
        else:
            return


def _frame(event: str, mark: Mark | str, data: object) -> str:
    return f"id: {mark}\nevent: {event}\ndata: {msgspec.json.encode(data).decode()}\n\n"


async def everything(request: Request) -> Response:
    """What happens to all tasks, and the statistics, as Server-Sent Events.

    The messages of the WebSocket, for pages: a browser comes back to such a stream by itself. It tells no
    `segment`s, which the stream of each task has in their order, and resumes nothing: who comes back looks
    at the tasks again.
    """
    return _stream(request, _messages(request))


async def _messages(request: Request) -> AsyncIterator[str]:
    here, tenant = services(request), caller(request).tenant

    def wants(event: Event) -> bool:
        return event.kind != "segment" and tenant in (None, event.task.tenant)

    with here.events.subscribe(wants=wants) as subscription:
        while not (here.events.closed or subscription.fell_behind):
            with suppress(StorageBusy, StorageFailed):  # the tasks' events come all the same
                yield f"data: {await _stats_text(request)}\n\n"
            async for text in _heard(subscription, STATS_SECONDS):
                yield f"data: {text}\n\n"


async def _heard(subscription: Subscription, seconds: float) -> AsyncIterator[str]:
    """What is told within so long, or until there is no more."""
    deadline = monotonic() + seconds
    with suppress(TimeoutError):
        while (left := deadline - monotonic()) > 0 and (event := await subscription.next(left)):
            for text in _words(event):
                yield text


async def websocket(socket: WebSocket) -> None:
    """Every change of every task, or of those that the client subscribed to, and statistics."""
    here = services(socket)
    await socket.accept(_protocol(socket))
    tenant = caller(socket).tenant
    wanted: set[str] = set()

    def wants(event: Event) -> bool:
        named = not wanted or event.task.id in wanted or event.task.transcript in wanted
        return tenant in (None, event.task.tenant) and named

    with here.events.subscribe(wants=wants) as subscription:
        async with asyncio.TaskGroup() as group:
            talks = [
                group.create_task(_listen(socket, wanted, subscription), name="ws-listen"),
                group.create_task(_tell(socket, subscription), name="ws-tell"),
                group.create_task(_tell_stats(socket), name="ws-stats"),
            ]
            await asyncio.wait(talks, return_when=asyncio.FIRST_COMPLETED)
            for talk in talks:
                talk.cancel()
    with suppress(RuntimeError, WebSocketDisconnect):  # the client has closed it already, or is gone
        await socket.close(1013 if subscription.fell_behind else 1001)  # try again later; going away


def _protocol(socket: WebSocket) -> str | None:
    """Ours, if it is offered: a browser that offers its key wants one chosen, and the key is not repeated."""
    return PROTOCOL if PROTOCOL in socket.scope["subprotocols"] else None


async def _listen(socket: WebSocket, wanted: set[str], subscription: Subscription) -> None:
    """Take subscriptions until the client leaves."""
    with suppress(WebSocketDisconnect):
        while (message := await socket.receive())["type"] != "websocket.disconnect":
            asked = _asked(message.get("text") or "")  # a binary message has none
            if asked is None or len(wanted | asked) > MAX_SUBSCRIPTIONS:
                await socket.send_text(_encode("error", {"message": _USAGE}))
            else:
                wanted |= asked
                services(socket).events.narrow(subscription, wanted)


def _asked(text: str) -> set[str] | None:
    try:
        return msgspec.json.decode(text, type=dict[str, set[_Id]]).get("subscribe")
    except (msgspec.MsgspecError, RecursionError):
        return None


async def _tell(socket: WebSocket, subscription: Subscription) -> None:
    with suppress(WebSocketDisconnect):
        async for event in subscription:
            for text in _words(event):
                await socket.send_text(text)


def _words(event: Event) -> list[str]:
    """The event, put into words once for all who listen."""
    if not event.words:
        event.words.extend(_texts(event))
    return event.words


def _texts(event: Event) -> list[str]:
    match event.kind:
        case "task":
            return [_encode("task", {"task": task_view(event.task)})]
        case "progress":
            return [_encode("progress", progress_view(event.task))]
        case "finding":
            about = {"task_id": event.task.id, "transcript_task_id": event.task.transcript}
            return [_encode("risk.finding", {**about, "finding": finding}) for finding in event.findings]
        case "left":  # whoever has it tells of it
            return []
        case "segment":
            said = () if event.task.redact else event.segments
            views = [segment_view(event.task, segment) for segment in said]
            return [_encode("segment", {**to_builtins(view), "chunk": event.number}) for view in views]


async def _tell_stats(socket: WebSocket) -> None:
    with suppress(WebSocketDisconnect):
        while True:
            with suppress(StorageBusy, StorageFailed):  # the tasks' events come all the same
                await socket.send_text(await _stats_text(socket))
            await asyncio.sleep(STATS_SECONDS)


async def _stats_text(connection: HTTPConnection) -> str:
    """500 listeners are told the same, and the database is asked once."""

    async def asked() -> str:
        return _encode("stats", await current_stats(connection))

    lately, tenant = services(connection).lately, caller(connection).tenant
    return await lately.get(tenant, STATS_SECONDS / 2, asked)


def _encode(kind: str, view: Struct | dict[str, Any]) -> str:
    fields = view if isinstance(view, dict) else to_builtins(view)
    return msgspec.json.encode({"type": kind, **fields}).decode()


_LAST_EVENT = Header(
    about="Go on behind this event.",
    pattern=rf"^[0-9]{{1,9}}\.[0-9]{{1,9}}(\.({'|'.join(sorted(FINAL))}))?\Z",
    means="the id of an event of this stream",
    example="12.3",
)

calls: list[Call | Socket] = [
    Call(
        method="GET",
        path="/tasks/{task_id}/events",
        handler=events,
        right="read",
        headers={"Last-Event-ID": _LAST_EVENT},
        answers={
            200: Answer(about="The events.", media_types=("text/event-stream; charset=utf-8",)),
            204: Answer(about="Last-Event-ID was the last event: there are no more."),
        },
        refusals=(422,),
    ),
    Call(
        method="GET",
        path="/events",
        handler=everything,
        right="read",
        answers={200: Answer(about="The events.", media_types=("text/event-stream; charset=utf-8",))},
    ),
    Socket(path="/ws", handler=websocket, right="read"),
]
