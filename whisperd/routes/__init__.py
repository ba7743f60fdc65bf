"""The routes, one file per audience. Each exports one name, `routes`; `Services` is all they may touch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Protocol

import msgspec
from starlette.requests import HTTPConnection
from starlette.responses import Response

from whisperd.config import Config
from whisperd.events import Events
from whisperd.spool import Spool
from whisperd.task import TaskQueue
from whisperd.worker_pool import WorkerInfo


class Pool(Protocol):
    """What the outside sees of the worker pool."""

    def workers(self) -> list[WorkerInfo]: ...


@dataclass(slots=True)
class Services:
    queue: TaskQueue
    events: Events
    spool: Spool
    pool: Pool
    config: Config
    check_model: Callable[[str], Awaitable[bool]]  # is it multilingual? Raises ModelUnusable
    database_trouble: Callable[[], str | None]
    draining: bool = False  # nothing new is accepted
    now: Callable[[], float] = time
    started_at: float = field(default_factory=monotonic)


def services(connection: HTTPConnection) -> Services:
    found: Services = connection.app.state.services
    return found


class Json(Response):
    """A JSON answer from anything msgspec can encode."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return msgspec.json.encode(content)
