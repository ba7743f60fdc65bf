"""/tasks: submit, look, change, cancel, retry."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from ulid import ULID

from whisperd.routes import Json, Services, services, submission
from whisperd.routes.errors import Refusal, stopping
from whisperd.routes.view import all_shown, shown
from whisperd.task import (
    FINAL,
    Audio,
    AudioGone,
    Change,
    Kind,
    ListQuery,
    NewTask,
    State,
    Task,
)
from whisperd.transcript import FORMATS, Transcript, language_refusal, render

LONGEST_WAIT = 300.0  # seconds of a long poll
MAX_PAGE = 500
Name = TypeVar("Name", State, Kind)


async def submit(request: Request) -> Response:
    here = services(request)
    if here.draining:
        raise stopping()
    new = await _received(request, here)
    try:
        task, created = await here.queue.submit(new)
    except Exception:  # not a cancellation: the commit may still come, and needs its audio
        here.spool.remove(new.id)
        raise
    if not created:
        here.spool.remove(new.id)
    return Json(await shown(here.queue, task), 202 if created else 200, {"Location": f"/tasks/{task.id}"})


async def _received(request: Request, here: Services) -> NewTask:
    task_id = str(ULID())
    key = submission.idempotency_key(request)
    async with here.spool.receive(task_id, submission.declared_bytes(request)) as incoming:
        form, name = await submission.receive(request, incoming, here.config)
        audio = Audio(name=name, size=incoming.size, sha256=incoming.sha256)
        new = submission.new_task(task_id, form, audio, here.config, key)
        await _check_model(new, here)
    return new


async def _check_model(new: NewTask, here: Services) -> None:
    multilingual = await here.check_model(new.model)
    if problem := language_refusal(new.options.language, new.model, multilingual):
        raise Refusal(422, "invalid_field", problem, "language")


async def show(request: Request) -> Response:
    here = services(request)
    seconds = _number(request, "wait", 0.0, LONGEST_WAIT)
    task = await (_finished(here, _id(request), seconds) if seconds else here.queue.get(_id(request)))
    return Json(await shown(here.queue, task))


async def _finished(here: Services, task_id: str, seconds: float) -> Task:
    """The task once it is over; or as it is when the seconds are."""
    with here.events.subscribe(task_id) as subscription:
        task = await here.queue.get(task_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # for all news together, however often they come
                while task.state not in FINAL and (event := await subscription.next(seconds)) is not None:
                    task = event.task
        return task


async def result(request: Request) -> Response:
    here = services(request)
    wanted = request.query_params.get("format", "json")
    if wanted not in FORMATS:
        raise Refusal(422, "invalid_field", f"must be one of {', '.join(FORMATS)}", "format")
    task = await here.queue.get(_id(request))
    _check_result(task)
    body, media_type = render(Transcript.of(task, await here.queue.segments(task.id)), wanted)
    return Response(body, media_type=media_type)


def _check_result(task: Task) -> None:
    if task.state not in FINAL:
        raise Refusal(
            409, "not_finished", f"the task is {task.state}; wait with GET /tasks/{task.id}?wait=30"
        )
    if task.state != State.COMPLETED:
        message = task.error.message if task.error else f"the task was {task.state}"
        raise Refusal(410, task.state, message)


async def audio(request: Request) -> Response:
    here = services(request)
    task = await here.queue.get(_id(request))
    path = here.spool.audio(task.id)
    if not path.is_file():
        raise Refusal(404, "not_found", "the audio of this task is not kept any more")
    return FileResponse(path, media_type="application/octet-stream", filename=task.audio.name)


async def list_tasks(request: Request) -> Response:
    here = services(request)
    query = _query(request)
    tasks = await here.queue.list(query)
    more = str(tasks[-1].seq) if len(tasks) == query.limit else None
    return Json({"tasks": await all_shown(here.queue, tasks), "next_cursor": more})


def _query(request: Request) -> ListQuery:
    wanted = request.query_params
    states = [name for name in wanted.get("status", "").split(",") if name]
    return ListQuery(
        states=frozenset(_choice(State, name, "status") for name in states),
        kind=_choice(Kind, wanted["kind"], "kind") if wanted.get("kind") else None,
        tenant=wanted.get("tenant") or None,
        text=wanted.get("q") or None,
        before=int(_number(request, "cursor", 0, 2**62)) or None,
        limit=int(_number(request, "limit", 50, MAX_PAGE, least=1)),
    )


async def cancel(request: Request) -> Response:
    here = services(request)
    return Json(await shown(here.queue, await here.queue.cancel(_id(request))))


async def retry(request: Request) -> Response:
    here = services(request)
    task = await here.queue.get(_id(request))
    if task.state in (State.FAILED, State.CANCELLED) and not here.spool.audio(task.id).is_file():
        raise AudioGone("the audio of this task is not kept any more: submit it again")
    return Json(await shown(here.queue, await here.queue.retry(task.id)), 202)


class Patch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    priority: Annotated[int, Meta(ge=-100, le=100)] | None = None
    run_at: submission.Moment | None = None
    metadata: dict[str, Any] | None = None


async def change(request: Request) -> Response:
    here = services(request)
    patch = submission.checked(await submission.json_body(request), Patch)
    submission.check_metadata(patch.metadata or {})
    run_at = submission.unix_seconds(patch.run_at)
    wanted = Change(priority=patch.priority, run_at=run_at, metadata=patch.metadata)
    return Json(await shown(here.queue, await here.queue.change(_id(request), wanted)))


class Submissions(HTTPEndpoint):
    """Takes every method, so that a wrong one is not taken for a task's id by the next route."""

    async def post(self, request: Request) -> Response:
        return await submit(request)


class OneTask(HTTPEndpoint):
    """One route for all methods, so that a wrong one is told all that are allowed."""

    async def get(self, request: Request) -> Response:
        return await show(request)

    async def delete(self, request: Request) -> Response:
        return await cancel(request)

    async def patch(self, request: Request) -> Response:
        return await change(request)


def _id(request: Request) -> str:
    return str(request.path_params["task_id"])


def _number(request: Request, name: str, default: float, most: float, least: float = 0) -> float:
    try:
        number = float(request.query_params.get(name) or default)
    except ValueError:
        number = float("nan")
    if not least <= number:
        raise Refusal(422, "invalid_field", f"must be a number from {least} to {most}", name)
    return min(number, most)


def _choice(kind: type[Name], value: str, param: str) -> Name:
    try:
        return kind(value)
    except ValueError:
        raise Refusal(422, "invalid_field", f"must be one of {', '.join(kind)}", param) from None


routes = [
    Route("/tasks/transcription", Submissions),
    Route("/tasks", list_tasks),
    Route("/tasks/{task_id}", OneTask),
    Route("/tasks/{task_id}/result", result),
    Route("/tasks/{task_id}/audio", audio),
    Route("/tasks/{task_id}/retry", retry, methods=["POST"]),
]
