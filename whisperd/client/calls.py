"""Every call as a generator that does no I/O: it yields requests and pauses, is sent what came of each, and
returns what the call is about. A client only drives them, so the asynchronous one is another driver, not
another copy.

Here stands what may be sent again: whatever the daemon refused for now, whatever never reached it, and, of
what was cut off in the middle, that which can be done twice. A submission is one of these, since its
Idempotency-Key makes two of it one task.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime
from itertools import count
from random import uniform
from time import monotonic
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from whisperd.client.errors import (
    ApiError,
    ClientError,
    DaemonAway,
    NotWhisperd,
    TaskFailed,
    TryLater,
    WrongState,
    refusal,
)
from whisperd.client.results import (
    Backup,
    Delivery,
    Draining,
    Estimate,
    Explanation,
    Health,
    Link,
    Stats,
    Swept,
    Task,
    Timeline,
    Transcript,
    Usage,
    Worker,
)
from whisperd.client.risk import Findings, Rescan
from whisperd.client.sound import Sound

DEFAULT_URL = "http://127.0.0.1:8002"

LONGEST_RETRY_AFTER = 60.0  # seconds; who is told to wait longer decides himself
LONGEST_DELAY = 10.0
PAGE = 100

_LONG_POLL_SECONDS = 30.0
_PROGRESS_SECONDS = 1.0  # how old the progress that is reported may be
_HURRIED_SECONDS = 0.1  # between long polls that a daemon which stops does not hold
_LONG_SECONDS = 600.0  # a large database is read, checked and packed before the daemon answers
_IN_THE_WAY = frozenset({502, 503, 504})  # said by a proxy, too

T = TypeVar("T")
OnProgress = Callable[[Task], None]


class SubmitOptions(TypedDict, total=False):
    """The submit options of the API; what is None is left to the daemon."""

    model: str | None
    language: str | None  # ISO 639-1, an English name, or "auto"
    detect_only: bool | None  # find out the language, and transcribe nothing
    translate: bool | None  # into English
    prompt: str | None
    temperature: float | None
    beam_size: int | None
    word_timestamps: bool | None
    vad: bool | None
    channels: Literal["mix", "split"] | None
    priority: int | None  # -100 to 100; higher runs first
    plan: Literal["FREE", "PRO", "PAYG"] | None
    tenant: str | None
    max_retries: int | None
    run_at: datetime | str | None  # with its time zone
    timeout_seconds: float | None
    callback_url: str | None
    result_url: str | None  # s3://bucket/key: where the transcript is written to
    metadata: dict[str, Any] | None
    risk: bool | Sequence[str] | None
    alert_url: str | None  # is told of severe findings, while a call runs, too
    alert_severity: Literal["info", "low", "medium", "high", "critical"] | None


class Request(NamedTuple):
    method: str
    path: str
    params: Mapping[str, str] | None = None
    fields: Mapping[str, str] | None = None
    body: Mapping[str, Any] | None = None  # as JSON
    sound: Sound | None = None
    headers: Mapping[str, str] | None = None
    wait: float = 0.0  # seconds the daemon may take before it begins to answer
    refusals: Sequence[int] = ()  # statuses from 400 on that are an answer all the same
    repeatable: bool = True  # done twice it is as if it was done once


class Pause(NamedTuple):
    seconds: float


Outcome = httpx.Response | httpx.RequestError | None  # None: of a pause
Flow = Generator[Request | Pause, Outcome, T]


class _Page(msgspec.Struct):
    tasks: tuple[Task, ...]
    next_cursor: str | None = None


class _Workers(msgspec.Struct):
    workers: tuple[Worker, ...]


class _Backups(msgspec.Struct):
    backups: tuple[Backup, ...]


class _Deliveries(msgspec.Struct):
    deliveries: tuple[Delivery, ...]
    next_cursor: str | None = None


class _Deleted(msgspec.Struct):
    deleted: int


class _Refused(msgspec.Struct):
    task_id: str
    code: str


class _Bulk(msgspec.Struct):
    refused: list[_Refused]


class _Paused(msgspec.Struct):
    paused: bool


class Calls:
    """The calls to one daemon. `retries`: how often each request is sent again where that is safe."""

    def __init__(self, url: str, retries: int, retry_delay: float) -> None:
        self.url = url
        self._retries = retries
        self._delay = retry_delay

    def submit(
        self,
        sound: Sound | None,
        options: Mapping[str, Any],
        idempotency_key: str | None,
        path: str = "/tasks/transcription",
    ) -> Flow[Task]:
        """Without a `sound`, one of the options says where it is, or what there is in its place."""
        given = {name: _plain(value) for name, value in options.items() if value is not None}
        key = idempotency_key or (os.urandom(16).hex() if self._retries else None)
        asked = Request("POST", path, headers=_key(key), repeatable=key is not None)
        if sound is None:
            return self._read(asked._replace(body=given), Task)
        fields = {name: _field(value) for name, value in given.items()}
        return self._read(asked._replace(sound=sound, fields=fields), Task)

    def findings(self, task_id: str, redacted: bool | None) -> Flow[Findings]:
        return self._read(Request("GET", f"{_path(task_id)}/risk", _as_asked(redacted)), Findings)

    def rescan(self, limit: int, cursor: str | None, options: Mapping[str, Any]) -> Flow[Rescan]:
        given = {name: value for name, value in options.items() if value is not None}
        body = {"limit": limit, **given, **({"cursor": cursor} if cursor else {})}
        return self._read(Request("POST", "/risk/rescan", body=body, repeatable=False), Rescan)

    def task(self, task_id: str) -> Flow[Task]:
        return self._read(Request("GET", _path(task_id)), Task)

    def timeline(self, task_id: str) -> Flow[Timeline]:
        return self._read(Request("GET", f"{_path(task_id)}/timeline"), Timeline)

    def explain(self, task_id: str) -> Flow[Explanation]:
        return self._read(Request("GET", f"{_path(task_id)}/explain"), Explanation)

    def estimate(self, about: Mapping[str, Any]) -> Flow[Estimate]:
        body = {name: value for name, value in about.items() if value is not None}
        return self._read(Request("POST", "/tasks/estimate", body=body), Estimate)

    def wait(self, task_id: str, seconds: float | None, on_progress: OnProgress | None) -> Flow[Task]:
        deadline = None if seconds is None else monotonic() + seconds
        poll = _PROGRESS_SECONDS if on_progress else _LONG_POLL_SECONDS
        while True:
            began = monotonic()
            hold = poll if deadline is None else max(0.0, min(poll, deadline - began))
            params = {"wait": f"{hold:g}"}
            task = yield from self._read(Request("GET", _path(task_id), params, wait=hold), Task)
            if on_progress:
                on_progress(task)
            if task.finished:
                return task
            if deadline is not None and monotonic() >= deadline:
                raise TimeoutError(f"task {task_id} is {task.status} after {seconds:g} s")
            if monotonic() - began < min(hold, _HURRIED_SECONDS):
                yield Pause(_HURRIED_SECONDS)

    def result(self, task_id: str, partial: bool, redacted: bool | None) -> Flow[Transcript]:
        return _decoded((yield from self._result(task_id, "json", partial, redacted)), Transcript)

    def result_as(self, task_id: str, format: str, partial: bool, redacted: bool | None) -> Flow[str]:
        response = yield from self._result(task_id, format, partial, redacted)
        return response.content.decode()  # UTF-8, whatever the media type leaves open

    def _result(
        self, task_id: str, format: str, partial: bool, redacted: bool | None
    ) -> Flow[httpx.Response]:
        wanted = {"format": format} | ({"partial": "true"} if partial else {}) | _as_asked(redacted)
        return (yield from self._of_completed(task_id, "result", wanted))

    def link(self, task_id: str, format: str, seconds: int | None, redacted: bool) -> Flow[Link]:
        some = {"format": format} | _as_asked(redacted)
        wanted = some if seconds is None else {**some, "seconds": str(seconds)}
        return _decoded((yield from self._of_completed(task_id, "link", wanted)), Link)

    def _of_completed(self, task_id: str, what: str, wanted: Mapping[str, str]) -> Flow[httpx.Response]:
        try:
            return (yield from self._sent(Request("GET", f"{_path(task_id)}/{what}", wanted)))
        except ApiError as error:
            if error.status != 410:
                raise
        task = yield from self.task(task_id)
        raise TaskFailed.of(task)

    def list(self, limit: int, filters: Mapping[str, str | None]) -> Flow[tuple[Task, ...]]:
        tasks: tuple[Task, ...] = ()
        cursor = None
        while len(tasks) < limit:
            page, cursor = yield from self.page(filters, min(PAGE, limit - len(tasks)), cursor)
            tasks += page
            if cursor is None:
                break
        return tasks

    def page(
        self, filters: Mapping[str, str | None], limit: int, cursor: str | None
    ) -> Flow[tuple[tuple[Task, ...], str | None]]:
        """Some of the tasks, and where to go on; None at the end."""
        wanted = {**filters, "limit": str(limit), "cursor": cursor}
        params = {name: value for name, value in wanted.items() if value is not None}
        page = yield from self._read(Request("GET", "/tasks", params), _Page)
        return page.tasks, page.next_cursor

    def cancel(self, task_id: str) -> Flow[Task]:
        return self._moved(Request("DELETE", _path(task_id)), ("cancelled",))

    def retry(self, task_id: str) -> Flow[Task]:
        return self._moved(Request("POST", f"{_path(task_id)}/retry"), ("queued", "processing"))

    def retry_many(self, task_ids: Sequence[str]) -> Flow[dict[str, str]]:
        """Sent again after its answer was lost, it would be told that the tasks of the first time wait."""
        refused: dict[str, str] = {}
        for first in range(0, len(task_ids), PAGE):  # as many as are named, should all be refused
            body = {"action": "retry", "task_ids": list(task_ids[first : first + PAGE])}
            asked = Request("POST", "/tasks/bulk", body=body, wait=_LONG_SECONDS, repeatable=False)
            page = yield from self._read(asked, _Bulk)
            refused |= {one.task_id: one.code for one in page.refused}
        return refused

    def _moved(self, asked: Request, states: Sequence[str]) -> Flow[Task]:
        """Sent again after its answer was lost, a move finds the task moved already: that is its answer."""
        try:
            return (yield from self._read(asked, Task))
        except WrongState as error:
            if not error.doubtful:
                raise
            task = yield from self._read(Request("GET", asked.path.removesuffix("/retry")), Task)
            if task.status not in states:
                raise error from None
            return task

    def change(
        self,
        task_id: str,
        priority: int | None,
        run_at: datetime | str | None,
        metadata: Mapping[str, Any] | None,
    ) -> Flow[Task]:
        wanted = {"priority": priority, "run_at": run_at, "metadata": metadata}
        body = {name: _plain(value) for name, value in wanted.items() if value is not None}
        return self._read(Request("PATCH", _path(task_id), body=body), Task)

    def usage(self, filters: Mapping[str, str | None]) -> Flow[Usage]:
        params = {name: value for name, value in filters.items() if value is not None}
        return self._read(Request("GET", "/usage", params), Usage)

    def stats(self) -> Flow[Stats]:
        return self._read(Request("GET", "/stats"), Stats)

    def workers(self) -> Flow[tuple[Worker, ...]]:
        return (yield from self._read(Request("GET", "/workers"), _Workers)).workers

    def health(self) -> Flow[Health]:
        return self._read(Request("GET", "/health", refusals=(503,)), Health)

    def backup(self) -> Flow[Backup]:
        return self._read(Request("POST", "/admin/backup", wait=_LONG_SECONDS, repeatable=False), Backup)

    def backups(self) -> Flow[tuple[Backup, ...]]:
        return (yield from self._read(Request("GET", "/admin/backups"), _Backups)).backups

    def deliveries(self, limit: int, filters: Mapping[str, str | None]) -> Flow[tuple[Delivery, ...]]:
        found: tuple[Delivery, ...] = ()
        wanted = {name: value for name, value in filters.items() if value is not None}
        while len(found) < limit:
            wanted["limit"] = str(min(PAGE, limit - len(found)))
            page = yield from self._read(Request("GET", "/admin/webhooks", dict(wanted)), _Deliveries)
            found += page.deliveries
            if page.next_cursor is None:
                break
            wanted["cursor"] = page.next_cursor
        return found

    def resend(self, delivery_id: str) -> Flow[Delivery]:
        path = f"/admin/webhooks/{quote(delivery_id, safe='')}/resend"
        return self._read(Request("POST", path), Delivery)

    def sweep(self) -> Flow[Swept]:
        return self._read(Request("POST", "/admin/cleanup-stuck-tasks", repeatable=False), Swept)

    def clear(self, states: Sequence[str], older_than_hours: float) -> Flow[int]:
        body = {"status": list(states), "older_than_hours": older_than_hours}
        asked = Request("POST", "/admin/clear", body=body, wait=_LONG_SECONDS, repeatable=False)
        return (yield from self._read(asked, _Deleted)).deleted

    def pause(self) -> Flow[bool]:
        return (yield from self._read(Request("POST", "/admin/pause"), _Paused)).paused

    def resume(self) -> Flow[bool]:
        return (yield from self._read(Request("POST", "/admin/resume"), _Paused)).paused

    def drain(self, timeout_seconds: float | None) -> Flow[Draining]:
        params = None if timeout_seconds is None else {"timeout_seconds": f"{timeout_seconds:g}"}
        return self._read(Request("POST", "/admin/drain", params), Draining)

    def draining(self) -> Flow[Draining]:
        return self._read(Request("GET", "/admin/drain"), Draining)

    def undrain(self) -> Flow[Draining]:
        return self._read(Request("POST", "/admin/undrain"), Draining)

    def _read(self, asked: Request, kind: type[T]) -> Flow[T]:
        return _decoded((yield from self._sent(asked)), kind)

    def _sent(self, asked: Request) -> Flow[httpx.Response]:
        """The answer, once there is one that is no error."""
        doubtful = False
        for attempt in count():
            outcome = yield asked
            assert outcome is not None
            trouble = self.trouble(outcome, asked.refusals)
            if trouble is None:
                assert isinstance(outcome, httpx.Response)
                return outcome
            doubtful |= isinstance(trouble, DaemonAway) and trouble.stopped
            if isinstance(trouble, ApiError):
                trouble.doubtful = doubtful
            again = asked.sound is None or asked.sound.repeatable
            seconds = self.retry_in(trouble, attempt, asked.repeatable) if again else None
            if seconds is None:
                raise trouble
            yield Pause(seconds)
        raise AssertionError

    def trouble(
        self, outcome: httpx.Response | httpx.RequestError, refusals: Sequence[int] = ()
    ) -> ClientError | None:
        """What is wrong with what came of a request. An answer has to have been read."""
        if isinstance(outcome, httpx.Response):
            fine = outcome.is_success or outcome.status_code in refusals
            return None if fine else refusal(outcome)
        if isinstance(outcome, httpx.LocalProtocolError):
            return ClientError(f"this cannot be sent: {outcome}")
        if isinstance(outcome, httpx.DecodingError):
            return NotWhisperd(self.url, outcome)
        never_there = isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout)
        return DaemonAway(self.url, "" if never_there else str(outcome) or type(outcome).__name__)

    def retry_in(self, trouble: ClientError, attempt: int, repeatable: bool = True) -> float | None:
        """How many seconds from now the request is to be sent again; None: not any more, or not at all."""
        if attempt >= self._retries:
            return None
        delay = min(LONGEST_DELAY, self._delay * 2**attempt)
        if isinstance(trouble, TryLater) and trouble.retry_after is not None:
            soon = trouble.retry_after <= LONGEST_RETRY_AFTER
            return trouble.retry_after + uniform(0, delay) if soon else None
        refused = isinstance(trouble, ApiError) and trouble.status == 429
        never_there = isinstance(trouble, DaemonAway) and not trouble.stopped
        lost = isinstance(trouble, DaemonAway) or getattr(trouble, "status", None) in _IN_THE_WAY
        return uniform(delay / 2, delay) if refused or never_there or (lost and repeatable) else None


def _decoded(response: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NotWhisperd(response.url, error) from None


def _as_asked(redacted: bool | None) -> dict[str, str]:
    """None: as it was submitted."""
    return {} if redacted is None else {"redacted": json.dumps(redacted)}


def _path(task_id: str) -> str:
    return f"/tasks/{quote(task_id, safe='')}"


def event_path(task_id: str) -> str:
    return f"{_path(task_id)}/events"


def _key(key: str | None) -> Mapping[str, str]:
    return {"Idempotency-Key": key} if key else {}


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _field(value: Any) -> str:
    """A form field: booleans and objects as JSON writes them."""
    return value if isinstance(value, str) else json.dumps(value)
