"""The rules of sql/claims.py and their triggers, played through to the end without the work.

Pure. Whoever changes a rule of the claim changes it here too: tests/test_forecast.py plays the one against
the other. It knows nothing of tasks still to come, of failures, of how long the work really takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf

from whisperd.forecast.line import Forecast, InWork, Line, Share, Span, Standing, Tenant, Work

PLAN_SECONDS = 1.0  # what a plan counts in a share, as in the claim
MOST_CLAIMS = 5000  # that are played; the rest follows at the pace until then


def forecast(
    line: Line,
    workers: int,
    in_work: Sequence[InWork],
    work: Callable[[Standing], Work],
    most_claims: int = MOST_CLAIMS,
) -> Forecast:
    """What comes with so many workers, those that have a chunk among them."""
    return _Play(line, in_work, work).through(workers, most_claims)


class _Happens(Enum):
    DUE = 0  # a task comes into line
    PLANNED = 1
    DONE = 2  # one of its chunks


class _Task:
    """A task that is played. `turn`: where it stands in line."""

    def __init__(self, of: Standing, work: Work, turn: _Turn) -> None:
        self.of, self.work, self.turn = of, work, turn
        self.leader: _Task | None = None
        self.followers: list[_Task] = []
        self.started = of.started
        self.due = of.run_at is None
        self.lined_at = of.lined_at
        self.to_plan = work.plan is not None and of.waiting > 0
        self.to_come = work.chunks if work.plan is not None else 0
        self.waiting = work.chunks if work.plan is None else int(self.to_plan)
        self.in_work = 0
        self.begins = self.ends = inf

    @property
    def offered(self) -> bool:
        """Whether it stands in line, for itself or for the one that it follows."""
        return self.due and (self.leader.offered if self.leader else self.waiting > 0)

    @property
    def left(self) -> float:
        """Seconds that nobody has begun."""
        plan = self.work.plan or 0.0 if self.to_plan else 0.0
        return plan + (self.to_come + (0 if self.to_plan else self.waiting)) * self.work.each


class _Turn:
    """A tenant at a priority. Its heaps hold also what has left since: whoever looks drops that."""

    def __init__(self, priority: int, tenant: str, vtime: float, known: int | None = None) -> None:
        self.priority, self.tenant, self.vtime = priority, tenant, vtime
        self.may_leave = inf if known is None else known  # before what is next is not known any more
        self.offered = [0, 0]  # tasks that are not started, that are
        self.by_seq: tuple[list[_Entry], ...] = ([], [])
        self.by_age: tuple[list[_Entry], ...] = ([], [])


_Entry = tuple[float, int, _Task]


class _Play:
    def __init__(self, line: Line, in_work: Sequence[InWork], work: Callable[[Standing], Work]) -> None:
        self._line = line
        self._now = line.now
        self._level = dict(line.levels)
        self._processing = {name: tenant.processing for name, tenant in line.tenants.items()}
        self._happens: list[tuple[float, int, _Happens, _Task]] = []
        self._numbers = count()
        self._order: list[tuple[int, float, str, int, _Turn]] = []
        self._turns = {(share.priority, share.tenant): _turn_of(share) for share in line.shares}
        self._tasks = {one.seq: _Task(one, work(one), self._turn(one)) for one in line.tasks}
        self._beginnings: list[float] = []
        self._begun: list[int] = []  # who they are
        self._idle_from: float | None = None
        self._lost_sight = False
        self._overdue: list[_Task] = []  # they come into line with the next claim
        self._stand(in_work)

    def through(self, workers: int, most_claims: int) -> Forecast:
        free, claims = workers - sum(task.in_work for task in self._tasks.values()), 0
        while True:
            if free > 0:
                self._promote()
            while free > 0 and claims < most_claims and not self._lost_sight and self._claim():
                free, claims = free - 1, claims + 1
            if free > 0 and self._idle_from is None and claims < most_claims and not self._lost_sight:
                self._idle_from = self._now
            if not self._happens or claims >= most_claims or self._lost_sight:
                return self._result(max(1, workers))
            free += self._go_on()

    def _result(self, workers: int) -> Forecast:
        return Forecast(
            now=self._line.now,
            spans={seq: self._span(task, workers) for seq, task in self._tasks.items() if _begun(task)},
            beginnings=self._beginnings,
            turns={seq: turn for turn, seq in enumerate(self._begun)},
            until=self._now,
            idle_from=self._idle_from,
        )

    def _span(self, task: _Task, workers: int) -> Span:
        worked_on = task.leader or task
        ends = min(worked_on.ends, self._now + worked_on.left / workers)  # where it was not played to its end
        return Span(worked_on.begins, ends)

    # --- where all stands at the beginning ---

    def _turn(self, one: Standing) -> _Turn:
        new = _Turn(one.priority, one.tenant, self._level.get(one.priority, 0.0))
        return self._turns.setdefault((one.priority, one.tenant), new)

    def _stand(self, in_work: Sequence[InWork]) -> None:
        for task in self._tasks.values():
            if task.of.leader is not None and (leader := self._tasks.get(task.of.leader)):
                task.leader = leader
                leader.followers.append(task)
            if task.of.run_at is not None:
                self._later(max(0.0, task.of.run_at - self._now), _Happens.DUE, task)
            if task.started:
                task.begins = self._now
        for task in self._tasks.values():
            if task.offered:
                self._stand_in_line(task)
        self._order = [_key(turn, next(self._numbers)) for turn in self._turns.values() if any(turn.offered)]
        heapify(self._order)
        for chunk in in_work:
            held = self._tasks[chunk.task]
            held.in_work += 1
            self._later(chunk.seconds_left, _Happens.PLANNED if chunk.plan else _Happens.DONE, held)

    def _later(self, seconds: float, what: _Happens, task: _Task) -> None:
        heappush(self._happens, (self._now + seconds, next(self._numbers), what, task))

    # --- what happens ---

    def _go_on(self) -> int:
        """To when something happens; returns how many workers are free for it."""
        self._now, freed = self._happens[0][0], 0
        while self._happens and self._happens[0][0] <= self._now:
            _, _, what, task = heappop(self._happens)
            if what is _Happens.DUE:
                self._overdue.append(task)
                continue
            freed += 1
            task.in_work -= 1
            if what is _Happens.PLANNED:
                task.waiting, task.to_come = task.to_come, 0
                self._enter(task)
            if not task.waiting + task.in_work + task.to_come:
                task.ends = self._now
                self._processing[task.of.tenant] -= 1
        return freed

    def _promote(self) -> None:
        for task in self._overdue:
            task.due = True
            if task.of.lined_at == task.of.run_at:  # else a retry, as old as before
                task.lined_at = self._now
            self._enter(task)
        self._overdue.clear()

    def _enter(self, task: _Task) -> None:
        for one in (task, *task.followers):
            if one.offered:
                if not any(one.turn.offered):
                    one.turn.vtime = max(one.turn.vtime, self._level.get(one.turn.priority, 0.0))
                self._stand_in_line(one)
                heappush(self._order, _key(one.turn, next(self._numbers)))

    def _stand_in_line(self, task: _Task) -> None:
        turn, seq = task.turn, task.of.seq
        turn.offered[task.started] += 1
        heappush(turn.by_seq[task.started], (seq if self._line.fifo else -seq, seq, task))
        if not self._line.fifo and self._line.max_wait_seconds:
            heappush(turn.by_age[task.started], (task.lined_at, seq, task))

    # --- the claim ---

    def _claim(self) -> bool:
        found = self._whose_turn()
        if found is None:
            return False
        turn, states = found
        standing = self._next_task(turn, states)
        task = standing.leader or standing
        charge = PLAN_SECONDS if task.to_plan else task.work.audio
        self._take(task)
        self._charge(turn, charge)
        return True

    def _whose_turn(self) -> tuple[_Turn, Sequence[bool]] | None:
        passed_over: list[tuple[int, float, str, int, _Turn]] = []
        found = None
        while self._order and found is None:
            entry = heappop(self._order)
            turn = entry[-1]
            if entry[1] != turn.vtime or not any(turn.offered):
                continue  # there is a later entry, or it has left
            states = [True] if turn.offered[True] else []
            if turn.offered[False] and not self._at_limit(turn.tenant):
                states.append(False)
            if states:
                found = turn, states
            passed_over.append(entry)
        for entry in passed_over:
            heappush(self._order, entry)
        return found

    def _at_limit(self, name: str) -> bool:
        limit = self._tenant(name).concurrent
        return limit > 0 and self._processing.get(name, 0) >= limit

    def _tenant(self, name: str) -> Tenant:
        return self._line.tenants.get(name) or Tenant()

    def _next_task(self, turn: _Turn, states: Sequence[bool]) -> _Task:
        longest = self._now - self._line.max_wait_seconds
        aged = [top for top in _tops(turn.by_age, states) if top[0] < longest]
        return min(aged or _tops(turn.by_seq, states))[2]

    def _take(self, task: _Task) -> None:
        """Hand out its next chunk."""
        was_started, what = task.started, _Happens.PLANNED if task.to_plan else _Happens.DONE
        seconds = task.work.plan or 0.0 if task.to_plan else task.work.each
        if task.waiting == 1:
            for one in (task, *task.followers):
                if one.offered:
                    self._leave(one)
        task.waiting -= 1
        task.in_work += 1
        task.to_plan = False
        if not was_started:
            self._begin(task)
        self._later(seconds, what, task)

    def _leave(self, task: _Task) -> None:
        task.turn.offered[task.started] -= 1
        task.turn.may_leave -= 1
        self._lost_sight |= task.turn.may_leave <= 0

    def _begin(self, task: _Task) -> None:
        task.begins = self._now
        self._begun += [task.of.seq, *(one.of.seq for one in task.followers)]
        self._beginnings += [self._now] * (1 + len(task.followers))
        self._processing[task.of.tenant] = self._processing.get(task.of.tenant, 0) + 1
        if task.waiting:  # it goes on in line, among those that are started
            task.turn.offered[False] -= 1
            task.started = True
            self._stand_in_line(task)
        task.started = True

    def _charge(self, turn: _Turn, charge: float) -> None:
        """See the claim, why the level rises so."""
        risen = turn.vtime + charge / self._line.heaviest / 2
        self._level[turn.priority] = max(self._level.get(turn.priority, risen), risen)
        turn.vtime += charge / self._tenant(turn.tenant).weight
        if any(turn.offered):
            heappush(self._order, _key(turn, next(self._numbers)))


def _turn_of(share: Share) -> _Turn:
    return _Turn(share.priority, share.tenant, share.vtime, share.known)


def _begun(task: _Task) -> bool:
    return (task.leader or task).begins < inf


def _key(turn: _Turn, number: int) -> tuple[int, float, str, int, _Turn]:
    return -turn.priority, turn.vtime, turn.tenant, number, turn


def _tops(heaps: Sequence[list[_Entry]], states: Sequence[bool]) -> list[_Entry]:
    return [top for started in states if (top := _top(heaps[started], started))]


def _top(heap: list[_Entry], started: bool) -> _Entry | None:
    """The first that is still in line there."""
    while heap:
        task = heap[0][2]
        if task.offered and task.started == started:
            return heap[0]
        heappop(heap)
    return None
