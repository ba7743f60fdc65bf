"""Why a task waits, when it is thought to begin and to be over, in a sentence and in numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from whisperd.outlook import Prospect
from whisperd.routes import Json, Services, services, task_of
from whisperd.routes.call import Answer, Call
from whisperd.routes.prospects import Quantiles, quantiles
from whisperd.task import FINAL, Kind, ModelUnusable, State, Task, TaskNotFound

NAMED = ("FREE", "PRO", "PAYG")


class Reason(Struct, frozen=True, kw_only=True):
    code: str
    message: str


class Ahead(Struct, frozen=True, kw_only=True):
    tasks: int
    by_priority: dict[str, int]  # of them those with a higher priority


class TenantNow(Struct, frozen=True, kw_only=True):
    running: int  # tasks
    limit: int | None  # of them at a time; null: none


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a task is where it is. Null is what is not known."""

    task_id: str
    status: State
    position: int | None  # by who is thought to begin before it, where that is known
    summary: str  # all of it in a sentence
    reasons: list[Reason]  # what keeps it, or what it ended with, the first to look at first
    ahead: Ahead | None
    tenant: TenantNow | None
    starts_in_seconds: Quantiles | None
    eta_seconds: Quantiles | None


async def explain(request: Request) -> Response:
    """Why the task is where it is: what is before it, what keeps it, when it is thought to be its turn."""
    here, task = services(request), await task_of(request)
    found = await (_detection if task.kind is Kind.RISK_DETECTION else _explained)(here, task)
    return Json(msgspec.structs.replace(found, summary=_summary(here, found)))


async def _explained(here: Services, task: Task) -> Explanation:
    (place,) = await here.queue.positions([task])
    prospect = await here.outlook.prospect(task, place)
    ahead = await _ahead(here, task, place, prospect) if place else None
    waits = task.state == State.QUEUED
    tenant = None if task.state in FINAL else await _tenant_now(here, task)
    return Explanation(
        task_id=task.id,
        status=task.state,
        position=ahead.tasks + 1 if ahead else None,
        summary="",
        reasons=[reason async for reason in _reasons(here, task, ahead, tenant)],
        ahead=ahead,
        tenant=tenant,
        starts_in_seconds=quantiles(here, prospect, "begins") if waits else None,
        eta_seconds=quantiles(here, prospect, "ends"),
    )


async def _detection(here: Services, task: Task) -> Explanation:
    """Risk detection stands in no line of the workers, and is held up by no limit of theirs."""
    return Explanation(
        task_id=task.id,
        status=task.state,
        position=None,
        summary="",
        reasons=[reason async for reason in _reasons_of_detection(here, task)],
        ahead=None,
        tenant=None,
        starts_in_seconds=None,
        eta_seconds=None,
    )


async def _tenant_now(here: Services, task: Task) -> TenantNow:
    limits = await here.queue.limits(task.tenant)
    return TenantNow(running=await here.queue.running(task.tenant), limit=limits.concurrent or None)


async def _ahead(here: Services, task: Task, place: int, prospect: Prospect | None) -> Ahead:
    """Those that are thought to begin before it; where that is not known, by priority and order alone."""
    if prospect is None or prospect.before is None:
        by_priority, tasks = await here.queue.ahead(task.priority), place - 1
    else:
        by_priority, tasks = prospect.before, sum(prospect.before.values())
    higher = sorted((one for one in by_priority if one > task.priority), reverse=True)
    return Ahead(tasks=tasks, by_priority={str(one): by_priority[one] for one in higher})


# --- what keeps it ---


async def _reasons(
    here: Services, task: Task, ahead: Ahead | None, tenant: TenantNow | None
) -> AsyncIterator[Reason]:
    if tenant is None:  # it is over
        yield await _ended(here, task)
        return
    async for reason in _held_up(here, task):
        yield reason
    if task.state == State.PROCESSING:
        yield _at_work(here, task)
    elif task.run_at is not None:
        yield _put_off(here, task)
    else:
        for reason in _in_line(ahead, tenant):
            yield reason


async def _reasons_of_detection(here: Services, task: Task) -> AsyncIterator[Reason]:
    if task.state in FINAL:
        yield await _ended(here, task)
        return
    for reason in _all_held_up(here):
        yield reason
    if task.state == State.PROCESSING:
        yield Reason(code="at_work", message="it is being looked through")
    elif task.transcript is not None and await _is_made(here, task.transcript):
        yield Reason(code="transcript", message=f"it waits for the transcript of task {task.transcript}")
    else:
        message = "it is its turn after what is more urgent, or of its tenant and older; tenants take turns"
        yield Reason(code="in_line", message=message)


async def _is_made(here: Services, transcript: str) -> bool:
    try:
        return (await here.queue.get(transcript)).state not in FINAL
    except TaskNotFound:
        return False


async def _ended(here: Services, task: Task) -> Reason:
    hears = task.kind is Kind.TRANSCRIPTION
    if task.state == State.COMPLETED:
        what = "its transcript" if hears else "what it found"
        return Reason(code="completed", message=f"it is done: {_both(task, 'GET', 'result')} shows {what}")
    kept = not hears or await asyncio.to_thread(here.spool.has_audio, task.id)
    again = f"{_both(task, 'POST', 'retry')} runs it again"
    then = again if kept else "its audio is not kept: submit it again"
    if task.error is None:
        return Reason(code="cancelled", message=f"somebody cancelled it; {then}")
    return Reason(code=task.error.code, message=f"{task.error.message}; {then}")


def _both(task: Task, method: str, part: str) -> str:
    """What programs and what people do: the command has the name of the path."""
    return f"{method} /tasks/{task.id}/{part}, or `whisperd {part} {task.id}`,"


async def _held_up(here: Services, task: Task) -> AsyncIterator[Reason]:
    """What keeps everything, or all of its model."""
    for reason in _all_held_up(here):
        yield reason
    if not any(worker.is_up for worker in here.pool.workers()):
        yield Reason(code="no_worker", message="no worker is up; GET /health says more")
    try:
        await here.check_model(task.model)
    except ModelUnusable as unusable:
        yield Reason(code="model_unusable", message=str(unusable))


def _all_held_up(here: Services) -> Iterator[Reason]:
    if here.draining:
        yield Reason(code="draining", message="the daemon stops; it goes on with this task at its next start")
    if trouble := here.database_trouble() or here.pulse_trouble():
        yield Reason(code="database", message=f"the database is in trouble: {trouble}")
    if here.pool.paused:
        yield Reason(
            code="paused", message="nothing is handed out until an operator resumes: POST /admin/resume"
        )


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


def _in_line(ahead: Ahead | None, tenant: TenantNow) -> Iterator[Reason]:
    if ahead is None:
        message = "another task has the same audio and options, and is at work: this one is completed with it"
        yield Reason(code="twin", message=message)
        return
    if is_full := tenant.limit is not None and tenant.running >= tenant.limit:
        n = tenant.running
        message = f"its tenant has {n} task{_s(n)} at work, and may have {tenant.limit} at a time"
        yield Reason(code="tenant_limit", message=message)
    if ahead.tasks:
        yield Reason(code="ahead", message=f"{ahead.tasks} task{_s(ahead.tasks)} before it in line")
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


calls = [
    Call(
        method="GET",
        path="/tasks/{task_id}/explain",
        handler=explain,
        right="read",
        answers={200: Answer(about="Words and numbers.", body=Explanation)},
    ),
]
