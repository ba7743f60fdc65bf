"""The bridge as a worker: jobs of the shared queue become tasks of this host's own.

It takes a job only while fewer are held than may run, so that all others wait in the shared queue, in its
order. What is held is beaten for every second, whatever its work does; a job that is lost is stopped here and
forgotten. What cannot be told, because Redis or the storage is away, is owed (see sql/jobs.py) and told once
it can be. Decides nothing about tasks: chunks, retries and events are the queue's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic

import structlog

from whisperd.events import tells_an_end
from whisperd.job import Job
from whisperd.look import MISSING
from whisperd.outbound import AnswerTooLarge, OutboundError, UrlRefused
from whisperd.redis_queue import formats
from whisperd.redis_queue.board import SERVED_SECONDS, LostJob, Taken
from whisperd.redis_queue.hints import heard
from whisperd.redis_queue.intake import Intake, NoTranscript
from whisperd.redis_queue.parts import Common, Own
from whisperd.redis_queue.reports import Reports
from whisperd.rulebooks import RiskMissing
from whisperd.s3 import S3Error, S3NotFound
from whisperd.spool import TooLarge
from whisperd.task import (
    FINAL,
    Kind,
    ModelUnusable,
    QueueAway,
    State,
    StorageBusy,
    StorageFailed,
    StorageFull,
    Task,
    TaskNotFound,
    WrongState,
)
from whisperd.turns import NoTurn

log = structlog.get_logger(__name__)
BEAT_SECONDS = 1.0  # so often a cancel is noticed, and progress told
AWAY_SECONDS = 1.0  # before Redis is asked again
LATER_SECONDS = 15.0  # before a job is taken again that could not be begun: storage away, disk full
_LATER = (S3Error, StorageFull, StorageBusy, StorageFailed, NoTurn, OutboundError, RiskMissing)


class Bridge:
    def __init__(
        self, own: Own, common: Common, intake: Intake, slots: Callable[[], int], sweep_seconds: float
    ) -> None:
        """`slots`: how many jobs may be held at a time; 0 while nothing is handed out."""
        self._own = own
        self._board, self._storage, self._checkpoints = common
        self._intake = intake
        self._slots = slots
        self._sweep_seconds = sweep_seconds
        self._reports = Reports(common.board, common.storage, own.queue, own.ledger)
        self._held: dict[str, Job] = {}  # by their keys: those whose audio is still to come, too
        self._tasks: dict[str, str] = {}  # the tasks of those that have one
        self._progress: dict[str, float] = {}  # as it was told last
        self._over = asyncio.Event()  # there may be more to tell
        self._room = asyncio.Event()  # one more may be held
        self.owed = 0  # jobs whose end was still to be told, at the last look
        self.lost = 0  # jobs, to other hosts, since the start
        self._draining = False
        self._leaves_at: float | None = None  # monotonic: by then nothing is held; None: jobs are taken

    def drain(self) -> None:
        """Take nothing more; what is held is gone on with by the next start."""
        self._draining = True

    def leave(self, seconds: float) -> None:
        """Take nothing more, and hand back what nobody has begun; what runs, too, after so long."""
        self._leaves_at = monotonic() + seconds

    def take_again(self) -> None:
        self._leaves_at = None
        self._room.set()

    def holds(self, task_id: str) -> bool:
        """Whether this host is at work on a task, or owes its end."""
        return task_id in self._tasks.values()

    def held(self) -> Mapping[str, Job]:
        """By their keys: the jobs that this host is at work on, or owes the end of."""
        return self._held

    async def run(self) -> None:
        """For ever. Cut off, it leaves in the database what it holds and owes."""
        for task_id, job in (await self._own.ledger.held()).items():  # of the last start
            self._hold(job, task_id)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat_all(), name="jobs-beat")
            group.create_task(self._listen(), name="jobs-listen")
            group.create_task(self._report(), name="jobs-report")
            group.create_task(self._sweep(), name="jobs-sweep")
            group.create_task(self._serve(), name="jobs-serve")
            group.create_task(self._checkpoints.run(self._tasks.values), name="jobs-checkpoints")
            group.create_task(self._hand_back(), name="jobs-hand-back")
            while not self._draining:
                if taken := await self._next():
                    self._hold(taken.job)
                    group.create_task(self._begin(taken), name=f"job {taken.job.id}")

    def _hold(self, job: Job, task_id: str | None = None) -> None:
        self._held[job.key] = job
        if task_id is not None:
            self._tasks[job.key] = task_id

    def _let_go(self, job: Job) -> None:
        """Unless it was taken anew."""
        if self._held.get(job.key) == job:
            for known in (self._held, self._tasks, self._progress):
                known.pop(job.key, None)
            self._room.set()

    # --- taking ---

    async def _next(self) -> Taken | None:
        if self._leaves_at is not None or len(self._held) >= self._slots():
            await heard(self._room)
            return None
        try:
            if taken := await self._board.take():
                return taken
            await self._board.wait()
        except QueueAway:
            await asyncio.sleep(AWAY_SECONDS)
        return None

    async def _begin(self, taken: Taken) -> None:
        """Make the job a task. What can be said of it at once, is."""
        try:
            if taken.refusal:
                await self._refuse(taken.job, taken.refusal)
            else:
                await self._run(taken)
        except (LostJob, QueueAway):  # its lock runs out, if it has not: then it is taken again
            self._let_go(taken.job)
        except Exception as error:  # an edge: one job must not end them all
            log.error("a job of the shared queue cannot be begun", job=taken.job.id, exc_info=error)
            await self._put_off(taken.job)

    async def _run(self, taken: Taken) -> None:
        try:
            asked = formats.read(taken.data)
            if asked.task_id != taken.job.id:
                await self._name(taken.job, asked)
            if (result := await self._storage.result(asked.task_id)) is None:
                await self._take_on(taken, asked)
            else:  # another host was faster
                await self._reports.tell_result(taken.job, asked.task_id, result)
                self._checkpoints.completed(asked.task_id)
                self._let_go(taken.job)
        except (formats.Malformed, UrlRefused, AnswerTooLarge, TooLarge) as error:
            await self._refuse(taken.job, f"invalid_field: {error}")
        except NoTranscript as error:
            await self._without(taken.job, str(error))
        except S3NotFound as error:
            await self._refuse(taken.job, f"audio_gone: {error}")
        except ModelUnusable as error:
            await self._refuse(taken.job, f"model_not_found: {error}")
        except _LATER as error:
            log.warning("a job is put off", job=taken.job.id, reason=str(error))
            await self._put_off(taken.job)

    async def _take_on(self, taken: Taken, asked: formats.OurJob | formats.TheirJob) -> None:
        new = await self._intake.task_of(asked, taken.priority)
        # Not by how often it was begun: a Redis that has lost it, and was told again, counts anew.
        is_here = await self._own.queue.states([new.id])
        known = None if is_here else await self._checkpoints.find(new.id)
        await self._own.queue.take(new, taken.job, known)
        self._hold(taken.job, new.id)
        if taken.look_cancelled:
            await self._cancel_look(new.id)
        self._over.set()  # it may be over already: the copy of a twin
        if new.kind is Kind.TRANSCRIPTION:
            await self._check_audio(taken.job, new.id)

    async def _name(self, job: Job, asked: formats.OurJob | formats.TheirJob) -> None:
        """Let it be found by its task. Raises Malformed where that has a job of its own."""
        other = await self._board.look(asked.task_id)
        is_there = other is not None and other.id == asked.task_id and "task_id" in other.data
        if is_there and isinstance(asked, formats.TheirJob):
            raise formats.Malformed(formats.ANOTHERS)
        await self._board.name(job, asked.task_id)

    async def _check_audio(self, job: Job, task_id: str) -> None:
        """It may have gone with the same task, of which this host had lost the job just before."""
        has_audio = await asyncio.to_thread(self._own.spool.has_audio, task_id)
        if not has_audio and await self._own.queue.drop(task_id, job):
            await self._put_off(job)

    async def _without(self, job: Job, transcription_id: str) -> None:
        """Its transcript is not there: it is waited for as long as it may come."""
        seen = await self._board.look(transcription_id)
        if seen is None or formats.shown(seen).state in FINAL:
            await self._refuse(job, f"{MISSING.code}: {MISSING.message}")
        else:
            await self._put_off(job)

    async def _refuse(self, job: Job, why: str) -> None:
        await self._board.fail(job, why, final=True)
        self._let_go(job)

    async def _put_off(self, job: Job) -> None:
        with suppress(LostJob, QueueAway):
            await self._board.hand_back(job, LATER_SECONDS)
        self._let_go(job)

    # --- holding ---

    async def _beat_all(self) -> None:
        while True:
            for job in list(self._held.values()):
                try:
                    await self._beat(job)
                except QueueAway:
                    break  # what runs goes on
                except (StorageFull, StorageBusy, StorageFailed):
                    continue
            await asyncio.sleep(BEAT_SECONDS)

    async def _beat(self, job: Job) -> None:
        verdict, task_id = await self._board.beat(job), self._tasks.get(job.key)
        if task_id is None:
            return
        if verdict == "lost":
            await self._lose(job, task_id)
        elif verdict == "cancelled":
            await self._own.queue.cancel_job(task_id)
        elif verdict in ("held", "look_cancelled"):
            if verdict == "look_cancelled":
                await self._cancel_look(task_id)
            await self._tell_progress(job, task_id)

    async def _cancel_look(self, task_id: str) -> None:
        """Unless it is over."""
        with suppress(WrongState, TaskNotFound):
            await self._own.queue.cancel(formats.look_of(task_id))

    async def _lose(self, job: Job, task_id: str) -> None:
        """Stop it, unless it is over: then it is told, maybe in vain."""
        if await self._own.queue.drop(task_id, job):
            log.warning("a job was lost to another host, and is stopped here", job=job.id, task_id=task_id)
            self.lost += 1
            self._own.spool.discard([task_id])
            self._let_go(job)
        else:
            self._over.set()

    async def _tell_progress(self, job: Job, task_id: str) -> None:
        with suppress(TaskNotFound):
            percent = round((await self._own.queue.get(task_id)).progress * 100, 1)
            if percent > self._progress.get(job.key, 0.0):
                await self._board.progress(job, percent)
                self._progress[job.key] = percent

    async def _sweep(self) -> None:
        while True:
            with suppress(QueueAway):
                await self._board.sweep()
                await self._board.tidy()
                rules = self._own.queue.rules
                await self._board.limit(rules.limits)
                if seconds := rules.max_wait_seconds:
                    await self._board.raise_old(seconds)
            await asyncio.sleep(self._sweep_seconds)

    async def _serve(self) -> None:
        """Whoever submits can see whether somebody will do it."""
        while True:
            if self._leaves_at is None and self._slots():
                with suppress(QueueAway):
                    await self._board.serve()
            await asyncio.sleep(SERVED_SECONDS / 3)

    # --- handing back ---

    async def _hand_back(self) -> None:
        while True:
            if self._leaves_at is not None and self._held:
                late = monotonic() >= self._leaves_at or not self._slots()  # then nobody goes on with it here
                with suppress(StorageFull, StorageBusy, StorageFailed, TaskNotFound):
                    for task_id, job in (await self._own.ledger.held()).items():
                        await self._return(job, task_id, late=late)
            await asyncio.sleep(BEAT_SECONDS)

    async def _return(self, job: Job, task_id: str, *, late: bool) -> None:
        """Unless somebody is at work on it. Where Redis is away, its lock runs out."""
        task = await self._own.queue.get(task_id)
        if (late or task.state is State.QUEUED) and await self._own.queue.drop(task_id, job):
            log.info("a job is handed back", job=job.id, task_id=task_id)
            self._own.spool.discard([task_id])
            with suppress(LostJob, QueueAway):
                await self._board.hand_back(job, 0)
            self._let_go(job)

    # --- telling ---

    async def _listen(self) -> None:
        """Events are hints: after having fallen behind there may be more to tell than was heard of."""
        while not self._own.events.closed:
            with self._own.events.subscribe(wants=tells_an_end) as subscription:
                self._over.set()
                async for _ in subscription:
                    self._over.set()

    async def _report(self) -> None:
        while True:
            with suppress(StorageFull, StorageBusy, StorageFailed):
                owed = await self._own.ledger.owed()
                self.owed = len(owed)
                for job, task in owed:
                    await self._tell(job, task)
            await heard(self._over)

    async def _tell(self, job: Job, task: Task) -> None:
        try:
            await self._reports.tell(job, task)
            if task.state is State.COMPLETED:
                self._checkpoints.completed(task.id)
        except LostJob:
            log.warning("what became of a job is not wanted any more", job=job.id, task_id=task.id)
            self.lost += 1
        except (QueueAway, S3Error) as error:
            log.debug("the end of a job is told later", job=job.id, task_id=task.id, reason=str(error))
            return
        except Exception as error:  # an edge: said again, it would fail again
            log.error("the end of a job cannot be told", job=job.id, task_id=task.id, exc_info=error)
        await self._own.ledger.told(job)
        self._let_go(job)
