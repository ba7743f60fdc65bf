"""The queues that hosts share, as one board: which task goes into which, and from which this host takes.

Each is a queue of BullMQ like any other, so that Node's workers and dashboards see it. A host takes from
those that its settings name, in their order; a task is looked for in all that it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from time import time
from typing import Any

from msgspec.structs import replace

from whisperd.config import Redis as Settings
from whisperd.job import Depth, Job
from whisperd.redis_queue.board import Board, Standing, Taken, Verdict
from whisperd.redis_queue.idempotency import IdempotencyKeys
from whisperd.redis_queue.room import Asked
from whisperd.redis_queue.seen import Listed, Seen
from whisperd.redis_queue.tally import Tally
from whisperd.task import Limits


class Boards:
    """Every verb is one of Board's, said to the queue that it is about."""

    def __init__(self, settings: Settings, make: Callable[[str], Board]) -> None:
        """`make`: the board of a queue."""
        self._make = make
        self._routes = settings.routes
        self._boards: dict[str, Board] = {}
        self._base = self._board(settings.queue)
        self._takes = {name: self._board(name) for name in settings.takes_from}
        for name in settings.routes.values():
            self._board(name)

    def _board(self, name: str) -> Board:
        """Also one that the settings do not name any more, for what was taken from it before."""
        if name not in self._boards:
            self._boards[name] = self._make(name)
        return self._boards[name]

    def _of(self, job: Job | Seen) -> Board:
        return self._board(job.queue) if job.queue else self._base

    def each(self) -> Mapping[str, Board]:
        """As they are now: while one is asked another may come."""
        return dict(self._boards)

    # --- the Redis of all of them ---

    @property
    def trouble(self) -> str | None:
        return self._base.trouble

    @property
    def well_since(self) -> float:
        return self._base.well_since

    @property
    def server(self) -> str:
        return self._base.server

    async def identify(self) -> str:
        return await self._base.identify()

    @property
    def keys(self) -> IdempotencyKeys:
        return self._base.keys

    async def first_within(self, work: str, seconds: float) -> bool:
        return await self._base.first_within(work, seconds)

    # --- who works ---

    async def take(self) -> Taken | None:
        """From the first queue that has one."""
        for name, board in self._takes.items():
            if taken := await board.take():
                queue = "" if board is self._base else name
                return taken._replace(job=replace(taken.job, queue=queue))
        return None

    async def wait(self) -> None:
        first, *others = self._takes.values()
        await first.wait(*others)

    async def beat(self, held: Job) -> Verdict:
        return await self._of(held).beat(held)

    async def progress(self, held: Job, percent: float) -> None:
        await self._of(held).progress(held, percent)

    async def complete(self, held: Job, value: Mapping[str, Any]) -> None:
        await self._of(held).complete(held, value)

    async def fail(self, held: Job, why: str, *, final: bool) -> None:
        await self._of(held).fail(held, why, final=final)

    async def hand_back(self, held: Job, seconds: float) -> None:
        await self._of(held).hand_back(held, seconds)

    async def put_back(self, held: Job) -> bool:
        return await self._of(held).put_back(held)

    async def held(self, held: Job) -> Seen | None:
        return await self._of(held).look(held.id)

    async def sweep(self) -> None:
        """Of all: the only host that took from one may be what has died."""
        for board in self.each().values():
            await board.sweep()

    async def limit(self, limits: Callable[[str, str | None], Limits]) -> None:
        await self._base.limit(limits)

    async def raise_old(self, seconds: float) -> None:
        for board in self.each().values():
            await board.raise_old(seconds)

    async def tidy(self) -> None:
        for board in self.each().values():
            await board.tidy()
        await self._base.tidy_tenants()

    async def serve(self) -> None:
        """Say that this host takes from its queues."""
        for board in self._takes.values():
            await board.serve()

    # --- who submits and looks ---

    async def add(
        self, job_id: str, name: str, data: Mapping[str, Any], asked: Asked | None = None, **options: Any
    ) -> None:
        board = self._board(self.queue_for(data))
        await board.add(job_id, name, data, asked and self._of_all(asked), **options)

    async def check_room(self, asked: Asked) -> None:
        await self._base.check_room(self._of_all(asked))

    async def plan_of(self, tenant: str) -> str | None:
        return await self._base.plan_of(tenant)

    def _of_all(self, asked: Asked) -> Asked:
        return replace(asked, queues=tuple(self._boards))

    async def name(self, job: Job | Seen, task_id: str) -> None:
        await self._of(job).name(job.id, task_id)

    def queue_for(self, data: Mapping[str, Any]) -> str:
        """Of the first route all of whose tags the job has; that of all others."""
        has = {f"model:{data.get('model')}", f"tenant:{data.get('tenant', 'default')}"}
        fitting = (queue for tags, queue in self._routes.items() if has.issuperset(tags.split()))
        return next(fitting, next(iter(self._boards)))

    async def standing(self, ids: Sequence[str]) -> Sequence[Standing]:
        found = [await board.standing(ids) for board in self.each().values()]
        return [next((one for one in each if one != "gone"), "gone") for each in zip(*found, strict=True)]

    async def queues(self) -> frozenset[str]:
        """All that any host has ever told of; those of this one are told to the others."""
        return await self._base.queues(self._boards)

    async def known(self, names: Collection[str]) -> frozenset[str]:
        """In queues that only other hosts know, too."""
        return frozenset().union(*[await self._base.known(names, queue) for queue in await self.queues()])

    async def look(self, name: str) -> Seen | None:
        """The job of this id; else one that was named so since, as any producer may name its own."""
        named = None
        for board in self.each().values():
            seen = await board.look(name)
            if seen is not None and seen.id == name:
                return seen
            named = named or seen
        return named

    async def page(self, before: int | None, limit: int, fits: Callable[[Listed], bool]) -> list[Listed]:
        found = [listed for board in self.each().values() for listed in await board.page(before, limit, fits)]
        return sorted(found, key=lambda listed: -listed.at)[:limit]

    async def change(self, name: str, fields: Mapping[str, Any], priority: int) -> None:
        board, job_id = await self._where(name)
        await board.change(job_id, fields, priority)

    async def retry(self, name: str, asked: Asked) -> None:
        board, job_id = await self._where(name)
        await board.retry(job_id, self._of_all(asked))

    async def cancel(self, name: str) -> str:
        board, job_id = await self._where(name)
        return await board.cancel(job_id)

    async def cancel_look(self, name: str) -> str:
        board, job_id = await self._where(name)
        return await board.cancel_look(job_id)

    async def _where(self, name: str) -> tuple[Board, str]:
        """The queue that has the job, and its id; one that none has is asked for in the first."""
        seen = await self.look(name)
        return (self._base, name) if seen is None else (self._of(seen), seen.id)

    async def depths(self) -> Mapping[str, Depth]:
        """How much there is to do in each, by name."""
        return {name: await board.depth() for name, board in self.each().items()}

    async def tally(self) -> Tally:
        """How many tasks there are."""
        queues = [await board.count() for board in self.each().values()]
        return Tally(time(), queues, await self._base.tenants())
