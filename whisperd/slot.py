"""A slot: one coroutine that owns one child process and runs one chunk at a time.

Has its child do the chunks it holds (see holding.py), stops what was cancelled, replaces the child when it
died, grew too large or ran out of memory. Of the other slots it knows only what they share.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic

import structlog
from msgspec import Struct
from structlog.contextvars import bind_contextvars, unbind_contextvars

from whisperd import children, orders
from whisperd.canary import Canary
from whisperd.children import OUT_OF_MEMORY, Child, ChildDied, Outcome
from whisperd.conversation import Conversation
from whisperd.counts import Counts
from whisperd.engine.protocol import Refused, Settings
from whisperd.holding import STORAGE_RETRY, Holding
from whisperd.orders import Model, PoolSettings
from whisperd.residency import Residency
from whisperd.restarts import BLAMELESS, CANCELLED, PLANNED, TIMEOUT, Restart, Restarts
from whisperd.restraint import Restraint
from whisperd.spool import Spool
from whisperd.task import (
    Chunk,
    Claimant,
    Death,
    Effort,
    ModelUnusable,
    Problem,
    StorageBusy,
    StorageFailed,
    StorageFull,
    TaskError,
    TaskQueue,
)

log = structlog.get_logger(__name__)
MOST_OVER = 1000  # tasks whose end is remembered; one that is forgotten is missed at the next beat
AWAKE_SECONDS = 0.25  # between two looks whether another takes what there is to do
LONGEST_RESTART = 30.0  # seconds between two starts of a child that keeps dying; 0.2 after the first death
DOUBLINGS = 8  # of these 0.2 s, which are past the longest by then; 2 to the deaths of a week fits no float
_BOUND = ("task_id", "chunk")  # to what is logged from a claim until the next one, or the end of the child
STUCK_SECONDS = 300.0  # for one start, which ends itself after children.START_SECONDS


class PoolFailed(Exception):
    """No child could be started when the pool began: a new try would end the same way."""


class WorkerInfo(Struct, frozen=True, kw_only=True):
    """One worker as /workers shows it. `real_time_factor`: compute time ÷ audio time, of all its chunks."""

    id: int
    pid: int | None
    state: str  # starting | idle | busy | asleep (no work) | resting (memory ran out) | stopped (no storage)
    model: str | None
    task_id: str | None
    chunk: int | None
    rss_bytes: int | None
    tasks_done: int
    chunks_done: int
    real_time_factor: float | None
    restarts: int
    restarts_by_cause: dict[str, int]
    last_restart: Restart | None
    silent_seconds: float | None  # at a chunk: since its last sign of life
    canary_seconds: float | None  # that a second of sound took, of the last canary

    @property
    def is_up(self) -> bool:
        """Whether it is at work, or begins what there is to do."""
        return self.state in ("idle", "busy", "asleep")


@dataclass(slots=True)
class Shared:
    """What the slots of a pool share."""

    queue: TaskQueue
    spool: Spool
    find_model: Callable[[str], Awaitable[Model]]
    default_model: str
    settings: PoolSettings
    restraint: Restraint
    counts: Counts
    slots: list[Slot] = field(default_factory=list)
    draining: asyncio.Event = field(default_factory=asyncio.Event)  # claim nothing more
    resumed: asyncio.Event = field(default_factory=asyncio.Event)  # not paused
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # a worker is, or was
    restarts: Restarts = field(default_factory=Restarts)  # of all of them, those that have left too
    over: dict[str, None] = field(default_factory=dict)  # the tasks that ended last, by id

    def note(self, task_id: str, *, over: bool) -> None:
        """What is heard of a task, for a slot that has claimed a chunk of it and has not begun it."""
        self.over.pop(task_id, None)
        if over:
            self.over[task_id] = None
        if len(self.over) > MOST_OVER:
            del self.over[next(iter(self.over))]

    def poke(self) -> None:
        for slot in self.slots:
            slot.poke()

    def awake(self) -> int:
        """How many slots have a process, or start one."""
        return sum(not (slot.leaving or slot.asleep) for slot in self.slots)

    def home_model(self, number: int) -> str:
        """That the worker starts with."""
        names = self.settings.preload or (self.default_model,)
        return names[(number - 1) % len(names)]


class Slot:
    def __init__(self, shared: Shared, number: int) -> None:
        self._shared = shared
        self.number = number
        self._holding = Holding(shared.queue, number, shared.counts)
        self._conversation = Conversation(self._holding)
        self.canary = Canary(number)
        self.leaving = False  # to end once its chunk is finished
        self._poked = asyncio.Event()  # something changed: look again
        self._child: Child | None = None
        self._has_process = False  # from before a child is started until it is gone
        self._blamed = False  # the last death was put down to the chunk in work
        self._alone = False  # no other slot had a process when the chunk in work began
        self._state = "starting"
        self._state_since = monotonic()
        self._residency = Residency()
        self._residency.asleep = shared.settings.least is not None and shared.awake() >= shared.settings.least
        self._deaths = 0  # since a child answered
        self._restarts = Restarts()

    async def run(self) -> None:
        while not self._over:
            try:
                await self._rest()
                await self._doze()
                if not self._over:
                    async with self._ready_child() as child:
                        await self._serve(child)
            except ChildDied as died:
                await self._mourn(died)
            except (StorageFailed, StorageFull, StorageBusy) as failed:
                await self._outlast(failed)
        self._enter("stopped")

    def leave(self) -> None:
        """End after the chunk in work."""
        self.leaving = True
        self._shared.restraint.forget(self.number)
        self.canary.give_way()
        self.poke()

    def test(self) -> None:
        """Have its child transcribe a second of sound, unless there is real work."""
        self.canary.wanted = True
        self.poke()

    def poke(self) -> None:
        """Have it look again at what it is to do."""
        self._poked.set()

    def abort(self) -> None:
        """Stop the chunk in work: ask the child, and kill it if it does not obey in time."""
        self._conversation.abort()

    @property
    def chunk(self) -> Chunk | None:
        """What it holds: also while no child works on it, until the queue has taken note of its outcome."""
        return self._holding.chunk

    @property
    def asleep(self) -> bool:
        return self._residency.asleep

    @property
    def resting(self) -> bool:
        return self._shared.restraint.rests(self.number)

    @property
    def free(self) -> bool:
        """Whether it waits for a chunk, with a child that has its model."""
        return self._state == "idle" and self.loaded is not None and not self.canary.sings

    @property
    def loaded(self) -> str | None:
        """The name of the model that its child has."""
        return self._residency.name if self._residency.model is not None else None

    @property
    def takes_chunks(self) -> bool:
        return not (self.leaving or self.resting or self._state == "stopped")

    @property
    def about_to_claim(self) -> bool:
        """Whether it takes the next chunk, now or once its child has started."""
        starts = self._state == "starting" and not self._deaths
        return self.takes_chunks and (starts or self.free)

    @property
    def has_process(self) -> bool:
        return self._has_process and not (self._child is not None and self._child.ended)

    @property
    def stuck(self) -> bool:
        """Whether the storage has failed, or one start of a child, or its end, is longer than it can be."""
        if self._state == "stopped":
            return not self._over
        return self._state == "starting" and monotonic() - self._state_since > STUCK_SECONDS

    def info(self) -> WorkerInfo:
        silent = self._conversation.silent_seconds
        return WorkerInfo(
            id=self.number,
            pid=self._child.pid if self._child else None,
            state=self._state,
            model=self._residency.name,
            task_id=self.chunk.task.id if self.chunk else None,
            chunk=self.chunk.number if self.chunk else None,
            rss_bytes=self._child.rss_bytes() if self._child else None,
            tasks_done=self._holding.tasks_done,
            chunks_done=self._holding.chunks_done,
            real_time_factor=self._holding.real_time_factor,
            restarts=self._restarts.by_cause.total(),
            restarts_by_cause=dict(self._restarts.by_cause),
            last_restart=self._restarts.last,
            silent_seconds=None if silent is None else round(silent, 1),
            canary_seconds=self.canary.seconds,
        )

    @property
    def _over(self) -> bool:
        return self.leaving or self._shared.draining.is_set()

    def _enter(self, state: str) -> None:
        self._state, self._state_since = state, monotonic()

    async def _sleep(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Sleep, but not into a shutdown, nor on when `until` has come true with a poke."""
        ends = monotonic() + seconds
        while not self._over and not until() and (left := ends - monotonic()) > 0:
            self._poked.clear()  # before the next look, never after: else a poke can be missed
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._poked.wait()

    async def _outlast(self, failed: TaskError) -> None:
        """Wait, without a child, until the queue can be written again: for ever where the database is lost.

        The daemon stays up to say so, and its watchdog restarts it once all slots wait here. What cannot be
        handed back stays held.
        """
        log.critical("the queue cannot be used", worker=self.number, error=str(failed))
        self._enter("stopped")
        await self._holding.hand_back()
        await self._sleep(STORAGE_RETRY)
        while not self._over and not await self._holding.storage_answers():
            await self._sleep(STORAGE_RETRY)

    # --- the child ---

    async def _rest(self) -> None:
        """Work with one child fewer while memory is short."""
        while self.resting and not self._over:
            self._enter("resting")
            await self._sleep(self._shared.restraint.seconds_left(), until=lambda: not self.resting)
        if self._state == "resting":
            log.info("a resting worker works again", worker=self.number)

    async def _doze(self) -> None:
        """Once asleep: no child until there is work that no other is about to take, or too few have one."""
        while self._residency.asleep and not self._over:
            self._enter("asleep")
            if self._shared.awake() < (self._shared.settings.least or 0):
                self._residency.wake(None)
            elif (model := await self._wanted()) is None:
                continue
            elif not any(slot.about_to_claim for slot in self._shared.slots) and self._is_tempted():
                self._residency.wake(model)
            else:
                await self._sleep(AWAKE_SECONDS)

    def _is_tempted(self) -> bool:
        """Work that others take a moment later is no reason to start a process."""
        patience = self._shared.settings.patience_seconds
        return self._residency.tempted(patience, 2 * AWAKE_SECONDS)

    async def _wanted(self) -> str | None:
        """The model of a chunk that may run now; None after a poke."""
        self._poked.clear()  # before looking, never after: else a poke can be missed
        if self._over:
            return None
        return await self._holding.wanted(self._shared.resumed, self._poked.wait())

    @asynccontextmanager
    async def _ready_child(self) -> AsyncIterator[Child]:
        self._enter("starting")
        self._has_process, self._blamed = True, False
        try:
            async with children.started(await self._child_settings(), self._shared.settings.command) as child:
                self._child = child
                self._shared.ready.set()
                self.canary.began()
                try:
                    yield child
                finally:
                    self._child = None
                    self._residency.loses()
                    self._enter("starting")  # with its end, which is waited for
        finally:
            self._has_process = False

    async def _child_settings(self) -> Settings:
        name = self._residency.wanted or self._shared.home_model(self.number)
        self._residency.name, self._residency.wanted = name, None  # a child that dies of it gets another
        try:
            model = await self._shared.find_model(name)
        except ModelUnusable as unusable:
            raise ChildDied(Problem("model_unusable", str(unusable))) from unusable
        self._residency.holds(name, model)
        return orders.child_settings(model, self._shared.settings, self.number)

    async def _mourn(self, died: ChildDied) -> None:
        """Wait before the next start, longer each time, unless none ever worked at all."""
        if self._over:
            return
        code = died.problem.code
        self._count_restart(code.removeprefix("worker_"))
        say = log.info if code in BLAMELESS else log.warning
        say("worker died", worker=self.number, cause=code, message=str(died))
        unbind_contextvars(*_BOUND)
        if code == OUT_OF_MEMORY and not self._blamed:
            self._step_down(None)
        if self.resting or code in BLAMELESS:
            return
        if not self._shared.ready.is_set():
            raise PoolFailed(f"a worker could not start: {died}") from died
        self._enter("starting")
        await self._sleep(min(LONGEST_RESTART, 0.2 * 2 ** min(self._deaths, DOUBLINGS)))
        self._deaths += 1

    def _count_restart(self, cause: str) -> None:
        self._restarts.note(cause)
        self._shared.restarts.note(cause)

    # --- its chunks ---

    async def _serve(self, child: Child) -> None:
        """Work until the pool drains, the child has grown too large, or there was no work for long."""
        self._residency.worked()
        while not self._over and not self._outgrown(child) and not self._falls_asleep():
            self._enter("idle")
            unbind_contextvars(*_BOUND)
            try:
                chunk = await self._claim(child)
                if child.ended:
                    await self._holding.release()
                    raise ChildDied(child.cause_of_death())
                if chunk is None and self.canary.wanted:
                    await self._test(child)
                elif chunk is not None:
                    self.canary.wanted = False
                    self._enter("busy")
                    bind_contextvars(task_id=chunk.task.id, chunk=chunk.number)
                    await self._work(child, chunk)
                    self._residency.worked()
            except asyncio.CancelledError:
                await asyncio.shield(self._holding.hand_back())
                raise

    def _outgrown(self, child: Child) -> bool:
        """Whether the child is to be replaced for its size. A new one always gets its first chunk."""
        most = self._shared.settings.max_rss_bytes
        if not most or not child.has_worked or (rss := child.rss_bytes() or 0) <= most:
            return False
        log.info("a worker is replaced for its size", worker=self.number, rss_bytes=rss, max_rss_bytes=most)
        self._count_restart(PLANNED)
        return True

    def _falls_asleep(self) -> bool:
        """Whether it had nothing to do for long. What it would take to begin anew is another's to tell."""
        if self._residency.idle_left(self._ttl_seconds()) > 0:
            return False
        log.info("a worker lets go of its model", worker=self.number, model=self._residency.name)
        self._residency.fall_asleep()
        return True

    def _ttl_seconds(self) -> float:
        """As long as the others would be enough without it; 0: it stays."""
        settings = self._shared.settings
        return settings.ttl_seconds if self._shared.awake() > (settings.least or 0) else 0.0

    def _claimant(self) -> Claimant:
        others = (slot.loaded for slot in self._shared.slots if slot is not self and slot.free)
        return Claimant(
            model=self.loaded,
            stays=self._residency.stays(self._shared.settings.affinity_seconds),
            elsewhere=frozenset(filter(None, others)),
        )

    async def _claim(self, child: Child) -> Chunk | None:
        """The next chunk; None after a poke, at the child's death, without storage, or to fall asleep."""
        self._poked.clear()  # before looking, never after: else a poke can be missed
        if self._over or self.canary.wanted:
            return None
        settings, resumed = self._shared.settings, self._shared.resumed
        until = [self._poked.wait(), child.gone()]
        if ttl_seconds := self._ttl_seconds():
            until.append(asyncio.sleep(self._residency.idle_left(ttl_seconds)))
        try:
            chunk = await self._holding.claim(self._claimant, resumed, *until)
        except (StorageFull, StorageBusy) as error:
            log.warning("the queue cannot be written", worker=self.number, error=str(error))
            await self._sleep(STORAGE_RETRY)
            return None
        if chunk is not None:
            self._residency.claimed(settings.affinity_seconds)
        return chunk

    async def _test(self, child: Child) -> None:
        """With the model that the child has: to load another would be in the way of real work."""
        self.canary.wanted, settings = False, self._shared.settings
        if (model := self._residency.model) is not None:
            request = orders.canary_request(self._conversation.next_number(), model, settings)
            await self.canary.sing(child, request, orders.canary_limits(settings))

    async def _work(self, child: Child, chunk: Chunk) -> None:
        try:
            outcome = await self._converse(child, chunk)
        except ChildDied as died:
            child.kill()  # now: it must not use memory any more when its chunk is tried again
            await child.gone()
            blameless = died.problem.code in BLAMELESS
            death = None if blameless else Death(died.problem, child.last_words())
            await self._blame(chunk, died.problem, self._effort(child, death))
            raise
        except ModelUnusable as unusable:
            await self._holding.fail(Problem("model_unusable", str(unusable)), final=True)
        else:
            self._shared.restraint.acquit(_key(chunk))
            self._deaths = 0  # whatever it said, the child is well
            self.canary.well()
            await self._holding.record(outcome, self._effort(child))
            if isinstance(outcome, Refused) and outcome.then == "wait":
                await self._sleep(STORAGE_RETRY)

    def _effort(self, child: Child, death: Death | None = None) -> Effort:
        return Effort(
            worker=self.number,
            seconds=monotonic() - self._conversation.asked_at,
            device=child.device,
            threads=self._shared.settings.threads,
            death=death,
        )

    async def _converse(self, child: Child, chunk: Chunk) -> Outcome:
        """Have the chunk done, within the time of its task. Safe to cancel."""
        ends = orders.task_ends(chunk)
        model, settings = await self._shared.find_model(chunk.task.model), self._shared.settings
        self._residency.holds(chunk.task.model, model)
        number = self._conversation.next_number()
        request = orders.request(chunk, number, model, self._shared.spool, settings)
        self._alone = self._is_alone()
        is_over = chunk.task.id in self._shared.over  # since its claim
        return await self._conversation.have_done(child, request, ends, settings, is_over=is_over)

    # --- what its child died of ---

    async def _blame(self, chunk: Chunk, problem: Problem, effort: Effort) -> None:
        self._blamed = True
        if problem.code == OUT_OF_MEMORY:
            await self._ran_out_of_memory(chunk, problem, effort)
            return
        self._shared.restraint.acquit(_key(chunk))
        if problem.code == CANCELLED:
            await self._holding.release(effort)  # as if the child had said that it stopped
        else:
            await self._holding.fail(problem, effort, final=problem.code == TIMEOUT)

    async def _ran_out_of_memory(self, chunk: Chunk, problem: Problem, effort: Effort) -> None:
        """Nobody is to blame while others used memory too: the chunk is tried again with one worker fewer.

        A chunk for which it was not enough a second time, with all of it to itself, ends its task. So does
        one that never has it to itself, since others wake each time, after max(2, workers) tries and one.
        """
        restraint, most = self._shared.restraint, max(2, self._shared.settings.workers)
        tries = restraint.suspect(_key(chunk))
        if tries > most or (tries > 1 and self._alone and self._is_alone()):
            restraint.convict(_key(chunk))
            self._shared.poke()
            await self._holding.fail(problem, effort, final=True)
        else:
            self._step_down(_key(chunk))
            await self._holding.release(effort)

    def _step_down(self, chunk: tuple[int, int] | None) -> None:
        """Rest, unless no other slot would go on; or this one ends anyway, and another gets its number."""
        others = [slot for slot in self._shared.slots if slot is not self and not slot.leaving]
        working = sum(not slot.resting for slot in others)
        if working and not self.leaving:
            self._shared.restraint.rest(self.number, chunk)
            log.warning("out of memory: a worker rests", worker=self.number, workers_left=working)

    def _is_alone(self) -> bool:
        return not any(slot.has_process for slot in self._shared.slots if slot is not self)


def _key(chunk: Chunk) -> tuple[int, int]:
    return chunk.task.seq, chunk.number
