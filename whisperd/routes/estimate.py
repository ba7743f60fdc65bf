"""When a file would begin and be over that is not sent yet, and whether it would be accepted."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from whisperd.forecast.line import Standing
from whisperd.outlook import NEWEST, Prospect
from whisperd.routes import Json, Services, caller, services, submission
from whisperd.routes.call import Answer, Call
from whisperd.routes.errors import Refusal, as_refusal
from whisperd.routes.prospects import Quantiles, quantiles
from whisperd.task import NoRoom


class Asked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of `duration_seconds` and `size_bytes` has to be there."""

    duration_seconds: Annotated[float, Meta(ge=0, le=1e7)] | None = None
    size_bytes: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    name: Annotated[
        str, Meta(max_length=255, description="Of the file: its ending tells how dense it is.")
    ] = ""
    model: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    priority: Annotated[int, Meta(ge=-100, le=100)] | None = None
    plan: Literal["FREE", "PRO", "PAYG"] | None = None
    tenant: Annotated[str, Meta(pattern=r"^[\w.@:+-]{1,100}\Z")] | None = None
    run_at: submission.Moment | None = None


class WouldBeRefused(Struct, frozen=True, kw_only=True):
    code: str
    message: str


class Estimate(Struct, frozen=True, kw_only=True):
    """Null is what is not known."""

    accepted: bool  # as things are; nothing is promised
    model: str  # asked for, or the daemon's own
    refusal: WouldBeRefused | None
    audio_seconds: float | None  # given, or thought of by the bytes
    starts_in_seconds: Quantiles | None
    eta_seconds: Quantiles | None


async def estimate(request: Request, asked: Asked) -> Response:
    """When a file would begin and be over if it were submitted now, and whether it would be accepted."""
    here, who = services(request), caller(request)
    if (asked.duration_seconds is None) == (asked.size_bytes is None):
        given = "neither" if asked.size_bytes is None else "both"
        message = f"give duration_seconds or size_bytes, one of them; these were {given}"
        raise Refusal(422, "invalid_field", message, "duration_seconds")
    wanted = submission.Submission(
        model=asked.model, priority=asked.priority, plan=asked.plan, tenant=asked.tenant, run_at=asked.run_at
    )
    task = _thought_of(here, asked, wanted.tenant_for(who), wanted.priority_for(who, here.config))
    await here.check_model(task.model)
    refusal = await _would_be_refused(here, asked, task.tenant, wanted.plan_for(who))
    prospect = None if refusal else await here.outlook.prospect_of_new(task)
    return Json(_told(here, task, refusal, prospect))


def _thought_of(here: Services, asked: Asked, tenant: str, priority: int) -> Standing:
    """It as if it stood in line."""
    begins = max(here.now(), submission.unix_seconds(asked.run_at) or 0.0)
    return Standing(
        seq=NEWEST,
        tenant=tenant,
        priority=priority,
        started=False,
        lined_at=begins,
        run_at=begins,
        model=asked.model or here.config.workers.model,
        name=asked.name,
        size=asked.size_bytes or 0,
        seconds=asked.duration_seconds,
    )


def _told(
    here: Services, task: Standing, refusal: WouldBeRefused | None, prospect: Prospect | None
) -> Estimate:
    return Estimate(
        accepted=refusal is None,
        model=task.model,
        refusal=refusal,
        audio_seconds=round(here.outlook.length(task), 1),
        starts_in_seconds=quantiles(here, prospect, "begins"),
        eta_seconds=quantiles(here, prospect, "ends"),
    )


async def _would_be_refused(
    here: Services, asked: Asked, tenant: str, plan: str | None
) -> WouldBeRefused | None:
    http, audio = here.config.http, here.config.audio
    if here.draining:
        return WouldBeRefused(code="shutting_down", message="the daemon stops: nothing new is accepted")
    if here.drain.refuses:
        return WouldBeRefused(code="draining", message="the daemon is being emptied: nothing new is accepted")
    if (asked.size_bytes or 0) > http.max_upload_bytes:
        return WouldBeRefused(code="too_large", message=f"at most {http.max_upload_bytes} bytes are accepted")
    if (asked.duration_seconds or 0) > audio.max_seconds:
        message = f"at most {audio.max_seconds:g} s of audio are transcribed"
        return WouldBeRefused(code="audio_too_long", message=message)
    left = await asyncio.to_thread(here.spool.free_bytes) - (asked.size_bytes or 0)
    if left < here.config.storage.min_free_mb * 2**20:
        return WouldBeRefused(code="storage_full", message="no disk space is left for it")
    try:
        await here.queue.check_room(tenant, plan)
    except NoRoom as error:
        refusal = as_refusal(error)
        return WouldBeRefused(code=refusal.code, message=str(refusal))
    return None


calls = [
    Call(
        method="POST",
        path="/tasks/estimate",
        handler=estimate,
        right="submit",
        body=Asked,
        answers={200: Answer(about="The estimate.", body=Estimate)},
    ),
]
