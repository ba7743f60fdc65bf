"""The vocabulary of jobs: a task of the queue that hosts share, which one of them has taken. Pure: no I/O."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from whisperd.task import Task


class Job(Struct, frozen=True, kw_only=True):
    """A job that this host holds, or held when it ended: the proof of that is its token."""

    id: str  # in the shared queue
    token: str
    begun: int  # how often it had been begun by then, this time included


class OwedJob(NamedTuple):
    """A job whose task is over here, which the shared queue is still to be told."""

    job: Job
    task: Task
