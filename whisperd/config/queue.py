"""The keys of the queue: its order, its limits, what it keeps."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import fields

from whisperd.config.declaring import DECADE_DAYS, DECADE_HOURS, YEAR_SECONDS, key


class Queue(Struct, frozen=True, kw_only=True):
    """What runs next, what is tried again, and how much may wait."""

    order: Annotated[
        Literal["lifo", "fifo"], key("Within one priority: lifo runs the newest first, fifo the oldest.")
    ] = "lifo"
    max_retries: Annotated[int, key("How often a chunk that failed is tried again.", 0, 100, reload=True)] = 3
    retry_delay_ms: Annotated[
        int,
        key(
            "Wait before the first retry; doubled for each next one, with jitter.", 0, 86_400_000, reload=True
        ),
    ] = 1000
    max_retry_delay_seconds: Annotated[float, key("No retry waits longer.", 0, YEAR_SECONDS, reload=True)] = (
        300
    )
    max_queued: Annotated[
        int,
        key(
            "With so many tasks of a kind queued, the next of it is refused (503 queue_full).",
            1,
            100_000_000,
            reload=True,
        ),
    ] = 1_000_000
    max_wait_seconds: Annotated[
        float,
        key(
            "What a tenant has had in line for longer goes before what it sent later, the oldest first, so "
            "that lifo leaves none behind; 0: never.",
            0,
            YEAR_SECONDS,
            reload=True,
        ),
    ] = 3600
    tenant_concurrent: Annotated[
        int,
        key(
            "Transcriptions that run at a time, of a tenant without a plan; 0: no limit.",
            0,
            10_000,
            reload=True,
        ),
    ] = 0
    tenants: Annotated[
        dict[str, Annotated[int, Meta(ge=0, le=10_000)]],
        key(
            "The same limit for single tenants, whatever their plan: { acme = 4, other = 1 }",
            reload=True,
        ),
    ] = {}
    idempotency_hours: Annotated[float, key("How long an Idempotency-Key is kept.", 0, DECADE_HOURS)] = 24


class Cache(Struct, frozen=True, kw_only=True):
    """Duplicate work: same tenant, audio, model and options. It is decoded once; each task stays its own."""

    enabled: Annotated[bool, key("false: every task is decoded by itself.", reload=True)] = True
    hours: Annotated[
        float,
        key(
            "How long a transcript serves others, while its task is kept; 0: only while it is made.",
            0,
            DECADE_HOURS,
            reload=True,
        ),
    ] = 24


class Search(Struct, frozen=True, kw_only=True):
    """The words of transcripts and file names, found by `q` of `GET /tasks`."""

    enabled: Annotated[
        bool,
        key("false: the index of words is emptied; it is about as large as the texts twice.", reload=True),
    ] = True


class Plans(Struct, frozen=True, kw_only=True, rename="upper"):
    """The named priorities that `plan` of a submission stands for, -100 to 100; higher runs first."""

    free: Annotated[int, Meta(ge=-100, le=100)] = 1
    pro: Annotated[int, Meta(ge=-100, le=100)] = 5
    payg: Annotated[int, Meta(ge=-100, le=100)] = 10

    def priority(self, name: str) -> int | None:
        """The priority of plan `FREE`, `PRO` or `PAYG`; None when there is no such plan."""
        return {f.encode_name: getattr(self, f.name) for f in fields(self)}.get(name)


class PlanLimits(Struct, frozen=True, kw_only=True):
    """What a tenant of this plan may do. A tenant has the plan it named last, while its usage is kept."""

    concurrent: Annotated[
        int, key("Its transcriptions that run at a time; 0: no limit.", 0, 10_000, reload=True)
    ] = 0
    queued: Annotated[
        int,
        key(
            "Its tasks of a kind that may wait; more are refused (429 tenant_queue_full). 0: no limit.",
            0,
            100_000_000,
            reload=True,
        ),
    ] = 0
    per_minute: Annotated[
        int,
        key(
            "Its submissions in a minute; more are refused (429 rate_limited). 0: no limit.",
            0,
            1_000_000,
            reload=True,
        ),
    ] = 0
    weight: Annotated[
        float,
        key(
            "Its share of the workers, in seconds of audio, beside tenants of the same priority.",
            0.001,
            1000,
            reload=True,
        ),
    ] = 1


class TenantLimits(Struct, frozen=True, kw_only=True):
    """What tenants may do, by plan; how often they get their turn."""

    weights: Annotated[
        dict[str, Annotated[float, Meta(ge=0.001, le=1000)]],
        key("Shares of single tenants, whatever their plan: { acme = 3, other = 0.5 }", reload=True),
    ] = {}
    FREE: PlanLimits = PlanLimits(concurrent=1)
    PRO: PlanLimits = PlanLimits(concurrent=3)
    PAYG: PlanLimits = PlanLimits(concurrent=10)

    def of_plan(self, name: str | None) -> PlanLimits | None:
        """What the plan `FREE`, `PRO` or `PAYG` allows; None when there is no such plan."""
        return {"FREE": self.FREE, "PRO": self.PRO, "PAYG": self.PAYG}.get(name or "")


class Retention(Struct, frozen=True, kw_only=True):
    """How long finished tasks are kept, with their transcript and audio."""

    job_hours: Annotated[float, key("For completed and cancelled tasks.", 0, DECADE_HOURS, reload=True)] = 24
    failed_job_hours: Annotated[float, key("For failed tasks.", 0, DECADE_HOURS, reload=True)] = 168
    usage_days: Annotated[
        int, key("For what tenants used by day, without the tasks themselves.", 1, DECADE_DAYS, reload=True)
    ] = 400
