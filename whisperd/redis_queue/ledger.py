"""The jobs that this host has taken, and those it has added: each verb one function of whisperd.sql.

The rows of the first are written by the queue, with their tasks. Holds no state but the database's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from whisperd.db import Database
from whisperd.job import Checkpoint, Job, OwedJob, Submitted
from whisperd.look import Ended
from whisperd.sql import checkpoints, jobs, looks, submissions
from whisperd.task import Task


class Ledger:
    """Every verb is safe to cancel: it is done whole or not at all. They raise what Database's do."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def held(self) -> Mapping[str, Job]:
        """Those whose end the shared queue has not been told, by the ids of their tasks."""
        return await self._db.read(jobs.held)

    async def owed(self) -> Sequence[OwedJob]:
        """Those of them whose tasks are over."""
        return await self._db.read(jobs.owed)

    async def looked(self, task: Task) -> Ended | None:
        """What came of risk detection, or of that which came with a transcription; None: there is none."""
        return await self._db.read(looks.ended, task)

    async def told(self, job: Job) -> None:
        await self._db.write(jobs.told, job)

    async def unkept(self, task_id: str, fingerprint: str | None, kept: Collection[int]) -> Checkpoint | None:
        """What is finished of a task that is not over, but for these chunks of this plan; None: nothing."""
        return await self._db.read(checkpoints.unkept, task_id, fingerprint, kept)

    async def submitted(self, job: Submitted) -> None:
        """It was added to the shared queue."""
        await self._db.write(submissions.note, job)

    async def submissions(self, after: str, limit: int) -> Sequence[Submitted]:
        """Those that are not over, in the order of their ids."""
        return await self._db.read(submissions.after, after, limit)

    async def over(self, ids: Collection[str]) -> None:
        """They ended, wherever; those of others are none of ours."""
        await self._db.write(submissions.forget, ids)

    async def acknowledged(self, ids: Collection[str], server: str) -> None:
        """This Redis has them."""
        await self._db.write(submissions.acknowledged, ids, server)
