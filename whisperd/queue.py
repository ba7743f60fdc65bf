"""The durable queue: the verbs of TaskQueue on one SQLite file, and the wake-up of who waits for work.

Each verb is one function of whisperd.sql, run as one transaction; what it says is told to the events only
after its commit. Holds no state but the database's, save for the wake-up. Times are parameters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from time import time

from msgspec.structs import replace

from whisperd.counts import Counts
from whisperd.db import Database
from whisperd.events import Event, Events
from whisperd.forecast.line import Line
from whisperd.forecast.speeds import Measurements
from whisperd.job import Checkpoint, Job
from whisperd.sql import claims, edits, holder, jobs, measured, moves, questions, rescue, search, standing
from whisperd.task import (
    FINAL,
    START,
    Change,
    Chunk,
    Claimant,
    Depths,
    Edit,
    Effort,
    Found,
    IndexDamaged,
    Indexed,
    Kind,
    Limits,
    ListQuery,
    Mark,
    NewTask,
    Plan,
    Problem,
    Rules,
    Segment,
    State,
    Stats,
    StorageBusy,
    StorageFailed,
    StorageFull,
    Task,
)

DEFAULT_RULES = Rules()


class SqliteQueue:
    """The TaskQueue in one SQLite file. Every verb is safe to cancel: it is done whole or not at all.

    `now` is the time, `cautious` the time by which something may be forgotten; both see Clock.
    `model_sha256` says of a model's name what its file is now: without it no task is the twin of another.
    What is committed is noted in `counts`.
    """

    def __init__(
        self,
        db: Database,
        events: Events,
        rules: Rules = DEFAULT_RULES,
        now: Callable[[], float] = time,
        cautious: Callable[[], float] | None = None,
        model_sha256: Callable[[str], Awaitable[str | None]] | None = None,
        counts: Counts | None = None,
    ) -> None:
        self._db = db
        self._events = events
        self._rules = rules
        self._now = now
        self._cautious = cautious or now
        self._model_sha256 = model_sha256
        self._counts = counts or Counts()
        self._ready = asyncio.Event()
        self._index_damaged = False  # as a search has found
        self.measurements = Measurements()  # of the work, as its holders tell

    @property
    def rules(self) -> Rules:
        return self._rules

    def reload(self, rules: Rules) -> None:
        """Go by other rules from the next verb on; what runs already goes on, what waits is ordered anew."""
        self._rules = rules
        self._ready.set()  # a tenant may be under its limit now

    async def submit(self, new: NewTask) -> tuple[Task, bool]:
        """Queue the task and return it with True; or the first task of its idempotency key with False.

        It may be completed already, like a twin; or follow one, and be completed with it.
        Raises IdempotencyConflict, QueueFull, TenantQueueFull, StorageFull, StorageFailed: then nothing was
        queued. A `plan` is remembered of its tenant, until another is named,
        or neither a task nor any usage of it is kept any more.
        """
        tasks, created = await self._db.write(
            moves.submit_chain,
            await self._recognised(new),
            self._rules,
            self._keys_after(),
            self._now(),
            then=lambda submitted: self.told_all(submitted[0]),
        )
        return tasks[0], created

    async def first_of_key(self, new: NewTask) -> Task | None:
        """What `submit` would return in place of a new task. Raises IdempotencyConflict."""
        if not new.idempotency_key:
            return None
        return await self._db.read(moves.first_of_key, new, self._keys_after())

    async def _recognised(self, new: NewTask) -> NewTask:
        """With what tells its twins."""
        if self._model_sha256 is None or self._rules.cache_seconds is None:
            return new
        return replace(new, model_sha256=await self._model_sha256(new.model))

    async def take(self, new: NewTask, job: Job, known: Checkpoint | None = None) -> Task:
        """Run a job of the shared queue; there is always room for it. It may be completed already.

        Chunks that are `known` are not heard again, if the plan that is made of it here is the same.
        """
        new = await self._recognised(new)
        return await self._moved(jobs.take, new, job, self._rules, known, self._now())

    async def drop(self, task_id: str, job: Job) -> bool:
        """Another host has the job: forget its task. False: it is over, or its job was taken anew."""
        dropped = await self._db.write(jobs.drop, task_id, job, self._now(), then=self._told_of_drop)
        return bool(dropped)

    async def cancel_job(self, task_id: str) -> None:
        """The shared queue wants its job stopped. Nothing happens where its end is only to be told."""
        await self._db.write(jobs.cancel, task_id, self._now(), then=self.told_all)

    async def limits(self, tenant: str, plan: str | None = None) -> Limits:
        """Those of this plan, or else of the one that is remembered of the tenant."""
        return await self._db.read(questions.limits, self._rules, tenant, plan)

    async def per_minute(self, tenant: str, plan: str | None = None) -> int:
        """How often it may submit, 0 for no limit; the database is not asked where that holds for all."""
        return (await self.limits(tenant, plan)).per_minute if self._rules.paced else 0

    async def check_room(
        self, tenant: str | None = None, plan: str | None = None, kind: Kind = Kind.TRANSCRIPTION
    ) -> Limits:
        """The limits that hold for a tenant; asked before the audio is stored. Promises nothing.

        Raises QueueFull and, of a tenant that is known, TenantQueueFull, as `submit` would now.
        """
        return await self._db.read(questions.check_room, self._rules, tenant, plan, self._now(), kind)

    async def get(self, task_id: str) -> Task:
        return await self._db.read(questions.get, task_id)

    async def list(self, query: ListQuery) -> Sequence[Task]:
        """Whatever `text` it is about: for that there is `search`."""
        return await self._db.read(questions.list_tasks, query)

    async def search(self, query: ListQuery, matches: bool = True) -> Found:
        """A page of the tasks with all words of `text`, as far as they are indexed: see sql/search.py.

        Without `matches` no hit says where: many tasks are found without a look at what is said in them.
        Raises IndexDamaged, as `index` does next.
        """
        try:
            return await self._db.search(search.find, query, matches)
        except IndexDamaged:
            self._index_damaged = True
            raise

    async def index(self, wanted: bool = True) -> Indexed | None:
        """Bring the index of words after the tasks by a step, or empty it by one; None if there is no more.

        Transactions of some 5 ms. Raises IndexDamaged, after which `index_anew` helps.
        """
        if self._index_damaged:
            raise IndexDamaged("a search has found the index of words damaged")
        step = await (self._indexed() if wanted else self._unindexed())
        while step is not None and await self._db.write(search.merge):
            pass
        return step

    async def _indexed(self) -> Indexed | None:
        if not await self._db.read(search.is_behind):
            return None
        step = await self._db.write(search.index)
        return step if step.entries else None

    async def _unindexed(self) -> Indexed | None:
        done = 0 if await self._db.read(search.is_empty) else await self._db.write(search.forget)
        return Indexed(done) if done else None

    async def index_anew(self) -> None:
        """Empty the index of words, in transactions of some 5 ms; `index` fills it again.

        Until then nothing is found by words. Cut off, it is to be begun again.
        """
        while await self._db.write(search.take_apart):
            pass
        noted: int | None = 0
        while noted is not None:
            noted = await self._db.write(search.note_again, noted)
        await self._db.write(search.begin_anew)
        self._index_damaged = False

    async def positions(self, tasks: Sequence[Task]) -> Sequence[int | None]:
        """1 = next to run; None unless the task stands in line. O(log n) each.

        By priority and `queue.order` alone: it knows nothing of limits, of shares between tenants and of what
        has waited too long. With one tenant and no long waits that is the order; with several a task's turn
        may come before or after its place: the outlook knows more of the next 2,000 or so.
        """
        waiting = [task.id for task in tasks if task.state == State.QUEUED]
        found = await self._db.read(questions.positions, waiting, self._rules.order) if waiting else {}
        return [found.get(task.id) for task in tasks]

    async def line(self, also: tuple[int, str] | None = None) -> Line:
        """What decides whose turn it is, for a forecast; `also`: this priority of this tenant, too."""
        return await self._db.read(standing.line, self._rules, self._now(), also)

    async def ahead(self, priority: int) -> Mapping[int, int]:
        """How many tasks stand in line, by priority, of those with a higher one; the highest first."""
        return await self._db.read(questions.ahead, priority)

    async def running(self, tenant: str) -> int:
        """How many of its tasks are at work."""
        return await self._db.read(questions.running, tenant)

    async def remember(self) -> None:
        """At start: how long work took until the last stop."""
        self.measurements = Measurements(await self._db.read(measured.known))

    async def keep_measured(self) -> None:
        """Write what was measured since this was done last, if anything was."""
        if unkept := self.measurements.unkept():
            await self._db.write(measured.keep, unkept, self._now())

    async def segments(self, task_id: str, after: Mark = START) -> Sequence[tuple[Mark, Segment]]:
        """The transcript after `after`, up to the first chunk that is not finished."""
        return await self._db.read(questions.segments, task_id, after)

    async def settled(self, task_id: str) -> float:
        """The second of the audio before which nothing of the transcript changes any more.

        It is the start of the first unfinished chunk: the chunks of split channels overlap. Endless if there
        is none; only what `segments` says afterwards may be held against it.
        """
        return await self._db.read(questions.settled, task_id)

    async def peaks(self, task_id: str) -> bytes | None:
        """The waveform of its audio, as engine/peaks.py makes it; None where there is none (yet)."""
        return await self._db.read(questions.peaks, task_id)

    async def edit(self, task_id: str) -> Edit | None:
        """The corrected transcript; None where nobody has corrected it."""
        return await self._db.read(edits.find, task_id)

    async def correct(self, task_id: str, segments: Sequence[Segment], seen: str | None) -> None:
        """Keep a corrected transcript beside the original of a completed task.

        `seen`: the token of the edit that it corrects, None for the original. Raises EditedMeanwhile where
        that is not the latest, WrongState.
        """
        await self._db.write(edits.write, task_id, segments, seen)

    async def revert(self, task_id: str, seen: str | None) -> None:
        """Go back to the original. Raises as `correct`."""
        await self._db.write(edits.drop, task_id, seen)

    async def stats(self, tenant: str | None = None) -> Stats:
        """Of a tenant's tasks, or of all. Costs the same at ten tasks and at a million."""
        return await self._db.read(questions.stats, self._now(), tenant)

    async def stats_of_all(self, tenant: str | None = None) -> Stats:
        """The same: nobody else has a part in it."""
        return await self.stats(tenant)

    async def depths(self, tenants: int = 0) -> Depths:
        """Costs by the tenants and priorities of what is not over, not by the tasks."""
        return await self._db.read(questions.depths, tenants)

    async def change(self, task_id: str, change: Change) -> Task:
        """Raises WrongState unless it is queued. Brought into line, it may be completed like a twin."""
        return await self._moved(moves.change, task_id, change, self._rules, self._now())

    async def cancel(self, task_id: str) -> Task:
        """Those that follow it go on without it."""
        return await self._moved(moves.cancel, task_id, self._now())

    async def retry(self, task_id: str, plan: str | None = None) -> Task:
        """A failed or cancelled task runs again, attempts reset; its finished chunks are kept.

        Needs the room that another submission would. Raises WrongState, QueueFull, TenantQueueFull, by the
        limits of `plan`, or else of the one that is remembered: then nothing has changed.
        """
        return await self._moved(moves.retry, task_id, plan, self._rules, self._now())

    async def claim(self, who: Callable[[], Claimant] = Claimant) -> Chunk:
        """Wait for a chunk that may run now, and own it. A cancelled claim owns nothing.

        Unless what it had just taken cannot be given back: then it returns that and is not cancelled.
        `who` asks is looked up at each try. Of what it left it is noted if it is overtaken; it lets others
        who ask have what suits them, once.
        """
        gave_way = False
        while True:
            self._ready.clear()  # before looking, never after: else a submission can be missed
            asking = replace(who(), elsewhere=()) if gave_way else who()
            found = await self._claim_now(asking)
            if isinstance(found, Chunk):
                self._ready.set()  # pass the word on: there may be more
                return found
            gave_way = found == claims.GIVE_WAY
            await self._wait_ready(found)

    async def wanted(self) -> str:
        """Wait until a chunk may run now, and leave it there; returns the model that it needs."""
        while True:
            self._ready.clear()
            found = await self._db.read(claims.next_model, self._rules, self._now())
            if isinstance(found, str):
                self._ready.set()  # somebody who claims may have missed it meanwhile
                return found
            await self._wait_ready(found)

    async def _wait_ready(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ready.wait()

    async def _claim_now(self, who: Claimant = claims.NOBODY) -> Chunk | float:
        claiming = asyncio.ensure_future(self._take(who))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            if isinstance(chunk := await claiming, Chunk):
                try:
                    await self.release(chunk)
                except (StorageFull, StorageBusy, StorageFailed):
                    return chunk  # its owner must know of it: else it counts as lost once its lease is over
            raise

    async def _take(self, who: Claimant) -> Chunk | float:
        found, _ = await self._db.write(claims.take, self._rules, self._now(), who, then=self._told_of_claim)
        return found

    async def beat(self, chunk: Chunk) -> None:
        """Renew the lease. Raises LostClaim."""
        await self._db.write(holder.beat, chunk, self._now())

    async def plan(self, chunk: Chunk, plan: Plan, effort: Effort | None = None) -> Task:
        """Finish the plan: its chunks can be claimed. Finished chunks of an equal plan are kept."""
        task = await self._moved(holder.plan, chunk, plan, effort, self._now())
        if effort is not None:
            self.measurements.planned(chunk.task, plan, effort)
        return task

    async def finish(
        self,
        chunk: Chunk,
        segments: Sequence[Segment],
        warnings: Sequence[str] = (),
        effort: Effort | None = None,
    ) -> Task:
        """Commit a chunk's transcript; the last one completes the task. Raises LostClaim.

        `warnings` join those of the task, each once, and stay as long as the chunk's transcript does.
        """

        def told(tasks: Sequence[Task]) -> None:
            for task in tasks:  # it, and those that follow it
                self._events.publish(Event("segment", task, chunk.number, segments))
                self._events.publish(Event("progress", task))
            if tasks[0].state != State.PROCESSING:
                self.told_all(tasks)

        tasks = await self._db.write(holder.finish, chunk, segments, warnings, effort, self._now(), then=told)
        if effort is not None and chunk.cut is not None:
            self.measurements.transcribed(chunk.task, chunk.cut, effort)
        return tasks[0]

    async def fail(
        self, chunk: Chunk, problem: Problem, *, final: bool = False, effort: Effort | None = None
    ) -> Task:
        """Count a failure: the chunk runs again after a growing delay, or the task has failed."""
        delay = self._rules.delay(chunk.failures)
        task = await self._moved(holder.fail, chunk, problem, delay, final, effort, self._now())
        if task.state not in FINAL:
            self._counts.retried()
        return task

    async def release(self, chunk: Chunk, effort: Effort | None = None) -> Task:
        """Hand the chunk back unfinished, without blame."""
        return await self._db.write(holder.release, chunk, effort, self._now(), then=self._told)

    async def write_off(self, chunk: Chunk, effort: Effort) -> None:
        """Count the work on a chunk whose claim was lost while it was done, as by a cancel."""
        await self._db.write(holder.write_off, chunk, effort, self._now())

    async def replan(self, chunk: Chunk) -> Task:
        """Hand the chunk back and make the plan again: its decoded audio is gone."""
        return await self._db.write(holder.replan, chunk, self._now(), then=self._told)

    async def sweep(self, older_than: float, held: Sequence[Chunk] = ()) -> Sequence[Task]:
        """Take chunks whose holder has not beaten since `older_than` from it; each counts as a failure.

        Those that are `held` for certain are left alone, whatever a clock that was set says of them.
        """
        return await self._db.write(
            rescue.sweep, older_than, held, self._rules, self._now(), then=self.told_all
        )

    async def release_all(self) -> Sequence[Task]:
        """At the end of an orderly stop: what was begun waits in line again, and nobody is blamed.

        When no worker is at work any more. Where it fails, the next start's `recover` counts an interruption.
        """
        return await self._db.write(rescue.release_all, self._now(), then=self.told_all)

    async def recover(self) -> Sequence[Task]:
        """At start, when no worker can be at work: queue again what a dead daemon was processing.

        A chunk that was in work counts as failed. Returns the tasks that wait in line again.
        A wait between attempts that a clock set back would make longer than the longest is cut to that.
        """
        return await self._db.write(rescue.recover, self._rules, self._now(), then=self.told_all)

    async def clock_jumped(self, seconds: float) -> None:
        """Waits between attempts, leases and time limits go on as if the clock had not been set.

        What a user chose as `run_at` is a time of day, and stays. Nothing is awaited before the database
        has the order: verbs called before are in the old time, those called after in the new.
        """
        await self._db.write(rescue.clock_jumped, seconds, then=lambda _: self._ready.set())

    async def clear(
        self, states: Collection[State], finished_before: float, limit: int = 500
    ) -> Sequence[str]:
        """Delete up to `limit` tasks of these final states, the oldest first; other states are ignored.

        Returns their ids, whose audio has no owner any more. Empty: there are none left.
        """
        before = dict.fromkeys(states, finished_before)
        return await self._db.write(moves.clear, before, limit)

    async def prune(self, done_before: float, failed_before: float, limit: int = 500) -> Sequence[str]:
        """What retention asks for: old idempotency keys go, and tasks as with `clear`.

        `done_before` is for what was completed or cancelled. Both times should be cautious ones.
        """
        before = {
            State.COMPLETED: done_before,
            State.CANCELLED: done_before,
            State.FAILED: failed_before,
        }
        return await self._db.write(moves.prune, before, self._keys_after(), limit)

    async def states(self, ids: Sequence[str]) -> Mapping[str, State]:
        """The states of those of `ids` that are tasks."""
        return await self._db.read(questions.states, ids)

    def _keys_after(self) -> float:
        return self._cautious() - self._rules.idempotency_seconds

    async def _moved(self, verb: Callable[..., Sequence[Task]], *args: object) -> Task:
        """Do a verb that may move others too; returns the task it is about."""
        return (await self._db.write(verb, *args, then=self.told_all))[0]

    def _told(self, task: Task) -> None:
        self._ready.set()  # whatever changed: a task in line, a tenant under its limit again
        self._counts.told(task)
        self._events.publish(Event("task", task))

    def told_all(self, tasks: Sequence[Task]) -> None:
        """Tell whoever listens, after the commit, of tasks that have moved."""
        for task in tasks:
            self._told(task)

    def _told_of_drop(self, dropped: Sequence[Task]) -> None:
        for task in dropped[:1]:  # not counted: it is no end
            self._ready.set()
            self._events.publish(Event("left", task))
        self.told_all(dropped[1:])

    def _told_of_claim(self, taken: tuple[Chunk | float, Sequence[Task]]) -> None:
        found, ended = taken
        self.told_all(ended)
        if isinstance(found, Chunk):  # any: a task that waited for its next attempt goes on with any chunk
            self._counts.claimed(found)
            self._events.publish(Event("task", found.task))
