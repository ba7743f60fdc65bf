"""The vocabulary of the usage: what tenants had done for them, by day and model. Pure: no I/O.

A task counts once it is over, on the day of that (UTC), and with all the work on it. Completed, it counts
with its audio, also where its transcript is the copy of a twin's, which took no work. Each end counts: a
failed task that is run again and completed is in both columns. The work on a chunk whose task was cancelled
meanwhile is added as soon as its worker has stopped. Not counted is that of a daemon that was killed: nobody
was left to say how long it took.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

Part = Literal["day", "tenant", "model"]
PARTS: tuple[Part, ...] = ("day", "tenant", "model")


def day(now: float) -> str:
    """Of a time in Unix seconds: "2026-11-28", UTC."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


class UsageQuery(Struct, frozen=True, kw_only=True):
    """Which days, first and last included ("2026-11-28"); of which tenant, or of all; a sum for each what."""

    first: str
    last: str
    tenant: str | None = None
    by: tuple[Part, ...] = PARTS
    limit: int = 10_000


class Usage(Struct, frozen=True, kw_only=True):
    """A sum; over what is None."""

    day: str | None = None
    tenant: str | None = None
    model: str | None = None
    audio_seconds: float = 0.0  # of completed tasks
    compute_seconds: float = 0.0  # of all, failed attempts included
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
