"""The vocabulary of jobs: a task of the queue that hosts share, which one of them has taken. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from whisperd.task import Cut, Segment, Task


class Job(Struct, frozen=True, kw_only=True):
    """A job that this host holds, or held when it ended: the proof of that is its token."""

    id: str  # in the shared queue
    token: str
    begun: int  # how often it had been begun by then, this time included
    hash: str = ""  # all that Redis had of it then, as a JSON object; "": not known
    server: str = ""  # the Redis that gave it out; "": not known


class OwedJob(NamedTuple):
    """A job whose task is over here, which the shared queue is still to be told."""

    job: Job
    task: Task


class Submitted(Struct, frozen=True, kw_only=True):
    """A job that was added for a submission to this host, and that is not over."""

    id: str
    data: dict[str, Any]
    options: dict[str, Any]
    server: str  # the Redis that has acknowledged it


class Finished(Struct, frozen=True, omit_defaults=True):
    """What a finished chunk brought, and what had been said of its task by then."""

    segments: tuple[Segment, ...]
    warnings: tuple[str, ...] = ()


class Checkpoint(Struct, frozen=True, kw_only=True):
    """What is finished of a task, so that another host goes on from there, if it makes an equal plan."""

    fingerprint: str  # of the plan
    cuts: tuple[Cut, ...]
    chunks: Mapping[int, Finished]  # by number, from 1
