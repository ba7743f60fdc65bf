"""The routes, one file per audience. Each exports one name, `calls`; `Services` is all they may touch."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import inf
from time import monotonic, time
from typing import Literal, Protocol

import msgspec
from msgspec import Struct
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from structlog.contextvars import bind_contextvars

from whisperd.arrival import Arrival
from whisperd.attendance import Attendance
from whisperd.backup import Backup, BackupStore, Copies
from whisperd.config import Config
from whisperd.counts import Counts
from whisperd.delivery import Delivery
from whisperd.detections import Detections
from whisperd.drain import Drain
from whisperd.events import Events
from whisperd.history import History
from whisperd.job import Share
from whisperd.keys import KeyRing
from whisperd.lag import Lag
from whisperd.links import Links
from whisperd.minutes import Minutes
from whisperd.muting import Muting
from whisperd.outbox import Outbox
from whisperd.outlook import Outlook
from whisperd.pace import Pace, Pacing
from whisperd.redacting import Redacting
from whisperd.searcher import Searcher
from whisperd.sessions import Sessions
from whisperd.sources import Sources
from whisperd.spool import Spool
from whisperd.task import Task, TaskNotFound, TaskQueue
from whisperd.tracing import Tracing
from whisperd.worker_pool import WorkerInfo


class Pool(Protocol):
    """What the outside sees of the worker pool, and may ask of it."""

    @property
    def ready(self) -> asyncio.Event: ...  # set once a worker is, or was, ready
    @property
    def paused(self) -> bool: ...
    @property
    def canary_trouble(self) -> str | None: ...  # why a worker failed with nothing else to do
    @property
    def is_fit(self) -> bool: ...  # False: none could do that
    @property
    def deaths(self) -> Mapping[str, int]: ...  # of its children since the start, by cause
    def lately_died(self) -> Counter[str]: ...  # within a quarter of an hour
    def workers(self) -> list[WorkerInfo]: ...
    def pause(self) -> None: ...  # hand out nothing more; what runs is finished
    def resume(self) -> None: ...


class AudioElsewhere(Protocol):
    """Audio that does not lie on a disk of this host."""

    @property
    def size(self) -> int: ...  # bytes
    @property
    def head(self) -> bytes: ...  # the first of them
    @property
    def tag(self) -> str: ...  # another one, if it is other audio
    @property
    def written_at(self) -> float: ...  # Unix seconds
    def pieces(self, first: int, end: int) -> AsyncGenerator[bytes, None]: ...  # raises S3Error


class Elsewhere(Protocol):
    async def find(self, task: Task) -> AudioElsewhere | None: ...  # raises QueueAway
    async def kept(self, tasks: Sequence[Task]) -> Set[str]: ...  # ids of those that it has audio of


# What a call asks for. public: nothing; oversee: to read of every tenant.
Right = Literal["public", "submit", "read", "oversee", "admin"]
CALLER = "whisperd.caller"  # in the scope of a request that was let in


class Caller(Struct, frozen=True, kw_only=True):
    """Whom a request is made for."""

    tenant: str | None = None  # sees and makes tasks of this one only; None: of every one
    plan: str | None = None  # whose priority its tasks have, unless they ask for another
    may_go_ahead: bool = True  # of that plan, too
    owner: str = "default"  # whose its tasks are unless they say so


ANYBODY = Caller()
NOBODY = Caller(tenant="")  # who shows no key where one is asked for: a tenant without tasks


class Lately:
    """What many listeners are told, by tenant: made once for all who ask within some seconds."""

    def __init__(self) -> None:
        self._made: dict[str | None, tuple[float, str]] = {}
        self._making = asyncio.Lock()

    async def get(self, tenant: str | None, seconds: float, make: Callable[[], Awaitable[str]]) -> str:
        """What was made at most so long ago, or else what `make` makes now."""
        async with self._making:
            made_at, text = self._made.get(tenant, (-inf, ""))
            if monotonic() - made_at >= seconds:
                text = await make()
                self._made[tenant] = (monotonic(), text)
            return text


async def own_id(task: Task) -> str:
    return task.id


@dataclass(slots=True)
class Services:
    queue: TaskQueue
    events: Events
    history: History
    detections: Detections
    redacting: Redacting
    muting: Muting
    searcher: Searcher  # for what is asked of rules before a task is accepted
    outbox: Outbox
    resend: Callable[[str, str | None], Awaitable[Delivery]]  # of this tenant; raises DeliveryNotFound
    spool: Spool
    sources: Sources
    pool: Pool
    outlook: Outlook
    config: Config
    check_model: Callable[[str], Awaitable[bool]]  # is it multilingual? Raises ModelUnusable
    installed_models: Callable[[], Awaitable[Mapping[str, float]]]  # by name: Unix seconds of the file
    database_trouble: Callable[[], str | None]
    backups: BackupStore
    back_up: Callable[[], Awaitable[Backup]]  # now, because somebody asks for it
    sweep: Callable[[], Awaitable[Sequence[Task]]]  # now; the tasks whose chunks had no holder any more
    arrival: Arrival  # what this start found, and did about it
    keys: KeyRing
    sessions: Sessions
    minutes: Minutes
    drain: Drain
    backup_results: Counter[str] = field(default_factory=Counter)  # since the start: "ok", "failed"
    pulse_trouble: Callable[[], str | None] = lambda: None  # why the last look at database and pool failed
    queue_trouble: Callable[[], str | None] = lambda: None  # why the queue that hosts share cannot be asked
    broker_trouble: Callable[[], str | None] = lambda: None  # why messages wait
    share: Callable[[], Share | None] = lambda: None  # in the queues of several hosts; None: there are none
    copies: Callable[[], Copies | None] = lambda: None  # of backups elsewhere; None: nobody wants any
    counts: Counts = field(default_factory=Counts)
    lag: Lag = field(default_factory=Lag)
    attendance: Attendance = field(default_factory=Attendance)
    pace: Pacing = field(default_factory=Pace)
    wrong_keys: Pace = field(default_factory=lambda: Pace(of="wrong keys"))  # at the sign-in, by address
    lately: Lately = field(default_factory=Lately)  # statistics, as WebSockets are told them
    audio_elsewhere: Elsewhere | None = None  # where this host looks for audio that it has not got itself
    links: Links | None = None  # there is no bucket for them
    tracing: Tracing | None = None  # None: it is off
    draining: bool = False  # nothing new is accepted
    none_up_since: float | None = None  # monotonic: the first look in a row that found no worker up
    audio_id: Callable[[Task], Awaitable[str]] = own_id  # under which the spool has it, if it is kept
    now: Callable[[], float] = time
    started_at: float = field(default_factory=monotonic)


def services(connection: HTTPConnection) -> Services:
    found: Services = connection.app.state.services
    return found


def caller(connection: HTTPConnection) -> Caller:
    """Who made a request that was let in."""
    found: Caller = connection.scope[CALLER]
    return found


async def task_of(request: Request) -> Task:
    """The task that the path names. Raises TaskNotFound, also for one that the caller may not see."""
    return await task_named(request, str(request.path_params["task_id"]))


async def task_named(connection: HTTPConnection, task_id: str) -> Task:
    """The task that the request is about."""
    task = await visible_task(connection, task_id)
    bind_contextvars(task_id=task.id)
    return task


async def visible_task(connection: HTTPConnection, task_id: str) -> Task:
    task = await services(connection).queue.get(task_id)
    if caller(connection).tenant not in (None, task.tenant):
        raise TaskNotFound(f"there is no task {task_id}")
    return task


class Json(Response):
    """A JSON answer from anything msgspec can encode."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return msgspec.json.encode(content)
