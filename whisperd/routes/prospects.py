"""Why a task waits, when it is thought to begin and to be over; and the same of a file not sent yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from whisperd.forecast.line import Standing
from whisperd.outlook import NEWEST, Prospect
from whisperd.routes import Json, Services, caller, services, submission, task_of
from whisperd.routes.call import Answer, Call
from whisperd.routes.errors import Refusal, as_refusal
from whisperd.task import FINAL, ModelUnusable, NoRoom, State, Task

NAMED = ("FREE", "PRO", "PAYG")


class Quantiles(Struct, frozen=True, kw_only=True):
    """Seconds from now: as work mostly goes, and were all of it as slow as the slowest tenth."""

    p50: float
    p90: float


class Reason(Struct, frozen=True, kw_only=True):
    code: str
    message: str


class Ahead(Struct, frozen=True, kw_only=True):
    tasks: int
    by_priority: dict[str, int]  # of those with a higher priority


class TenantNow(Struct, frozen=True, kw_only=True):
    running: int  # tasks
    limit: int | None  # of them at a time; null: none


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a task is where it is. Null is what is not known."""

    task_id: str
    status: State
    position: int | None
    summary: str  # all of it in a sentence
    reasons: list[Reason]  # what keeps it, or what it ended with, the first to look at first
    ahead: Ahead | None
    tenant: TenantNow | None
    starts_in_seconds: Quantiles | None
    eta_seconds: Quantiles | None


async def explain(request: Request) -> Response:
    """Why the task is where it is: what is before it, what keeps it, when it is thought to be its turn."""
    here, task = services(request), await task_of(request)
    (place,) = await here.queue.positions([task])
    prospect = await here.outlook.prospect(task, place)
    waits = task.state == State.QUEUED
    tenant = None if task.state in FINAL else await _tenant_now(here, task)
    explanation = Explanation(
        task_id=task.id,
        status=task.state,
        position=place,
        summary="",
        reasons=[reason async for reason in _reasons(here, task)],
        ahead=await _ahead(here, task, place) if place else None,
        tenant=tenant,
        starts_in_seconds=_quantiles(here, prospect, "begins") if waits else None,
        eta_seconds=_quantiles(here, prospect, "ends"),
    )
    return Json(msgspec.structs.replace(explanation, summary=_summary(here, explanation)))


def _quantiles(
    here: Services, prospect: Prospect | None, which: Literal["begins", "ends"]
) -> Quantiles | None:
    if prospect is None:
        return None
    likely, late = (max(0.0, getattr(span, which) - here.now()) for span in prospect)
    return Quantiles(p50=round(likely, 1), p90=round(late, 1))


async def _tenant_now(here: Services, task: Task) -> TenantNow:
    limits = await here.queue.limits(task.tenant)
    return TenantNow(running=await here.queue.running(task.tenant), limit=limits.concurrent or None)


async def _ahead(here: Services, task: Task, place: int) -> Ahead:
    higher = await here.queue.ahead(task.priority)
    return Ahead(tasks=place - 1, by_priority={str(priority): n for priority, n in higher.items()})


# --- what keeps it ---


async def _reasons(here: Services, task: Task) -> AsyncIterator[Reason]:
    if task.state in FINAL:
        yield _ended(here, task)
        return
    async for reason in _held_up(here, task):
        yield reason
    if task.state == State.PROCESSING:
        yield _at_work(here, task)
    elif task.run_at is not None:
        yield _put_off(here, task)
    else:
        async for reason in _in_line(here, task):
            yield reason


def _ended(here: Services, task: Task) -> Reason:
    if task.state == State.COMPLETED:
        return Reason(code="completed", message=f"it is done: GET /tasks/{task.id}/result has its transcript")
    kept = here.spool.has_audio(task.id)
    then = f"POST /tasks/{task.id}/retry runs it again" if kept else "its audio is not kept: submit it again"
    if task.error is None:
        return Reason(code="cancelled", message=f"somebody cancelled it; {then}")
    return Reason(code=task.error.code, message=f"{task.error.message}; {then}")


async def _held_up(here: Services, task: Task) -> AsyncIterator[Reason]:
    """What keeps everything, or all of its model."""
    if here.draining:
        yield Reason(code="draining", message="the daemon stops; it goes on with this task at its next start")
    if trouble := here.database_trouble() or here.pulse_trouble():
        yield Reason(code="database", message=f"the database is in trouble: {trouble}")
    if here.pool.paused:
        yield Reason(
            code="paused", message="nothing is handed out until an operator resumes: POST /admin/resume"
        )
    if not any(worker.state in ("idle", "busy") for worker in here.pool.workers()):
        yield Reason(code="no_worker", message="no worker is up; GET /health says more")
    try:
        await here.check_model(task.model)
    except ModelUnusable as unusable:
        yield Reason(code="model_unusable", message=str(unusable))


def _at_work(here: Services, task: Task) -> Reason:
    hands = sum(worker.task_id == task.id for worker in here.pool.workers())
    if hands:
        return Reason(code="at_work", message=f"{hands} worker{_s(hands)} on it, {task.progress:.0%} done")
    message = f"{task.progress:.0%} done; the workers are with tasks that go before it"
    return Reason(code="overtaken", message=message)


def _put_off(here: Services, task: Task) -> Reason:
    wait = _about(max(0.0, (task.run_at or 0.0) - here.now()))
    if task.error is None:
        return Reason(code="delayed", message=f"it was asked not to begin before its run_at, in {wait}")
    tries = f"attempt {task.attempt} of {task.max_retries + 1} begins in {wait}"
    return Reason(code="retry", message=f"{tries}, since the last one failed: {task.error.message}")


