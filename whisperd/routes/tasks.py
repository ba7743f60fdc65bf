"""/tasks: submit, look, change, cancel, retry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, structs
from starlette.requests import Request
from starlette.responses import Response
from structlog.contextvars import bind_contextvars
from ulid import ULID

from whisperd.routes import Json, Services, caller, services, submission, task_of
from whisperd.routes.admission import admit, admit_again, admit_caller, check_room
from whisperd.routes.call import STILL, TAGGED, Answer, Call, Form, Header
from whisperd.routes.detection import check_detection
from whisperd.routes.errors import Refusal
from whisperd.routes.interactive import finished, over, unless_left
from whisperd.routes.tags import tag_of, unless_known
from whisperd.routes.view import TaskView, all_shown, shown, shown_soon, shown_with_looks
from whisperd.spool import Incoming
from whisperd.task import (
    Audio,
    AudioGone,
    Change,
    Kind,
    ListQuery,
    Match,
    ModelUnusable,
    NewTask,
    State,
    Task,
)
from whisperd.transcript import language_refusal

LONGEST_WAIT = 300.0  # seconds of a long poll
MAX_PAGE = 500
MAX_HITS = 100  # each is looked into for where it is said


async def submit(request: Request) -> Response:
    """Queue audio: multipart with the form field `file`, or JSON that names it."""
    task, created = await accepted(request)
    view = await shown_soon(services(request), task)
    if created:
        services(request).outlook.promise(task.id, view.eta_seconds)
    return Json(view, 202 if created else 200, {"Location": f"/tasks/{task.id}"})


async def accepted(
    request: Request, received: Callable[[Request, Services], Awaitable[NewTask]] | None = None
) -> tuple[Task, bool]:
    """The task that the request submits; False if it is the first one of its Idempotency-Key.

    `received` makes it of the body, a transcription by default, and lets in who it is for.
    Raises Refusal, and what submitting raises: then nothing of it is left.
    """
    here = services(request)
    await admit_caller(request)
    new = await (received or _received)(request, here)
    try:
        task, created = await here.queue.submit(new)
    except Exception:  # not a cancellation: the commit may still come, and needs its audio
        here.spool.remove(new.id)
        raise
    if not created:
        here.spool.remove(new.id)
    bind_contextvars(task_id=task.id)
    return task, created


async def _received(request: Request, here: Services) -> NewTask:
    async def receive(incoming: Incoming) -> tuple[submission.Submission, str]:
        return await submission.receive(request, incoming, here.config, submission.Submission)

    _, new = await with_audio(request, here, receive)
    return new


Receive = Callable[[Incoming], Awaitable[tuple[submission.Asked, str]]]  # the options, and the audio's name


async def with_audio(
    request: Request, here: Services, receive: Receive[submission.Asked]
) -> tuple[submission.Asked, NewTask]:
    """A transcription of what `receive` writes to the spool, and by which options."""
    await check_room(request)
    task_id = str(ULID())
    key = request.headers.get("idempotency-key")
    async with here.spool.receive(task_id, submission.declared_bytes(request)) as incoming:
        form, name = await receive(incoming)
        audio = Audio(name=name, size=incoming.size, sha256=incoming.sha256)
        new = submission.new_task(task_id, form, audio, here.config, caller(request), key)
        try:
            await check_model(new, here)
        except (ModelUnusable, Refusal):  # of one that is there already its model may be gone by now
            if await here.queue.first_of_key(new) is None:
                raise
        await admit(request, new)
    return form, new


async def check_model(new: NewTask, here: Services) -> None:
    """Raises ModelUnusable, and Refusal for a language that the model does not know, or an unknown pack."""
    multilingual = await here.check_model(new.model)
    if problem := language_refusal(new.options.language, new.model, multilingual):
        raise Refusal(422, "invalid_field", problem, "language")
    await check_detection(here, new.then)


class Patience(Struct, frozen=True, kw_only=True):
    wait: Annotated[float, Meta(ge=0, description="Seconds to wait for its end, at most 300.")] = 0.0


async def show(request: Request, query: Patience) -> Response:
    """The task; with `wait`, once it is over, or as it is when the seconds are."""
    here = services(request)
    task = await (_waited_for(request, query.wait) if query.wait else task_of(request))
    view = await shown_with_looks(here, task)
    return unless_known(request, Json(view), _tag(view))


async def _waited_for(request: Request, seconds: float) -> Task:
    here, seconds = services(request), min(seconds, LONGEST_WAIT)
    with here.events.subscribe(request.path_params["task_id"]) as subscription:
        task = await task_of(request)
        if task.id == subscription.task_id:
            waiting = over(here, task, subscription, seconds)
        else:  # it is named by its job's id, which no event has
            waiting = finished(here, task.id, seconds)
        return await unless_left(request.receive, waiting)


def _tag(view: TaskView) -> str:
    """Weak: the seconds that are left pass without news, and whoever polls can count them down himself."""
    return f"W/{tag_of(msgspec.json.encode(structs.replace(view, eta_seconds=None)))}"


Words = Annotated[
    str,
    Meta(
        max_length=200,
        description=(
            "All of these words, in the transcript or the audio's name, the last one maybe not to its end; "
            '"in quotes" they stand one after the other. Or a task\'s id. '
            "At most 16 words, and 8 in quotes or with only signs between."
        ),
    ),
]


class Filter(Struct, frozen=True, kw_only=True):
    status: Annotated[tuple[State, ...], Meta(description="Some states, with commas between.")] = ()
    kind: Kind | None = None
    tenant: str | None = None
    q: Words | None = None
    cursor: Annotated[str, Meta(pattern=r"^[0-9]{0,18}\Z", description="A `next_cursor`.")] | None = None
    limit: Annotated[int, Meta(ge=1, description="Of a page; 500 at most, with `q` 100.")] = 50


class Listed(TaskView, frozen=True, kw_only=True):
    match: Match | UnsetType | None = UNSET  # with `q`: where it is said; null where only the name fits


class Page(Struct, frozen=True, kw_only=True):
    tasks: list[Listed]
    next_cursor: str | None


async def list_tasks(request: Request, query: Filter) -> Response:
    """A page of tasks, newest first; with `q` those that are found by words.

    A page of a search may have fewer tasks than `limit` and still a `next_cursor`.
    """
    here, own = services(request), caller(request).tenant
    if own is not None and query.tenant not in (None, own):
        return Json(Page(tasks=[], next_cursor=None))
    wanted = ListQuery(
        states=frozenset(query.status),
        kind=query.kind,
        tenant=own or query.tenant,
        text=query.q,
        before=int(query.cursor) if query.cursor else None,
        limit=min(query.limit, MAX_PAGE if query.q is None else MAX_HITS),
    )
    return Json(await _listed(here, wanted) if query.q is None else await _found(here, wanted))


async def _listed(here: Services, query: ListQuery) -> Page:
    tasks = await here.queue.list(query)
    more = str(tasks[-1].seq) if len(tasks) == query.limit else None
    return Page(
        tasks=[Listed(**structs.asdict(view)) for view in await all_shown(here, tasks)],
        next_cursor=more,
    )


def check_search(here: Services) -> None:
    """Raises Refusal where nothing is indexed."""
    if not here.config.search.enabled:
        raise Refusal(409, "search_disabled", "search.enabled is false: tasks are not found by words", "q")


async def _found(here: Services, query: ListQuery) -> Page:
    check_search(here)
    hits, before = await here.queue.search(query)
    views = await all_shown(here, [hit.task for hit in hits])
    return Page(
        tasks=[
            Listed(**structs.asdict(view), match=hit.match) for view, hit in zip(views, hits, strict=True)
        ],
        next_cursor=None if before is None else str(before),
    )


async def cancel(request: Request) -> Response:
    """Cancel the task: a queued one at once, one at work within two seconds."""
    task = await end(request, await task_of(request))
    return Json(await shown(services(request), task))


async def end(request: Request, task: Task) -> Task:
    """Cancel it. Raises WrongState."""
    return await services(request).queue.cancel(task.id)


async def retry(request: Request) -> Response:
    """Run a failed or cancelled task again, as far as one more may be submitted."""
    task = await run_again(request, await task_of(request))
    return Json(await shown(services(request), task), 202)


async def run_again(request: Request, task: Task) -> Task:
    """Raises WrongState, NoRoom; AudioGone, a WrongState, where there is nothing to run."""
    here = services(request)
    if task.state in (State.FAILED, State.CANCELLED) and task.kind is Kind.TRANSCRIPTION:
        shared = bool(here.config.redis.url)  # then its audio is where every host finds it
        if not shared and not await asyncio.to_thread(here.spool.has_audio, task.id):
            raise AudioGone("the audio of this task is not kept any more: submit it again")
    if task.state in (State.FAILED, State.CANCELLED):
        await admit_again(request, task)
    return await here.queue.retry(task.id, caller(request).plan)


class Patch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    priority: Annotated[int, Meta(ge=-100, le=100)] | None = None
    run_at: submission.Moment | None = None
    metadata: dict[str, Any] | None = None


async def change(request: Request, patch: Patch) -> Response:
    """Change a queued task."""
    here = services(request)
    task = await task_of(request)
    submission.check_metadata(patch.metadata or {})
    if patch.priority is not None:
        submission.checked_priority(patch.priority, caller(request), here.config, "priority")
    run_at = submission.unix_seconds(patch.run_at)
    if run_at is not None and task.kind is Kind.RISK_DETECTION:
        raise Refusal(422, "invalid_field", "risk detection runs once there is a transcript", "run_at")
    wanted = Change(priority=patch.priority, run_at=run_at, metadata=patch.metadata)
    return Json(await shown(here, await here.queue.change(task.id, wanted)))


_TASK = Answer(about="The task.", body=TaskView)
IDEMPOTENCY_KEY = Header(
    about="The same key and body within a day answer the first task (200).",
    pattern=r"^[ -~]{1,255}\Z",
    means="1 to 255 printable ASCII characters",
    example="upload-2026-11-28-0001",
)
_ACCEPTED = Answer(about="The task, queued.", body=TaskView)

calls = [
    Call(
        method="POST",
        path="/tasks/transcription",
        handler=submit,
        right="submit",
        form=Form(
            fields=submission.Submission,
            or_field="audio_url",
            without=("audio_path",),
            or_json=submission.NAMES_AUDIO,
        ),
        headers={"Idempotency-Key": IDEMPOTENCY_KEY},
        answers={
            202: Answer(about="It is on the disk.", body=TaskView, headers={"Location": "of the task"}),
            200: Answer(about="The first task of this Idempotency-Key.", body=TaskView),
        },
        refusals=(400, 413, 415, 422, 429, 507),
    ),
    Call(
        method="GET",
        path="/tasks",
        handler=list_tasks,
        right="read",
        query=Filter,
        answers={200: Answer(about="A page.", body=Page)},
        refusals=(409,),
    ),
    Call(
        method="GET",
        path="/tasks/{task_id}",
        handler=show,
        right="read",
        query=Patience,
        headers=TAGGED,
        answers={
            200: Answer(about="The task.", body=TaskView, headers={"ETag": "of all but `eta_seconds`"}),
            304: STILL,
        },
    ),
    Call(
        method="DELETE",
        path="/tasks/{task_id}",
        handler=cancel,
        right="submit",
        answers={200: _TASK},
        refusals=(409,),
    ),
    Call(
        method="PATCH",
        path="/tasks/{task_id}",
        handler=change,
        right="submit",
        body=Patch,
        answers={200: _TASK},
        refusals=(409,),
    ),
    Call(
        method="POST",
        path="/tasks/{task_id}/retry",
        handler=retry,
        right="submit",
        answers={202: _ACCEPTED},
        refusals=(409, 429),
    ),
]
