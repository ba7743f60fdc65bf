"""/admin/webhooks: what the outside was told, or is still to be told, of tasks that are over.

An address is shown without its path, which is often a secret.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from whisperd.delivery import Delivery, DeliveryQuery, DeliveryState
from whisperd.routes import Json, caller, services
from whisperd.routes.call import Answer, Call
from whisperd.shown import timestamp

MAX_PAGE = 500


class DeliveryView(Struct, frozen=True, kw_only=True):
    """What one address is told of the end of one task. Times are RFC 3339, UTC."""

    id: str  # the webhook-id
    kind: str
    event: str  # "task.completed"
    task_id: str
    tenant: str
    to: str  # scheme, host and port
    state: DeliveryState
    attempts: int
    created_at: str | None  # when the task ended
    next_attempt_at: str | None  # while it waits
    ended_at: str | None  # when it was taken, or given up
    answer: int | None  # the HTTP status of the last attempt, if anything answered
    problem: str | None


class DeliveriesView(Struct, frozen=True, kw_only=True):
    deliveries: list[DeliveryView]
    next_cursor: str | None


class DeliveryFilter(Struct, frozen=True, kw_only=True):
    state: Annotated[tuple[DeliveryState, ...], Meta(description="Some states, with commas between.")] = ()
    task_id: str | None = None
    tenant: str | None = None
    limit: Annotated[int, Meta(ge=1, description=f"Of a page; {MAX_PAGE} at most.")] = 50
    cursor: Annotated[str, Meta(pattern=r"^[0-9]{1,18}\Z", description="A `next_cursor`.")] | None = None


async def list_deliveries(request: Request, query: DeliveryFilter) -> Response:
    """The deliveries of webhooks, newest first."""
    wanted = DeliveryQuery(
        states=frozenset(query.state),
        task=query.task_id,
        tenant=caller(request).tenant or query.tenant,
        before=int(query.cursor) if query.cursor else None,
        limit=min(query.limit, MAX_PAGE),
    )
    found = await services(request).outbox.find(wanted)
    more = str(found[-1].seq) if len(found) == wanted.limit else None
    return Json(DeliveriesView(deliveries=[delivery_view(d) for d in found], next_cursor=more))


async def resend(request: Request) -> Response:
    """Deliver it now, whatever became of it, under the id that it has."""
    wanted = str(request.path_params["delivery_id"])
    delivery = await services(request).resend(wanted, caller(request).tenant)
    return Json(delivery_view(delivery), 202)


def delivery_view(delivery: Delivery) -> DeliveryView:
    waits = delivery.state == DeliveryState.WAITING
    return DeliveryView(
        id=delivery.id,
        kind=delivery.kind,
        event=delivery.event,
        task_id=delivery.task_id,
        tenant=delivery.tenant,
        to=delivery.place,
        state=delivery.state,
        attempts=delivery.attempts,
        created_at=timestamp(delivery.created_at),
        next_attempt_at=timestamp(delivery.due_at) if waits else None,
        ended_at=timestamp(delivery.ended_at),
        answer=delivery.status,
        problem=delivery.problem,
    )


_FOUND = {200: Answer(about="The deliveries.", body=DeliveriesView)}
_AGAIN = {202: Answer(about="It will be delivered.", body=DeliveryView)}

calls = [
    Call(
        method="GET",
        path="/admin/webhooks",
        handler=list_deliveries,
        right="admin",
        query=DeliveryFilter,
        answers=_FOUND,
    ),
    Call(
        method="POST",
        path="/admin/webhooks/{delivery_id}/resend",
        handler=resend,
        right="admin",
        answers=_AGAIN,
        refusals=(404,),
    ),
]
