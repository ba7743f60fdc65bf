"""How many jobs there are in the queues that hosts share, of all and of each tenant: the vocabulary. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

NOBODY = ""  # whose jobs are of no tenant


class TenantCount(NamedTuple):
    """In the order of how a job stands, see room."""

    waiting: int
    delayed: int
    active: int
    completed: int
    failed: int
    cancelled: int


class Line(NamedTuple):
    """What waits in a queue at one of BullMQ's priorities."""

    priority: int
    jobs: int
    oldest_ms: int  # when the older of the first and the last was submitted


class QueueCount(NamedTuple):
    waiting: int
    delayed: int
    active: int
    completed: int
    ended_badly: int  # they failed, or were cancelled
    lines: Sequence[Line]


class Tally(NamedTuple):
    at: float  # Unix seconds
    queues: Sequence[QueueCount]
    tenants: Mapping[str, TenantCount]
