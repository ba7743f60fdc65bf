"""POST /tasks/bulk: cancel or retry many tasks, those that are named or those that a filter finds.

Each task is a verb by itself, with the rules of the call for one; some share a commit, so that a thousand
hold up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs
from starlette.requests import Request
from starlette.responses import Response

from whisperd.routes import Json, caller, services, visible_task
from whisperd.routes.call import Answer, Call
from whisperd.routes.errors import Refusal, as_refusal
from whisperd.routes.submission import Moment
from whisperd.routes.tasks import Words, check_search, end, run_again
from whisperd.task import Kind, ListQuery, State, Task, TaskError

MOST = 1000  # tasks of one call
AT_A_TIME = 25  # of them; they share a commit of some milliseconds
PAGE = 100  # of what is looked up at a time
MOST_REFUSED = 100  # that are named in an answer

Action = Literal["cancel", "retry"]
_DO: dict[Action, Callable[[Request, Task], Awaitable[Task]]] = {"cancel": end, "retry": run_again}
_FROM: dict[Action, frozenset[State]] = {
    "cancel": frozenset({State.QUEUED, State.PROCESSING}),
    "retry": frozenset({State.FAILED, State.CANCELLED}),
}


class Which(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that are left out leave no task out; tasks that are in no state for the action are not meant."""

    status: list[State] | None = None
    kind: Kind | None = None
    tenant: str | None = None
    q: Words | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None


class Bulk(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    action: Action
    task_ids: (
        Annotated[list[Annotated[str, Meta(max_length=100)]], Meta(min_length=1, max_length=MOST)] | None
    ) = None
    filter: Which | None = None
    cursor: Annotated[str, Meta(pattern=r"^[0-9]{1,18}\Z", description="A `next_cursor`.")] | None = None


class RefusedView(Struct, frozen=True, kw_only=True):
    task_id: str
    code: str


class BulkView(Struct, frozen=True, kw_only=True):
    """`more`: there may be tasks of the filter that were not looked at; `next_cursor` goes on with them."""

    done: int
    refused: list[RefusedView]  # the first 100
    refused_count: int
    more: bool
    next_cursor: str | None


async def bulk(request: Request, wanted: Bulk) -> Response:
    """Cancel or retry many tasks: `task_ids`, or up to 1,000 that `filter` finds, the newest first."""
    if (wanted.task_ids is None) == (wanted.filter is None):
        raise Refusal(422, "invalid_field", "give one of task_ids and filter", "task_ids")
    if wanted.task_ids is not None:
        ids, before = list(dict.fromkeys(wanted.task_ids)), None
    else:
        ids, before = await _found(request, wanted)
    codes = [
        code
        for first in range(0, len(ids), AT_A_TIME)
        for code in await _each(request, wanted.action, ids[first : first + AT_A_TIME])
    ]
    refused = [
        RefusedView(task_id=task_id, code=code) for task_id, code in zip(ids, codes, strict=True) if code
    ]
    return Json(
        BulkView(
            done=len(ids) - len(refused),
            refused=refused[:MOST_REFUSED],
            refused_count=len(refused),
            more=before is not None,
            next_cursor=None if before is None else str(before),
        )
    )


async def _found(request: Request, wanted: Bulk) -> tuple[list[str], int | None]:
    """The ids that the filter finds, at most MOST; and before which task there may be more."""
    query = _query(request, wanted)
    if query is None:
        return [], None
    ids: list[str] = []
    for _ in range(MOST // PAGE):
        tasks, before = await _page(request, query)
        ids += [task.id for task in tasks]
        if before is None:
            return ids, None
        query = structs.replace(query, before=before)
    return ids, query.before


def _query(request: Request, wanted: Bulk) -> ListQuery | None:
    """What the filter asks for, as far as the caller may see and the action may change it; None: nothing."""
    which, own = wanted.filter or Which(), caller(request).tenant
    states = _FROM[wanted.action] & frozenset(State if which.status is None else which.status)
    if not states or (own is not None and which.tenant not in (None, own)):
        return None
    return ListQuery(
        states=states,
        kind=which.kind,
        tenant=own or which.tenant,
        text=which.q,
        created_after=seconds(which.created_after),
        created_before=seconds(which.created_before),
        before=int(wanted.cursor) if wanted.cursor else None,
        limit=PAGE,
    )


def seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


async def _page(request: Request, query: ListQuery) -> tuple[Sequence[Task], int | None]:
    here = services(request)
    if query.text is not None:
        check_search(here)
        hits, before = await here.queue.search(query, matches=False)
        return [hit.task for hit in hits], before
    tasks = await here.queue.list(query)
    return tasks, tasks[-1].seq if len(tasks) == query.limit else None


async def _each(request: Request, action: Action, ids: Sequence[str]) -> Sequence[str | None]:
    """Do it to each; the code of each refusal."""
    return await asyncio.gather(*(_one(request, action, task_id) for task_id in ids))


async def _one(request: Request, action: Action, task_id: str) -> str | None:
    """The code of its refusal. A disk that is full now is one, too: what was done before must be told."""
    try:
        await _DO[action](request, await visible_task(request, task_id))
    except TaskError as refused:
        return as_refusal(refused).code
    return None


calls = [
    Call(
        method="POST",
        path="/tasks/bulk",
        handler=bulk,
        right="submit",
        body=Bulk,
        answers={200: Answer(about="How many were done, and which were not.", body=BulkView)},
        refusals=(409,),
    )
]
