"""Who may submit now: the limits of plans, asked as early as the tenant is known.

With a key that is before the body is read; else once its form is. The queue has the last word on its room.
"""

from __future__ import annotations

from starlette.requests import Request

from whisperd.routes import caller, services
from whisperd.routes.errors import emptied, stopping
from whisperd.task import Kind, NewTask, Task


async def admit_caller(request: Request) -> None:
    """Before the body is read. Raises RateLimited, and Refusal where nothing is accepted."""
    here = services(request)
    if here.draining:
        raise stopping()
    if here.drain.refuses:
        raise emptied()
    await _keep_pace(request, caller(request).tenant, caller(request).plan)


async def check_room(request: Request, kind: Kind = Kind.TRANSCRIPTION) -> None:
    """Before there is work with the request. Raises QueueFull, TenantQueueFull.

    Not for what may be answered with a task that is there already, and needs no room.
    """
    if "idempotency-key" not in request.headers:
        await services(request).queue.check_room(caller(request).tenant, caller(request).plan, kind)


async def admit(request: Request, new: NewTask) -> None:
    """Of a caller whose tenant was not known before. Raises RateLimited."""
    if caller(request).tenant is None:
        await _keep_pace(request, new.tenant, new.plan)


async def admit_one_more(request: Request, new: NewTask) -> None:
    """Of the second and later that one request submits. Raises RateLimited."""
    own = caller(request).tenant is not None
    await _keep_pace(request, new.tenant, caller(request).plan if own else new.plan)


async def admit_again(request: Request, task: Task) -> None:
    """Of a task that is to run once more, which counts as one more. Raises RateLimited."""
    await _keep_pace(request, task.tenant, caller(request).plan)


async def _keep_pace(request: Request, tenant: str | None, plan: str | None) -> None:
    here = services(request)
    if tenant is not None:
        await here.pace.count(tenant, await here.queue.per_minute(tenant, plan))
