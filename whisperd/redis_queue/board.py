"""The shared queue as verbs: take, beat, complete, fail, hand back, sweep; add, look, cancel, retry.

A job that was taken is held by its lock: a token that only its holder knows, for as long as it beats. What
the holder says of a job is said under that token, so that one who has lost it says nothing. BullMQ's own
scripts do all that they can do; ours are the beat and the cancel, which it does not have between hosts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from secrets import token_hex
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from whisperd.config import Redis as Settings
from whisperd.job import Depth, Job
from whisperd.redis_queue import scripts
from whisperd.redis_queue.idempotency import IdempotencyKeys
from whisperd.redis_queue.index import LOOK_AT, Index, Row
from whisperd.redis_queue.link import ANSWER_SECONDS, Link
from whisperd.redis_queue.order import Order
from whisperd.redis_queue.room import Asked, Room
from whisperd.redis_queue.seen import CANCELLED, LOOK_CANCELLED, Listed, Seen, job_of, seen, state_of
from whisperd.redis_queue.tally import QueueCount, TenantCount
from whisperd.redis_queue.turn import Turn
from whisperd.task import Limits, QueueAway

if TYPE_CHECKING:
    from bullmq import Job as BullJob
    from bullmq import Queue

SERVED_SECONDS = 30
WAIT_SECONDS = 5.0  # for a job, before a look whether one was missed
MOST_LOOKED_AT = 2000  # for a page of a list
_NEWS = frozenset({"added", "active", "progress", "completed", "failed", "delayed", "waiting"})
_ENDS = frozenset({"completed", "failed", "removed"})
_A_MS = 0x1000  # of the scores of delayed jobs, in BullMQ

_BACKOFFS = (None, "fixed", "exponential")

Verdict = Literal["held", "cancelled", "look_cancelled", "lost", "gone"]
Standing = Literal["open", "over", "gone"]


class LostJob(Exception):
    """Another host has the job, or nobody: what was to be said of it was not said."""


class Taken(NamedTuple):
    job: Job
    data: Mapping[str, Any]
    priority: int  # BullMQ's: 1 is the first, 0 goes before all
    refusal: str | None  # why it is to be failed, and not run
    look_cancelled: bool = False  # its transcript is not to be looked through


class News(NamedTuple):
    place: str  # in the stream of events
    changed: Sequence[str]  # jobs, each once
    ended: Sequence[str]  # jobs: completed, failed, or removed by somebody


class Board:
    """Every verb raises QueueAway, and may then have been done or not."""

    def __init__(self, link: Link, settings: Settings, keep_hours: tuple[float, float], queue: str) -> None:
        """`keep_hours`: of what was completed, and of what failed."""
        from bullmq import Queue

        self._link = link
        self._lock_ms = round(settings.lock_seconds * 1000)
        self._stalled_ms = round(settings.stalled_seconds * 1000)
        self._max_stalled = settings.max_stalled
        self._keep = [{"age": round(hours * 3600)} for hours in keep_hours]
        self._holder = token_hex(8)  # in the tokens of this host
        self._next_at = 0.0  # Unix seconds: when the next delayed job is due, if there is one
        self._queue: Queue = Queue(
            queue,
            {"connection": link.client, "prefix": settings.prefix, "lockDuration": self._lock_ms},
        )
        self._name_seconds = max(3600, round(max(keep_hours) * 3600))
        self._keep_options = {"removeOnComplete": self._keep[0], "removeOnFail": self._keep[1]}
        self.keys = IdempotencyKeys(link, self._key)
        self._index = Index(link, self._key)
        self._room = Room(link, self._queue, settings.prefix)
        self._order = Order(link, self._queue)
        self._turn = Turn(link, self._queue, settings.prefix)
        self._prefix = settings.prefix
        register = link.client.register_script
        self._beat, self._put_back = register(scripts.BEAT), register(scripts.PUT_BACK)
        self._cancel, self._cancel_look = register(scripts.CANCEL), register(scripts.CANCEL_LOOK)

    @property
    def trouble(self) -> str | None:
        """Why what was last asked had no answer."""
        return self._link.trouble

    @property
    def well_since(self) -> float:
        """On the monotonic clock: since when all that was asked had an answer."""
        return self._link.well_since

    @property
    def server(self) -> str:
        """Which Redis has answered last; "": not known."""
        return self._link.server

    async def identify(self) -> str:
        """Which Redis this is."""
        return await self._link.identify()

    # --- who works ---

    async def take(self) -> Taken | None:
        """The next job, which is this host's from now on; None: there is none at present."""
        token = f"{self._holder}:{token_hex(8)}"
        data, job_id, next_ms = await self._turn.take(token, self._lock_ms)
        self._next_at = float(next_ms or 0) / 1000
        if not data:
            return None
        job = job_of(self._queue, data, job_id)
        await self._index.enter(job.id, job.timestamp)
        refusal = job.deferredFailure or (CANCELLED if CANCELLED in data else None)
        held = Job(
            id=job.id,
            token=token,
            begun=job.attemptsStarted,
            hash=msgspec.json.encode(data).decode(),
            server=self._link.server,
        )
        asked = job.data if isinstance(job.data, dict) else {}
        return Taken(held, asked, job.priority, refusal, LOOK_CANCELLED in data)

    async def wait(self, *others: Board) -> None:
        """Until there may be a job, here or there; not for long."""
        boards = (self, *others)
        due = [board._next_at - time() for board in boards if board._next_at]
        seconds = min(WAIT_SECONDS, max(0.01, min(due, default=WAIT_SECONDS)))  # 0 would be for ever
        async with self._link.asking(WAIT_SECONDS + ANSWER_SECONDS) as client:
            await client.bzpopmin([board._key("marker") for board in boards], seconds)

    async def beat(self, held: Job) -> Verdict:
        """Keep the job. cancelled: somebody wants it stopped; gone: Redis does not know it any more."""
        keys = [f"{self._key(held.id)}:lock", self._key("stalled"), self._key("active"), self._key(held.id)]
        async with self._link.asking():
            verdict: Verdict = await self._beat(keys, [held.token, self._lock_ms, held.id, held.begun])
        return verdict

    async def progress(self, held: Job, percent: float) -> None:
        async with self._link.asking():
            with suppress(LostJob):
                await _fenced(self._queue.backend.updateProgress(held.id, percent))

    async def complete(self, held: Job, value: Mapping[str, Any]) -> None:
        """Raises LostJob."""
        job = await self._own(held)
        job.opts.setdefault("removeOnComplete", self._keep[0])
        await self._end(held, lambda: job.moveToCompleted(value, held.token))
        await self._settle(job)

    async def fail(self, held: Job, why: str, *, final: bool) -> None:
        """It runs again as its own attempts and backoff say, unless that is `final`. Raises LostJob."""
        from bullmq.custom_errors import UnrecoverableError

        job = await self._own(held)
        job.opts |= {"stackTraceLimit": 0, "removeOnFail": job.opts.get("removeOnFail", self._keep[1])}
        if (job.opts.get("backoff") or {}).get("type") not in _BACKOFFS:  # it is in its producer's code
            job.opts["backoff"] = {"type": "exponential", "delay": 1000}
        error = UnrecoverableError(why) if final else Exception(why)
        await self._end(held, lambda: job.moveToFailed(error, held.token))
        await self._settle(job)

    async def _end(self, held: Job, saying: Callable[[], Awaitable[object]]) -> None:
        """Under the lock; one that ran out unseen is taken up again first, as by a beat. Raises LostJob."""
        try:
            async with self._link.asking():
                await _fenced(saying())
        except LostJob:
            if await self.beat(held) in ("lost", "gone"):
                raise
            async with self._link.asking():
                await _fenced(saying())

    async def _settle(self, job: BullJob) -> None:
        """Of one that is over, forget that it was to be cancelled: a retry, by Node as well, is meant.

        And have a host that waits look again: the job's tenant may have one more at work now.
        """
        with suppress(QueueAway):  # then that retry is cancelled once, and hosts look a little later
            async with self._link.asking() as client:
                await client.zadd(self._key("marker"), {"0": 0})
                if job.finishedOn:
                    await client.hdel(self._key(job.id), CANCELLED)

    async def hand_back(self, held: Job, seconds: float) -> None:
        """Let somebody take it after so many seconds; no attempt is counted. Raises LostJob."""
        backend, now = self._queue.backend, round(time() * 1000)
        async with self._link.asking():
            moving = backend.moveToDelayed(
                held.id, now, round(seconds * 1000), held.token, {"skipAttempt": True}
            )
            await _fenced(moving)

    async def sweep(self) -> None:
        """Put back what its holder has left; whichever host asks first within `stalled_seconds` does it.

        Not while Redis has been back for less than a lock holds: those that ran out meanwhile are for their
        holders to take up again.
        """
        if monotonic() - self._link.well_since < self._lock_ms / 1000:
            return
        async with self._link.asking():
            await self._queue.backend.moveStalledJobsToWait(self._max_stalled, self._stalled_ms)

    async def raise_old(self, seconds: float) -> int:
        """Let what has waited for longer go before what came later to its priority. Returns how many had."""
        return await self._order.raise_old(seconds)

    async def limit(self, limits: Callable[[str, str | None], Limits]) -> None:
        """Tell all hosts how much each tenant, by its plan, may have at work, in all queues together."""
        await self._turn.limit(limits)

    async def put_back(self, held: Job) -> bool:
        """Where Redis does not know it any more; False: it does, or nothing is known of it here."""
        if not held.hash:
            return False
        fields: dict[str, str] = msgspec.json.decode(held.hash)
        keys = [self._key(held.id), self._key("active"), f"{self._key(held.id)}:lock", self._key("id")]
        flat = [part for field in fields.items() for part in field]
        async with self._link.asking():
            done = await self._put_back(keys, [held.id, held.token, self._lock_ms, *flat])
        if done:
            await self._index.enter(held.id, int(fields.get("timestamp", 0)))
            await self._room.note([held.id])
        return bool(done)

    async def serve(self) -> None:
        """Say that somebody takes from this queue; it holds for SERVED_SECONDS."""
        async with self._link.asking() as client:
            await client.set(self._key("whisperd:served"), self._holder, ex=SERVED_SECONDS)

    # --- who submits and looks ---

    async def depth(self) -> Depth:
        """One with work under way is served, by Node if not by us. What is due waits till somebody takes."""
        async with self._link.asking() as client:
            pipe = client.pipeline(transaction=False)
            for name in ("wait", "paused", "active"):
                pipe.llen(self._key(name))
            for name in ("prioritized", "delayed"):
                pipe.zcard(self._key(name))
            pipe.zcount(self._key("delayed"), 0, (round(time() * 1000) + 1) * _A_MS - 1)
            pipe.exists(self._key("whisperd:served"))
            wait, paused, active, prioritized, delayed, due, served = await pipe.execute()
        return Depth(wait + paused + prioritized + due, delayed - due, active, bool(served or active))

    async def count(self) -> QueueCount:
        """How many jobs there are, by how they stand."""
        depth = await self.depth()
        async with self._link.asking() as client:
            pipe = client.pipeline(transaction=False)
            for name in ("completed", "failed"):
                pipe.zcard(self._key(name))
            completed, failed = await pipe.execute()
        lines = await self._room.lines()
        return QueueCount(depth.waiting, depth.delayed, depth.active, completed, failed, lines)

    async def tenants(self) -> Mapping[str, TenantCount]:
        """How the jobs of all queues stand, by tenant."""
        return await self._room.tenants()

    async def add(
        self, job_id: str, name: str, data: Mapping[str, Any], asked: Asked | None = None, **options: Any
    ) -> None:
        """With the id of one that is there already nothing is added.

        Raises QueueFull, TenantQueueFull where there is not the room that is `asked` for, and KeyLost.
        """
        from bullmq import Job as BullJob

        job = BullJob(self._queue, name, data, {"jobId": job_id, **self._keep_options, **options})
        await self._room.add(job, asked)
        await self._index.enter(job_id, job.timestamp)

    async def check_room(self, asked: Asked) -> None:
        """Raises as `add` would now."""
        await self._room.check(asked)

    async def plan_of(self, tenant: str) -> str | None:
        """The one that its submissions, to whichever host, have named last."""
        return await self._room.plan_of(tenant)

    async def standing(self, ids: Sequence[str]) -> Sequence[Standing]:
        """What has become of these jobs; gone: Redis does not know them."""
        async with self._link.asking() as client:
            pipe = client.pipeline(transaction=False)
            for job_id in ids:
                pipe.hmget(self._key(job_id), "timestamp", "finishedOn")
            found = await pipe.execute()
        return ["gone" if not added else "over" if ended else "open" for added, ended in found]

    async def name(self, job_id: str, task_id: str) -> None:
        """Let a job be found by the id of its task, too; for as long as it may be kept."""
        async with self._link.asking() as client:
            await client.set(self._key(f"whisperd:id:{task_id}"), job_id, ex=self._name_seconds)

    async def known(self, names: Collection[str], queue: str) -> frozenset[str]:
        """Those of these ids of jobs, or of their tasks, whose job is in that queue, whichever it is."""
        ordered, keys = list(names), f"{self._prefix}:{queue}:"
        async with self._link.asking() as client:
            jobs = await client.mget([f"{keys}whisperd:id:{name}" for name in ordered])
            pipe = client.pipeline(transaction=False)
            for name, job_id in zip(ordered, jobs, strict=True):
                pipe.exists(f"{keys}{name}", *([f"{keys}{job_id!s}"] if job_id else []))
            there = await pipe.execute()
        return frozenset(name for name, exists in zip(ordered, there, strict=True) if exists)

    async def queues(self, names: Collection[str]) -> frozenset[str]:
        """Those that any host has ever told of; now these, too."""
        key = f"{self._prefix}:whisperd:queues"
        async with self._link.asking() as client:
            await client.sadd(key, *names)
            return frozenset(map(str, await client.smembers(key)))

    async def first_within(self, work: str, seconds: float) -> bool:
        """Whether no host has asked this of that work for so long: then it is this one's to do."""
        async with self._link.asking() as client:
            return bool(await client.set(self._key(f"whisperd:{work}"), 1, nx=True, ex=round(seconds)))

    async def _id_of(self, name: str) -> str:
        """Of the job that has this id, or whose task has it."""
        async with self._link.asking() as client:
            if await client.exists(self._key(name)):
                return name
            return str(await client.get(self._key(f"whisperd:id:{name}")) or name)

    async def look(self, name: str) -> Seen | None:
        """By the id of the job, or of its task; as for all that follow."""
        job_id = await self._id_of(name)
        async with self._link.asking():
            state = await self._queue.getJobState(job_id)  # before: what is over by then has its value
            data = await self._queue.backend.getJobData(job_id)
        return seen(self._queue, job_id, data, state) if data else None

    async def page(self, before: int | None, limit: int, fits: Callable[[Listed], bool]) -> list[Listed]:
        """Up to `limit` that fit, the newest first; of MOST_LOOKED_AT at most."""
        found: list[Listed] = []
        for _ in range(MOST_LOOKED_AT // LOOK_AT):
            rows = await self._index.newest(before)
            found += [listed for row in rows if (listed := self._listed(row)) and fits(listed)]
            if len(found) >= limit or len(rows) < LOOK_AT:
                break
            before = rows[-1].at
        return found[:limit]

    def _listed(self, row: Row) -> Listed | None:
        return Listed(row.at, seen(self._queue, row.id, row.data, state_of(row.data))) if row.data else None

    async def note(self, ids: Sequence[str]) -> None:
        """Something has happened to these jobs."""
        await self._room.note(ids)

    async def tidy(self) -> None:
        """Take out of lists some of what Redis has forgotten; by and by, all."""
        await self._room.note(await self._index.tidy())

    async def tidy_tenants(self) -> None:
        """See how some of their jobs stand, of all queues."""
        await self._room.tidy()

    async def news(self, after: str) -> News:
        """Wait for what happens to jobs; of much, the first. `after`: where it left off, "$": from now on."""
        async with self._link.asking(WAIT_SECONDS + ANSWER_SECONDS) as client:
            wait_ms = round(WAIT_SECONDS * 1000)
            found = await client.xread({self._key("events"): after}, count=LOOK_AT, block=wait_ms)
        entries = _entries(found)
        told = [(said.get("event"), said["jobId"]) for _, said in entries if "jobId" in said]
        return News(
            place=entries[-1][0] if entries else after,
            changed=list(dict.fromkeys(job_id for event, job_id in told if event in _NEWS)),
            ended=[job_id for event, job_id in told if event in _ENDS],
        )

    async def change(self, name: str, fields: Mapping[str, Any], priority: int) -> None:
        """Of one that waits: its data, and its priority in BullMQ. Raises LostJob."""
        job_id = await self._id_of(name)
        async with self._link.asking():
            data = await self._queue.backend.getJobData(job_id)
            if not data:
                raise LostJob(job_id)
            job = job_of(self._queue, data, job_id)
            await _fenced(job.updateData({**job.data, **fields}))
            await _fenced(job.changePriority({"priority": priority}))
        await self._order.place(job_id)

    async def cancel(self, name: str) -> str:
        """cancelled, or marked to be; over: it had ended before; gone."""
        job_id = await self._id_of(name)
        names = (job_id, "active", "failed", "events", "wait", "paused", "prioritized", "delayed")
        async with self._link.asking():
            return str(
                await self._cancel([self._key(name) for name in names], [job_id, round(time() * 1000)])
            )

    async def cancel_look(self, name: str) -> str:
        """That through the transcript of a job. cancelled, or marked to be; over: the job is; gone."""
        job_id = await self._id_of(name)
        async with self._link.asking():
            return str(await self._cancel_look([self._key(job_id)], [round(time() * 1000)]))

    async def retry(self, name: str, asked: Asked) -> None:
        """One that failed waits again. Raises LostJob for another, QueueFull, TenantQueueFull."""
        job_id = await self._id_of(name)
        async with self._link.asking():
            data = await self._queue.backend.getJobData(job_id)
        if not data or not await self._room.retry(job_of(self._queue, data, job_id), asked):
            raise LostJob(job_id)

    async def _own(self, held: Job) -> BullJob:
        async with self._link.asking():
            data = await self._queue.backend.getJobData(held.id)
        if not data:
            raise LostJob(held.id)
        return job_of(self._queue, data, held.id)

    def _key(self, name: str) -> str:
        return str(self._queue.backend.scripts.toKey(name))


async def _fenced(doing: Any) -> None:
    """BullMQ has one class for a lock that is another's, a job that is gone or in another state."""
    try:
        await doing
    except TypeError as error:
        raise LostJob(str(error)) from None


def _entries(found: Any) -> list[tuple[str, Mapping[str, str]]]:
    """What XREAD answers of one stream, in either form of the protocol."""
    streams = found.values() if isinstance(found, dict) else [entries for _, entries in found or ()]
    flat = [entry for entries in streams for entry in entries]
    return [
        tuple(entry) for some in flat for entry in (some if isinstance(some[0], list | tuple) else [some])
    ]
