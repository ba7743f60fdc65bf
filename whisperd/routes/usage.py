"""/usage: what tenants had done for them, by day and model."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from whisperd.routes import Json, caller, services
from whisperd.routes.call import Answer, Call
from whisperd.routes.errors import Refusal
from whisperd.usage import PARTS, Part, Usage, UsageQuery, day

DAYS = 30  # unless it is said from when
MAX_ROWS = 10_000


class SumsView(Struct, frozen=True, kw_only=True):
    audio_seconds: float  # of completed tasks
    compute_seconds: float  # of workers on all tasks that are over, failed attempts included
    completed: int
    failed: int
    cancelled: int


class RowView(SumsView, frozen=True, kw_only=True):
    """The sums of a day, tenant or model, or of some of these together, as `group_by` says."""

    day: str | UnsetType = UNSET  # UTC, of the end of the tasks
    tenant: str | UnsetType = UNSET
    model: str | UnsetType = UNSET


class UsageView(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """`truncated`: there are more rows. The total is that of all."""

    from_: str  # the first day,
    to: str  # and the last
    usage: list[RowView]
    total: SumsView
    truncated: bool


class UsageFilter(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    from_: Annotated[date, Meta(description="The first day. If not given, there are 30.")] | None = None
    to: Annotated[date, Meta(description="The last day, UTC. If not given, today.")] | None = None
    tenant: str | None = None
    group_by: Annotated[tuple[Part, ...], Meta(description="Some, with commas between.")] = PARTS


async def usage(request: Request, query: UsageFilter) -> Response:
    """What tenants had done for them, by day, tenant and model.

    A task counts once it is over, on the day (UTC) of its end; it stays counted when it is deleted.
    """
    here = services(request)
    last = query.to or date.fromisoformat(day(here.now()))
    first = query.from_ or date.fromordinal(max(1, last.toordinal() - DAYS + 1))
    if first > last:
        raise Refusal(422, "invalid_field", "must not be after `to`", "from")
    wanted = UsageQuery(
        first=first.isoformat(),
        last=last.isoformat(),
        tenant=caller(request).tenant or query.tenant,
        by=query.group_by,
        limit=MAX_ROWS + 1,
    )
    rows = await here.history.usage(wanted)
    (total,) = await here.history.usage(replace(wanted, by=()))
    return Json(
        UsageView(
            from_=wanted.first,
            to=wanted.last,
            usage=[_row(row) for row in rows[:MAX_ROWS]] if wanted.by else [],
            total=SumsView(**_sums(total)),
            truncated=len(rows) > MAX_ROWS,
        )
    )


def _row(row: Usage) -> RowView:
    of = {part: value for part in PARTS if (value := getattr(row, part)) is not None}
    return RowView(**of, **_sums(row))


def _sums(row: Usage) -> dict[str, Any]:
    return {
        "audio_seconds": round(row.audio_seconds, 3),
        "compute_seconds": round(row.compute_seconds, 3),
        "completed": row.completed,
        "failed": row.failed,
        "cancelled": row.cancelled,
    }


_USAGE = {200: Answer(about="The sums.", body=UsageView)}

calls = [Call(method="GET", path="/usage", handler=usage, right="read", query=UsageFilter, answers=_USAGE)]
