"""The vocabulary of the outbox: a delivery, its states, what became of an attempt.

Pure: no I/O. A delivery tells one address of the end of one task, or of what risk detection found by then, at
least once, always under the same id:

    waiting -> delivered   it was taken
    waiting -> waiting     an attempt failed, and there is time for another
    waiting -> dead        its time is over, or the address wants no more
    delivered, dead -> waiting   resend
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from whisperd.task import Task, TaskNotFound

ALERT = "risk.alert"
GONE = 410  # the address asks to be told nothing more
BUSY = frozenset({429, 503})  # the whole place asks for a pause


class DeliveryState(StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


class Delivery(Struct, frozen=True, kw_only=True):
    seq: int
    id: str  # the webhook-id
    kind: str  # "webhook", "result"
    event: str  # "task.completed", or ALERT
    task_id: str
    tenant: str
    url: str
    place: str  # scheme, host and port: what fails as one
    snapshot: str  # of the task, as it was then
    state: DeliveryState
    attempts: int
    created_at: float  # of the event; Unix seconds, UTC, as all times here
    due_at: float  # of the next attempt, while it waits
    expires_at: float  # an attempt that fails then is the last
    ended_at: float | None
    status: int | None  # of the last answer
    problem: str | None  # of the last attempt; safe to show

    @property
    def task(self) -> Task:
        """As it was at the event. What the version that wrote it down did not know is None."""
        unknown = {field.name: None for field in msgspec.structs.fields(Task) if field.required}
        return msgspec.convert(unknown | msgspec.json.decode(self.snapshot), Task)

    @property
    def findings(self) -> list[Any]:
        """Of an alert."""
        found: list[Any] = msgspec.json.decode(self.snapshot).get("findings", [])
        return found


class Reply(Struct, frozen=True, kw_only=True):
    """What became of an attempt. No status: nothing answered, or nothing was to answer."""

    status: int | None = None
    problem: str | None = None  # None: it was taken; safe to show
    is_of_place: bool = False  # nothing else at its place would fare better at present
    retry_after: float | None = None  # seconds for which it asks

    @classmethod
    def answered(cls, status: int, headers: Mapping[str, str]) -> Reply:
        """Any 2xx has taken it."""
        if 200 <= status < 300:
            return cls(status=status)
        busy = status in BUSY
        return cls(
            status=status,
            problem=f"it answered {status}",
            is_of_place=busy,
            retry_after=_seconds(headers.get("retry-after", "")) if busy else None,
        )


def _seconds(retry_after: str) -> float | None:
    """Its form with a date is not taken: it would need the other's clock."""
    text = retry_after.strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


class DeliveryQuery(Struct, frozen=True, kw_only=True):
    """Newest first; `before` is the `seq` of the last delivery of the page before."""

    states: frozenset[DeliveryState] = frozenset()
    task: str | None = None
    tenant: str | None = None
    before: int | None = None
    limit: int = 50


class DeliveryNotFound(TaskNotFound):
    """There is no delivery with this id."""
