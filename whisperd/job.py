"""The vocabulary of jobs: a task of the queue that hosts share, which one of them has taken. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from whisperd.task import Cut, Segment, Task


class Job(Struct, frozen=True, kw_only=True):
    """A job that this host holds, or held when it ended: the proof of that is its token."""

    id: str  # in the shared queue
    queue: str = ""  # in which it is; "": the one of those that no route fits
    token: str
    begun: int  # how often it had been begun by then, this time included
    hash: str = ""  # all that Redis had of it then, as a JSON object; "": not known
    server: str = ""  # the Redis that gave it out; "": not known

    @property
    def key(self) -> str:
        """Two queues may have jobs of one id."""
        return f"{self.queue}/{self.id}"


class Depth(NamedTuple):
    """How many jobs a shared queue has."""

    waiting: int
    delayed: int
    active: int
    is_served: bool  # somebody takes from it, as far as can be seen


class Share(NamedTuple):
    """A host's part in the queues that it shares with others, at one moment."""

    trouble: str | None  # why they cannot be asked
    depths: Mapping[str, Depth]  # by queue, as it was some seconds ago
    held: int  # jobs that it is at work on, or owes the end of
    owed: int  # of them
    lost: int  # to another host, since the start

    def unserved(self) -> Mapping[str, int]:
        """How many jobs wait where nobody takes them, by queue."""
        return {name: d.waiting for name, d in self.depths.items() if d.waiting and not d.is_served}


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