async def _in_line(here: Services, task: Task) -> AsyncIterator[Reason]:
    (place,) = await here.queue.positions([task])
    if place is None:
        message = "another task has the same audio and options, and is at work: this one is completed with it"
        yield Reason(code="twin", message=message)
        return
    tenant = await _tenant_now(here, task)
    if is_full := tenant.limit is not None and tenant.running >= tenant.limit:
        message = f"its tenant has {tenant.running} tasks at work, and may have {tenant.limit} at a time"
        yield Reason(code="tenant_limit", message=message)
    if place > 1:
        yield Reason(code="ahead", message=f"{place - 1} task{_s(place - 1)} before it in line")
    elif not is_full:
        yield Reason(code="next", message="it is next, as soon as a worker is free")


# --- in a sentence ---


def _summary(here: Services, found: Explanation) -> str:
    parts = [f"{_ordinal(found.position)} in line"] if found.position else []
    if found.ahead:
        parts += _named_ahead(here, found.ahead)
    if found.tenant and found.tenant.limit:
        parts.append(f"tenant at {found.tenant.running} of {found.tenant.limit}")
    parts += [
        reason.message for reason in found.reasons if reason.code not in ("ahead", "next", "tenant_limit")
    ]
    if found.starts_in_seconds:
        parts.append(f"starts in about {_about(found.starts_in_seconds.p50)}")
    if found.eta_seconds:
        parts.append(f"done in about {_about(found.eta_seconds.p50)}")
    return "; ".join(parts)


def _named_ahead(here: Services, ahead: Ahead) -> list[str]:
    """Of tasks with a higher priority, by the name of their plan where it is that of one."""
    names = {str(here.config.plans.priority(name)): f"{name} " for name in NAMED}
    return [
        f"{n} {names.get(priority, '')}task{_s(n)} ahead"
        + ("" if priority in names else f" of priority {priority}")
        for priority, n in ahead.by_priority.items()
    ]


def _s(n: int) -> str:
    return "" if n == 1 else "s"


def _ordinal(n: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(n % 10 if n % 100 // 10 != 1 else 0, "th")
    return f"{n}{ending}"


def _about(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


# --- of what is not sent yet ---


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
    refusal: WouldBeRefused | None
    audio_seconds: float | None  # given, or thought of by the bytes
    starts_in_seconds: Quantiles | None
    eta_seconds: Quantiles | None


async def estimate(request: Request, asked: Asked) -> Response:
    """When a file would begin and be over if it were submitted now, and whether it would be accepted."""
    here, who = services(request), caller(request)
    if (asked.duration_seconds is None) == (asked.size_bytes is None):
        raise Refusal(422, "invalid_field", "give the one or the other", "duration_seconds")
    wanted = submission.Submission(
        model=asked.model, priority=asked.priority, plan=asked.plan, tenant=asked.tenant, run_at=asked.run_at
    )
    run_at = submission.unix_seconds(asked.run_at)
    task = Standing(
        seq=NEWEST,
        tenant=wanted.tenant_for(who),
        priority=wanted.priority_for(who, here.config),
        started=False,
        lined_at=max(here.now(), run_at or 0.0),
        run_at=max(here.now(), run_at or 0.0),
        model=asked.model or here.config.workers.model,
        name=asked.name,
        size=asked.size_bytes or 0,
        seconds=asked.duration_seconds,
    )
    await here.check_model(task.model)
    refusal = await _would_be_refused(here, asked, task.tenant, wanted.plan_for(who))
    prospect = None if refusal else await here.outlook.prospect_of_new(task)
    return Json(
        Estimate(
            accepted=refusal is None,
            refusal=refusal,
            audio_seconds=round(here.outlook.length(task), 1),
            starts_in_seconds=_quantiles(here, prospect, "begins"),
            eta_seconds=_quantiles(here, prospect, "ends"),
        )
    )


async def _would_be_refused(
    here: Services, asked: Asked, tenant: str, plan: str | None
) -> WouldBeRefused | None:
    http, audio = here.config.http, here.config.audio
    if here.draining:
        return WouldBeRefused(code="shutting_down", message="the daemon stops: nothing new is accepted")
    if (asked.size_bytes or 0) > http.max_upload_bytes:
        return WouldBeRefused(code="too_large", message=f"at most {http.max_upload_bytes} bytes are accepted")
    if (asked.duration_seconds or 0) > audio.max_seconds:
        message = f"at most {audio.max_seconds:g} s of audio are transcribed"
        return WouldBeRefused(code="audio_too_long", message=message)
    if here.spool.free_bytes() - (asked.size_bytes or 0) < here.config.storage.min_free_mb * 2**20:
        return WouldBeRefused(code="storage_full", message="no disk space is left for it")
    try:
        await here.queue.check_room(tenant, plan)
    except NoRoom as error:
        refusal = as_refusal(error)
        return WouldBeRefused(code=refusal.code, message=str(refusal))
    return None


calls = [
    Call(
        method="GET",
        path="/tasks/{task_id}/explain",
        handler=explain,
        right="read",
        answers={200: Answer(about="Words and numbers.", body=Explanation)},
    ),
    Call(
        method="POST",
        path="/tasks/estimate",
        handler=estimate,
        right="submit",
        body=Asked,
        answers={200: Answer(about="The estimate.", body=Estimate)},
    ),
]
