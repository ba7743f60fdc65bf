"""The statistics of one host with the numbers of all that share its queue. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from msgspec.structs import replace

from whisperd.redis_queue import formats
from whisperd.redis_queue.tally import NOBODY, Tally, TenantCount
from whisperd.task import TENANTS, Depth, OtherDepth, PriorityDepth, State, Stats, TenantDepth

_NONE = TenantCount(0, 0, 0, 0, 0, 0)


def of_all(local: Stats, tally: Tally, tenant: str | None) -> Stats:
    """Of a tenant's tasks, or of all. What is not counted for all, like waits, stays that of this host."""
    if tenant is None:
        counts, tenants, oldest = _total(tally), tally.tenants, _oldest_at(tally)
    else:
        counts, oldest = tally.tenants.get(tenant, _NONE), None
        tenants = {tenant: counts}
    return replace(
        local,
        by_state={
            State.QUEUED: counts.waiting + counts.delayed,
            State.PROCESSING: counts.active,
            State.COMPLETED: counts.completed,
            State.FAILED: counts.failed,
            State.CANCELLED: counts.cancelled,
        },
        delayed=counts.delayed,
        oldest_queued_at=oldest,
        depth=_depth(tenants, () if tenant is not None else _by_priority(tally)),
        is_shared=True,
        counted_at=tally.at,
    )


def _total(tally: Tally) -> TenantCount:
    """BullMQ says how many failed; which of them were cancelled is known of the jobs of each tenant."""
    queues = tally.queues
    badly = sum(queue.ended_badly for queue in queues)
    cancelled = min(badly, sum(count.cancelled for count in tally.tenants.values()))
    return TenantCount(
        waiting=sum(queue.waiting for queue in queues),
        delayed=sum(queue.delayed for queue in queues),
        active=sum(queue.active for queue in queues),
        completed=sum(queue.completed for queue in queues),
        failed=badly - cancelled,
        cancelled=cancelled,
    )


def _oldest_at(tally: Tally) -> float | None:
    return min((line.oldest_ms / 1000 for queue in tally.queues for line in queue.lines), default=None)


def _by_priority(tally: Tally) -> tuple[PriorityDepth, ...]:
    jobs: Counter[int] = Counter()
    for queue in tally.queues:
        for line in queue.lines:
            jobs[formats.to_priority(line.priority)] += line.jobs
    return tuple(PriorityDepth(*item) for item in sorted(jobs.items(), reverse=True))


def _depth(tenants: Mapping[str, TenantCount], priorities: tuple[PriorityDepth, ...]) -> Depth:
    """The tenants with the most that wait; `others`: all beyond them, and what is nobody's."""
    depths = [TenantDepth(name, of.waiting + of.delayed, of.active) for name, of in tenants.items()]
    named = [depth for depth in depths if depth.tenant != NOBODY and (depth.queued or depth.processing)]
    named.sort(key=lambda depth: (-depth.queued, -depth.processing, depth.tenant))
    beyond = named[TENANTS:]
    others = [*beyond, *(depth for depth in depths if depth.tenant == NOBODY)]
    queued, processing = sum(one.queued for one in others), sum(one.processing for one in others)
    rest = OtherDepth(len(beyond), queued, processing)
    return Depth(by_priority=priorities, by_tenant=tuple(named[:TENANTS]), others=rest)
