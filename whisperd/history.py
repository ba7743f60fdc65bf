"""What is kept of tasks for people to look at: reads what the queue wrote down in its transactions."""

from __future__ import annotations

from collections.abc import Sequence

from whisperd.db import Database
from whisperd.sql import timeline, traces, usage
from whisperd.task import Task
from whisperd.timeline import Timeline
from whisperd.usage import Usage, UsageQuery


class History:
    """Every verb is safe to cancel: it is done whole or not at all. They raise what Database does."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def timeline(self, task_id: str) -> Timeline:
        """Raises TaskNotFound."""
        return await self._db.read(timeline.timeline, task_id)

    async def trace(self, seq: int) -> str | None:
        """The traceparent of what submitted the task, until its spans are sent."""
        return await self._db.read(traces.parent, seq)

    async def traced(self, after: int) -> Sequence[Task]:
        """The next 100 behind that seq, in its order, that are over and whose spans were not sent."""
        return await self._db.read(traces.over, after)

    async def forget_trace(self, seq: int) -> None:
        await self._db.write(traces.forget, seq)

    async def usage(self, query: UsageQuery) -> Sequence[Usage]:
        return await self._db.read(usage.sums, query)

    async def forget_usage(self, before: str) -> None:
        """The days before that one, each in a transaction of its own."""
        while await self._db.write(usage.forget, before):
            pass
