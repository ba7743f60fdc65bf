"""Risk detection as verbs: each one function of whisperd.sql.looks, run as one transaction.

Its tasks come into the queue by `submit`, as others do, and end like them. Holds no state but the database's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import time

from whisperd.db import Database
from whisperd.events import Event, Events
from whisperd.look import Kept, Look, Outcome, Said, Seen, Sighting, Standing
from whisperd.sql import looks
from whisperd.task import Problem, Segment, Task


class Detections:
    """Every verb is safe to cancel: it is done whole or not at all. They raise what Database does.

    `told` hears of the tasks that a verb has moved, after its commit.
    """

    def __init__(
        self,
        db: Database,
        events: Events,
        told: Callable[[Sequence[Task]], None],
        now: Callable[[], float] = time,
    ) -> None:
        self._db = db
        self._events = events
        self._told = told
        self._now = now
        self._served = looks.NO_TENANT  # the tenant whose turn it was last

    async def claim(self) -> Look | None:
        """Own the next task whose transcript is there, or will never be; None: there is none.

        Of those that are as urgent tenants take turns, anew after a restart.
        """
        if not await self._db.read(looks.is_waiting):  # a transaction would wait for the disk
            return None
        return await self._db.write(looks.claim, self._now(), self._served, then=self._told_of_claim)

    async def any_waits(self) -> bool:
        """For its turn, or for its transcript."""
        return await self._db.read(looks.any_waits)

    async def said(self, look: Look) -> Said | None:
        """What it has to look through; None: there is no transcript."""
        return await self._db.read(looks.said, look)

    async def finish(self, look: Look, outcome: Outcome, seconds: float) -> None:
        """Keep what was found, and alert of it. Raises LostClaim."""

        def told(done: tuple[Sequence[Task], Sequence[Sighting]]) -> None:
            self._found(look, done[1])
            self._told(done[0])

        await self._db.write(looks.finish, look, outcome, seconds, self._now(), then=told)

    async def hearing(self, transcription_id: str) -> Sequence[Look]:
        """Those that are to alert before this transcript is whole; they own nothing yet."""
        return await self._db.read(looks.hearing, transcription_id)

    async def heard(self, transcription_id: str) -> Sequence[Segment]:
        """What no chunk still to come can change, nor come before."""
        return await self._db.read(looks.heard, transcription_id)

    async def tell(self, look: Look, sightings: Sequence[Sighting]) -> None:
        """Alert of what was found so far, each finding once; of nothing once it is no more waiting."""
        await self._db.write(
            looks.tell, look, sightings, self._now(), then=lambda news: self._found(look, news)
        )

    async def fail(self, look: Look, problem: Problem, seconds: float, *, final: bool = False) -> None:
        """Count a failure: it runs again, or has failed. Raises LostClaim."""
        await self._db.write(looks.fail, look, problem, final, seconds, self._now(), then=self._told)

    async def release(self, look: Look) -> None:
        """Hand it back unfinished, without blame. Raises LostClaim."""
        await self._db.write(looks.release, look, then=self._told)

    async def first(self, transcription_id: str) -> Task:
        """The task that was submitted with this one to look through its transcript. Raises TaskNotFound."""
        return await self._db.read(looks.first, transcription_id)

    async def kept(self, task_id: str) -> Kept | None:
        """What this task found; None while it is not completed."""
        return await self._db.read(looks.kept, task_id)

    async def newest(self, transcription_id: str) -> Kept | None:
        """What was found in a transcript, by the task that was submitted last of those that are completed."""
        return await self._db.read(looks.newest, transcription_id)

    async def redaction(self, transcription: Task, edit: str | None) -> Sequence[Seen]:
        """All looks through a transcript, with what they found in the original, or in this correction."""
        return await self._db.read(looks.redaction, transcription, edit)

    async def is_awaited(self, transcription_id: str) -> bool:
        """Whether a look through this transcript is not over."""
        return await self._db.read(looks.is_awaited, transcription_id)

    async def standing(self, transcription_id: str) -> Standing | None:
        """How far the looks through this transcript are; None: none is, or will be, completed."""
        return await self._db.read(looks.standing, transcription_id)

    def _found(self, look: Look, news: Sequence[Sighting]) -> None:
        if news:
            self._events.publish(Event("finding", look.task, findings=[one.finding for one in news]))

    def _told_of_claim(self, look: Look | None) -> None:
        if look is not None:
            self._served = look.task.tenant
            self._told([look.task])
