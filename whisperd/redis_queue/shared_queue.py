"""The queue as the outside sees it, where several hosts share one: what is submitted goes to all of them.

A task that this host runs, or has completed, is answered for from its own database; any other from its job in
Redis. It keeps nothing, and moves nothing: the shared queue and the local one do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from whisperd.job import Submitted
from whisperd.redis_queue import formats, stored
from whisperd.redis_queue.board import LostJob
from whisperd.redis_queue.client import RedisAway
from whisperd.redis_queue.idempotency import LEASE_SECONDS, Hold, KeyLost
from whisperd.redis_queue.parts import Common, Own
from whisperd.redis_queue.room import Asked
from whisperd.redis_queue.seen import Listed
from whisperd.redis_queue.stats import of_all
from whisperd.redis_queue.tally import Tally
from whisperd.s3 import S3Error
from whisperd.task import (
    FINAL,
    NO_LIMITS,
    START,
    Change,
    IdempotencyConflict,
    Kind,
    Limits,
    ListQuery,
    Mark,
    NewTask,
    NoRoom,
    QueueAway,
    Segment,
    State,
    Stats,
    StorageBusy,
    StorageFailed,
    StorageFull,
    Task,
    TaskNotFound,
    TranscriptElsewhere,
    WrongState,
)

log = structlog.get_logger(__name__)
LOOK_SECONDS = 0.25  # between looks for a task whose audio another host is storing


class SharedQueue:
    """A TaskQueue: what it does not say itself is the local one's. Raises QueueAway where Redis is needed."""

    def __init__(
        self,
        own: Own,
        common: Common,
        holds: Callable[[str], bool],
        key_seconds: float,
        tally: Callable[[], Tally | None] = lambda: None,
    ) -> None:
        """`holds`: whether this host is at work on a task, or owes its end. `tally`: of some seconds ago."""
        self._local, self._ledger, self._spool = own.queue, own.ledger, own.spool
        self._board, self._storage = common.board, common.storage
        self._holds = holds
        self._keys, self._key_seconds = common.board.keys, key_seconds
        self._tally = tally

    def __getattr__(self, name: str) -> Any:
        return getattr(self._local, name)

    async def check_room(
        self, tenant: str | None = None, plan: str | None = None, kind: Kind = Kind.TRANSCRIPTION
    ) -> Limits:
        """Each kind of job needs the room of any other: it takes a place on a host, too."""
        if trouble := self._board.trouble:
            raise RedisAway(trouble)
        limits = NO_LIMITS if tenant is None else await self.limits(tenant, plan)
        await self._board.check_room(self._asked(tenant, plan, limits))
        return limits

    async def limits(self, tenant: str, plan: str | None = None) -> Limits:
        """By the plan that was named last to any host; where none can be asked, to this one."""
        with suppress(QueueAway):
            plan = plan or await self._board.plan_of(tenant)
        return await self._local.limits(tenant, plan)

    async def per_minute(self, tenant: str, plan: str | None = None) -> int:
        return (await self.limits(tenant, plan)).per_minute if self._local.rules.paced else 0

    def _asked(self, tenant: str | None, plan: str | None, limits: Limits) -> Asked:
        most = self._local.rules.max_queued
        return Asked(
            tenant=tenant,
            plan=plan,
            queued=limits.queued,
            max_queued=most,
            concurrent=None if tenant is None else limits.concurrent,
        )

    async def first_of_key(self, new: NewTask) -> Task | None:
        """Not known before it is submitted: keys are in Redis, where to ask for one is to take it."""
        return None

    async def submit(self, new: NewTask) -> tuple[Task, bool]:
        """Its audio, or text, goes to the shared storage, then it to the shared queue: so it is accepted."""
        if (key := new.idempotency_key) is None:
            return await self._added(new), True
        value = f"{new.id} {new.body_sha256}"
        # The name of a tenant has no space in it.
        hold = self._keys.hold(f"{new.tenant} {key}", value, self._key_seconds)
        if (first := await self._first_of_key(hold)) is not None:
            return first, False
        try:
            return await self._added(new, hold), True
        except KeyLost:
            return await self._faster(hold), False
        except BaseException:  # cut off, too
            await self._give_back(hold)
            raise

    async def _give_back(self, hold: Hold) -> None:
        """Who comes again must not wait for what does not come. A key whose task was added is kept."""
        with suppress(QueueAway):
            await asyncio.shield(self._keys.give_back(hold))

    async def _faster(self, hold: Hold) -> Task:
        if (first := await self._first_of_key(hold)) is not None:
            return first
        await self._give_back(hold)
        raise RedisAway("another submission with this idempotency key was faster, and was not accepted")

    async def _added(self, new: NewTask, hold: Hold | None = None) -> Task:
        try:
            url = await self._keep(new)
        except S3Error as error:
            raise RedisAway(f"nothing can be accepted: {error}") from error
        self._spool.remove(new.id)  # before, never after: this host may take it at once, and fetch its audio
        try:
            await self._add(new, url, hold)
        except (NoRoom, KeyLost):
            await self._forget_sent(new, url)
            raise
        task = await self._of_job(new.id)
        if task is None:
            raise RedisAway("the shared queue has forgotten what it was told")
        return task

    async def _keep(self, new: NewTask) -> str:
        """Returns its URL."""
        if new.transcript is not None:
            return self._storage.result_url(new.transcript)
        if new.kind is Kind.TRANSCRIPTION:
            return await self._storage.keep_audio(new.id, self._spool.audio(new.id))
        return await self._storage.keep_audio(new.id, await asyncio.to_thread(msgspec.json.encode, new.said))

    async def _add(self, new: NewTask, url: str, hold: Hold | None) -> None:
        data, options = formats.to_job(new, url), formats.to_options(new, self._is_lifo)
        asked = self._asked(new.tenant, new.plan, await self.limits(new.tenant, new.plan))
        await self._board.add(new.id, formats.NAME, data, replace(asked, hold=hold), **options)
        await self._remember(Submitted(id=new.id, data=data, options=options, server=self._board.server))

    @property
    def _is_lifo(self) -> bool:
        return self._local.rules.order == "lifo"

    async def _forget_sent(self, new: NewTask, url: str) -> None:
        """Of what was refused. What cannot be removed goes with what no task has."""
        if new.transcript is None and (key := self._storage.key_of(url)):  # else it is a task's transcript
            with suppress(S3Error):
                await self._storage.remove([key])

    async def _remember(self, job: Submitted) -> None:
        """Until it is over, so that it can be told to a Redis that has lost it."""
        try:
            await self._ledger.submitted(job)
        except (StorageFull, StorageBusy, StorageFailed) as error:  # it is accepted all the same
            log.warning("a job is not remembered here", job=job.id, reason=str(error))

    async def is_here(self, transcription_id: str) -> bool:
        """Whether this host's own database answers for it, and for what looks through its transcript."""
        local = await self._here(transcription_id)
        return local is not None and self._knows(local)

    def _knows(self, transcription: Task) -> bool:
        return transcription.state is State.COMPLETED or self._holds(transcription.id)

    async def get(self, task_id: str) -> Task:
        local = await self._here(task_id)
        if local is not None and await self._answers(local):
            return local
        try:
            shared = await self._of_job(task_id)
        except QueueAway:
            if local is None:
                raise
            return local
        if (found := shared or local) is None:
            raise TaskNotFound(f"there is no task {task_id}")
        return found

    async def look(self, transcription_id: str) -> Task | None:
        """What came with its job to look through its transcript, as any host may see it."""
        seen = await self._board.look(transcription_id)
        looks = formats.all_shown(seen)[:-1] if seen else ()
        return looks[0] if looks else None

    async def _answers(self, local: Task) -> bool:
        if _comes_along(local):
            return await self.is_here(_job_of(local))
        return self._knows(local)

    async def list(self, query: ListQuery) -> Sequence[Task]:
        """By the time of their submission; those that Redis still knows."""
        page = await self._board.page(query.before, query.limit, partial(_has_fitting, query))
        tasks = [task for at, seen in page for task in formats.all_shown(seen, at) if _fits(query, task)]
        return tasks[: query.limit]

    async def segments(self, task_id: str, after: Mark = START) -> Sequence[tuple[Mark, Segment]]:
        local = await self._here(task_id)
        if local is not None and await self._answers(local):
            return await self._local.segments(task_id, after)
        asked = await self.get(task_id)
        transcript = await stored.find(self._storage, task_id, asked.tenant)
        if transcript is None:
            return await self._unwritten(task_id, local, after)
        if transcript.task.redact is not None and asked.redact is None:
            raise TranscriptElsewhere(f"the job of {task_id} does not say any more how it is to be shown")
        marked = [(Mark(1, n), segment) for n, segment in enumerate(transcript.segments, 1)]
        return [(mark, segment) for mark, segment in marked if mark > after]

    async def peaks(self, task_id: str) -> bytes | None:
        """Of what other hosts do, once it is over."""
        asked, local = await self.get(task_id), await self._here(task_id)
        if local is not None and local.tenant == asked.tenant and (kept := await self._local.peaks(task_id)):
            return kept
        return await stored.peaks(self._storage, task_id, asked.tenant)

    async def _unwritten(
        self, task_id: str, local: Task | None, after: Mark
    ) -> Sequence[tuple[Mark, Segment]]:
        """What is here of a task from before the queue was shared; of others it may be of an old try.

        Raises TranscriptElsewhere where nothing ever will be.
        """
        shared = await self._of_job(task_id)
        if shared is None:
            return [] if local is None else await self._local.segments(task_id, after)
        if shared.state is State.COMPLETED and shared.kind is Kind.TRANSCRIPTION:
            raise TranscriptElsewhere(f"{task_id} was done by another program, which kept its transcript")
        return []

    async def change(self, task_id: str, change: Change) -> Task:
        """Of a task that waits for some host, the priority only."""
        task = await self.get(task_id)
        await self._check_alone(task)
        if self._holds(_job_of(task)):
            return await self._local.change(task_id, change)
        if task.state is not State.QUEUED:
            raise WrongState(f"task {task_id} is {task.state}: it cannot be changed")
        if await self._board.look(task_id) is None:  # from before the queue was shared
            return await self._local.change(task_id, change)
        return await self._changed(task_id, change)

    async def correct(self, task_id: str, segments: Sequence[Segment], seen: str | None) -> None:
        """On this host, which has its transcript. Raises WrongState, EditedMeanwhile."""
        if (await self.get(task_id)).redact is not None:  # looks of all hosts go through the original
            raise WrongState(
                f"task {task_id} was submitted with redact: here it could not be shown corrected"
            )
        await self._local.correct(task_id, segments, seen)

    async def stats_of_all(self, tenant: str | None = None) -> Stats:
        """The counts are those of the last look that had an answer; before there was one, of this host."""
        local, tally = await self._local.stats(tenant), self._tally()
        return replace(local, is_shared=True) if tally is None else of_all(local, tally, tenant)

    async def _changed(self, task_id: str, change: Change) -> Task:
        if change.run_at is not None or change.metadata is not None:
            raise WrongState("of a task in the shared queue only the priority can be changed")
        if change.priority is not None:
            fields, priority = {"priority": change.priority}, formats.to_bullmq(change.priority)
            try:
                await self._board.change(task_id, fields, priority)
            except LostJob:
                raise WrongState(f"task {task_id} was begun or ended just now") from None
        return await self.get(task_id)

    async def cancel(self, task_id: str) -> Task:
        task = await self.get(task_id)
        if _comes_along(task):
            return await self._cancel_look(task, _job_of(task))
        if self._holds(task_id):
            return await self._local.cancel(task_id)
        verdict = await self._board.cancel(task_id)
        if verdict == "gone":  # from before the queue was shared
            return await self._local.cancel(task_id)
        if verdict == "over":
            raise WrongState(f"task {task_id} is {task.state}: it cannot be cancelled")
        return await self.get(task_id)

    async def _cancel_look(self, look: Task, transcription_id: str) -> Task:
        """The transcription goes on. Another host that has it hears of this at its next beat."""
        if self._holds(transcription_id):
            task = await self._local.cancel(look.id)
            with suppress(QueueAway):  # it is for whoever goes on with it, if this host does not
                await self._board.cancel_look(transcription_id)
            return task
        verdict = "over" if look.state in FINAL else await self._board.cancel_look(transcription_id)
        if verdict == "gone":  # from before the queue was shared
            return await self._local.cancel(look.id)
        if verdict == "over":
            raise WrongState(f"task {look.id} is {look.state}: it cannot be cancelled")
        return await self.get(look.id)

    async def _check_alone(self, task: Task) -> None:
        """Raises WrongState for what came with the job of its transcription."""
        if _comes_along(task) and await self._board.look(_job_of(task)) is not None:
            raise WrongState(f"task {task.id} runs with the transcription {task.transcript}: see to that one")

    async def retry(self, task_id: str, plan: str | None = None) -> Task:
        task = await self.get(task_id)
        await self._check_alone(task)
        if task.state not in (State.FAILED, State.CANCELLED) or self._holds(task_id):
            raise WrongState(f"task {task_id} is {task.state}: it cannot be retried")
        asked = self._asked(task.tenant, plan, await self.limits(task.tenant, plan))
        try:
            await self._board.retry(task_id, asked)
        except LostJob:
            return await self._local.retry(task_id, plan)
        seen = await self._board.look(task_id)
        if seen is not None and (job := formats.submitted_again(seen, self._board.server, self._is_lifo)):
            await self._remember(job)
        return await self.get(task_id)

    async def _first_of_key(self, hold: Hold) -> Task | None:
        """The task that came with this key before, or comes just now; None: the key is leased for this one.

        Raises IdempotencyConflict.
        """
        gone = ""
        for _ in range(round(LEASE_SECONDS / LOOK_SECONDS)):
            if (known := await self._keys.lease(hold, instead_of=gone)) is None:
                return None
            task_id, body, *leased = known.split(" ")
            if first := await self._of_job(task_id) or await self._here(task_id):
                if body != hold.value.partition(" ")[2]:
                    raise IdempotencyConflict("this idempotency key was used with another body")
                return first
            if leased:
                await asyncio.sleep(LOOK_SECONDS)
            else:  # Redis has forgotten it
                gone = known
        raise RedisAway("another submission with this idempotency key is still being stored")

    async def _here(self, task_id: str) -> Task | None:
        try:
            return await self._local.get(task_id)
        except TaskNotFound:
            return None

    async def _of_job(self, task_id: str) -> Task | None:
        seen = await self._board.look(task_id)
        if seen is None:
            transcription_id = formats.transcription_of(task_id)
            return await self.look(transcription_id) if transcription_id else None
        task = formats.shown(seen)
        if task.id not in (seen.id, task_id):  # it is found by that from now on, before any host has taken it
            await self._board.name(seen, task.id)
        return task


def _comes_along(task: Task) -> bool:
    """Whether it has no job of its own: that of its transcription is its, too."""
    return task.transcript is not None and task.id == formats.look_of(task.transcript)


def _job_of(task: Task) -> str:
    """The id of the task whose job it is."""
    return task.transcript if task.transcript is not None and _comes_along(task) else task.id


def _has_fitting(query: ListQuery, listed: Listed) -> bool:
    return any(_fits(query, task) for task in formats.all_shown(listed.seen, listed.at))


def _fits(query: ListQuery, task: Task) -> bool:
    return (
        (not query.states or task.state in query.states)
        and query.kind in (None, task.kind)
        and query.tenant in (None, task.tenant)
        and (query.before is None or task.seq < query.before)
        and (query.created_after is None or task.created_at >= query.created_after)
        and (query.created_before is None or task.created_at < query.created_before)
    )
