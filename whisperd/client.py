"""Client: the Task API of a running daemon as functions.

What is asked and how the answer is read stands in generators that do no I/O (`_wait`, `_list`, …): they yield
requests and are sent responses, as httpx's own authentication flows are. A client only drives them, so the
asynchronous twin is another driver, not another copy. Knows nothing of the daemon's insides.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypedDict, TypeVar
from urllib.parse import quote

import httpx

DEFAULT_URL = "http://127.0.0.1:8002"
FINAL = ("completed", "failed", "cancelled")

_LONG_POLL_SECONDS = 30.0
_PROGRESS_SECONDS = 1.0  # how old the progress that is reported may be
_PAGE = 100
_BACKUP_SECONDS = 600.0  # a large database is read, checked and packed before the daemon answers
_CLEAR_SECONDS = 600.0

T = TypeVar("T")


class AudioJson(TypedDict):
    name: str
    duration: float | None
    size: int
    sha256: str


class ErrorJson(TypedDict):
    code: str
    message: str


class TaskJson(TypedDict):
    """A task as the API shows it; times are RFC 3339 texts."""

    task_id: str
    kind: str
    status: str  # queued, processing, completed, failed, cancelled
    priority: int
    position: int | None  # 1 = next to run; only while queued
    progress: float  # 0 to 1
    tenant: str
    model: str
    attempt: int
    max_retries: int
    created_at: str
    run_at: str | None
    started_at: str | None
    finished_at: str | None
    audio: AudioJson
    language: str | None  # ISO 639-1, once known
    eta_seconds: float | None
    warnings: list[str]
    error: ErrorJson | None
    metadata: dict[str, Any]


class BackupJson(TypedDict):
    """A backup as the API shows it."""

    name: str
    path: str  # on the daemon's machine
    taken_at: str  # RFC 3339
    bytes: int
    tasks: int | None  # None: it is broken
    reason: str | None  # what it was taken for
    verified: bool
    restored: bool  # it has been used by a restore
    problem: str | None  # why it is not verified
    seconds: float | None  # that it took, from `backup`


class Event(NamedTuple):
    """One server-sent event of a task."""

    id: str  # pass it as `after` to go on behind it
    type: str  # "task", "segment" or "progress"
    data: dict[str, Any]


class ClientError(Exception):
    """Base class of what the client raises. The message can be shown as it is."""


class DaemonAway(ClientError):
    """No daemon answers at the URL, or it stopped answering in the middle."""

    def __init__(self, url: str, cause: str = "") -> None:
        started = "Start it with `whisperd serve`, or name another one with --url or WHISPERD_URL."
        super().__init__(
            f"the daemon at {url} stopped answering ({cause})"
            if cause
            else f"no daemon answers at {url}. {started}"
        )
        self.url = url
        self.stopped = bool(cause)  # it was there


class ApiError(ClientError):
    """The daemon refused."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status  # of HTTP
        self.code = code  # "not_finished", "queue_full", …
        self.message = message


class Client:
    """Synchronous client of the daemon at `url`; may be shared by threads. Use it with `with`.

    Every call raises DaemonAway when the daemon cannot be reached and ApiError when it refuses.
    """

    def __init__(self, url: str = DEFAULT_URL, key: str | None = None, patience: float = 30.0) -> None:
        """`patience`: seconds without a byte after which a daemon that was there counts as away."""
        self.url = _normal(url)
        self._patience = patience
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=_timeout(patience),
            trust_env=not _is_local(self.url),  # a proxy cannot reach this machine's loopback
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(
        self,
        path: Path,
        *,
        on_sent: Callable[[int], None] | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> TaskJson:
        """Submits the file, streamed from disk. `options` are those of the API; None is left out.

        `on_sent` is told how many bytes of the file have gone. Raises OSError when it cannot be read.
        """
        with _Counted(path, on_sent) as file:
            return self._run(_submit(path.name, file, options, idempotency_key))

    def task(self, task_id: str) -> TaskJson:
        return self._run(_task("GET", task_id))

    def wait(self, task_id: str, on_progress: Callable[[TaskJson], None] | None = None) -> TaskJson:
        """The task once it is completed, failed or cancelled. `on_progress` sees it about once a second."""
        return self._run(_wait(task_id, on_progress))

    def result(self, task_id: str, format: str = "json") -> str:
        """The transcript of a completed task, written as `format`. Raises ApiError 409 while it runs."""
        return self._run(_result(task_id, format))

    def list(self, *, limit: int = 50, **filters: str | None) -> Sequence[TaskJson]:
        """Newest first. `filters`: status, kind, tenant, q."""
        return self._run(_list(limit, filters))

    def cancel(self, task_id: str) -> TaskJson:
        return self._run(_task("DELETE", task_id))

    def retry(self, task_id: str) -> TaskJson:
        """A failed or cancelled task runs again."""
        return self._run(_task("POST", task_id, "/retry"))

    def stats(self) -> dict[str, Any]:
        return self._run(_json("/stats"))

    def workers(self) -> Sequence[dict[str, Any]]:
        return self._run(_workers())

    def health(self) -> dict[str, Any]:
        """What the daemon says of itself, also when it says that it is down."""
        return self._run(_json("/health", refusals=(503,)))

    def backup(self) -> BackupJson:
        """Has the daemon take a backup now, and waits for it."""
        backup: BackupJson = self._run(_post("/admin/backup", wait=_BACKUP_SECONDS))  # type: ignore[assignment]
        return backup

    def backups(self) -> Sequence[BackupJson]:
        """Newest first, the broken ones too."""
        backups: Sequence[BackupJson] = self._run(_json("/admin/backups"))["backups"]
        return backups

    def sweep(self) -> dict[str, Any]:
        """Takes chunks from workers that are gone; {"requeued": tasks, "failed": tasks}."""
        return self._run(_post("/admin/cleanup-stuck-tasks"))

    def clear(self, states: Sequence[str], older_than_hours: float) -> int:
        """Deletes finished tasks with their audio and transcripts; how many."""
        body = {"status": list(states), "older_than_hours": older_than_hours}
        deleted: int = self._run(_post("/admin/clear", body, wait=_CLEAR_SECONDS))["deleted"]
        return deleted

    def pause(self) -> bool:
        """Nothing more is handed out to the workers; what runs is finished. Whether it is paused now."""
        return bool(self._run(_post("/admin/pause"))["paused"])

    def resume(self) -> bool:
        return bool(self._run(_post("/admin/resume"))["paused"])

    def events(self, task_id: str, after: str | None = None) -> Iterator[Event]:
        """Follows the task until it is finished; `after` is the id of the last event already seen."""
        headers = {"Last-Event-ID": after} if after else {}
        timeout = _timeout(None)
        path = f"{_path(task_id)}/events"
        try:
            with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
                if response.is_error:
                    response.read()
                yield from _events(_accepted(response).iter_lines())
        except httpx.TransportError as error:
            raise self._away(error) from error

    def _run(self, flow: _Flow[T]) -> T:
        try:
            request = next(flow)
            while True:
                request = flow.send(self._answer(request))
        except StopIteration as done:
            result: T = done.value
            return result

    def _answer(self, asked: _Request) -> httpx.Response:
        request = self._http.build_request(
            asked.method,
            asked.path,
            params=asked.params,
            data=asked.fields,
            json=asked.body,
            files={"file": asked.file} if asked.file else None,
            headers=asked.headers,
            timeout=_timeout(asked.wait + self._patience),
        )
        try:
            return _accepted(self._http.send(request), asked.refusals)
        except httpx.TransportError as error:
            raise self._away(error) from error

    def _away(self, error: httpx.TransportError) -> DaemonAway:
        never_there = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol)
        return DaemonAway(self.url, "" if never_there else str(error) or type(error).__name__)


class _Request(NamedTuple):
    method: str
    path: str
    params: Mapping[str, str] | None = None
    fields: Mapping[str, str] | None = None
    body: Mapping[str, Any] | None = None  # as JSON
    file: tuple[str, _Counted] | None = None
    headers: Mapping[str, str] | None = None
    wait: float = 0.0  # seconds the daemon may take before it begins to answer
    refusals: Sequence[int] = ()  # statuses from 400 on that are an answer all the same


_Flow = Generator[_Request, httpx.Response, T]


def _submit(name: str, file: _Counted, options: Mapping[str, Any], key: str | None) -> _Flow[TaskJson]:
    fields = {field: _field(value) for field, value in options.items() if value is not None}
    headers = {"Idempotency-Key": key} if key else {}
    path = "/tasks/transcription"
    task: TaskJson = _body((yield _Request("POST", path, fields=fields, file=(name, file), headers=headers)))
    return task


def _task(method: str, task_id: str, verb: str = "") -> _Flow[TaskJson]:
    task: TaskJson = _body((yield _Request(method, _path(task_id) + verb)))
    return task


def _wait(task_id: str, on_progress: Callable[[TaskJson], None] | None) -> _Flow[TaskJson]:
    seconds = _PROGRESS_SECONDS if on_progress else _LONG_POLL_SECONDS
    while True:
        task: TaskJson = _body(
            (yield _Request("GET", _path(task_id), {"wait": f"{seconds:g}"}, wait=seconds))
        )
        if on_progress:
            on_progress(task)
        if task["status"] in FINAL:
            return task


def _result(task_id: str, format: str) -> _Flow[str]:
    response = yield _Request("GET", f"{_path(task_id)}/result", {"format": format})
    return response.content.decode()  # UTF-8, whatever the media type leaves open


def _list(limit: int, filters: Mapping[str, str | None]) -> _Flow[Sequence[TaskJson]]:
    params = {name: value for name, value in filters.items() if value is not None}
    tasks: list[TaskJson] = []
    while len(tasks) < limit:
        params["limit"] = str(min(_PAGE, limit - len(tasks)))
        page = _body((yield _Request("GET", "/tasks", dict(params))))
        tasks += page["tasks"]
        if not page["next_cursor"]:
            break
        params["cursor"] = page["next_cursor"]
    return tasks


def _workers() -> _Flow[Sequence[dict[str, Any]]]:
    workers: Sequence[dict[str, Any]] = _body((yield _Request("GET", "/workers")))["workers"]
    return workers


def _json(path: str, refusals: Sequence[int] = ()) -> _Flow[dict[str, Any]]:
    shown: dict[str, Any] = _body((yield _Request("GET", path, refusals=refusals)))
    return shown


def _post(path: str, body: Mapping[str, Any] | None = None, wait: float = 0.0) -> _Flow[dict[str, Any]]:
    shown: dict[str, Any] = _body((yield _Request("POST", path, body=body, wait=wait)))
    return shown


def _path(task_id: str) -> str:
    return f"/tasks/{quote(task_id, safe='')}"


def _field(value: Any) -> str:
    """A form field: booleans and objects as JSON writes them."""
    return value if isinstance(value, str) else json.dumps(value)


def _body(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise ClientError(f"what answers at {response.url} is not whisperd") from None


def _accepted(response: httpx.Response, refusals: Sequence[int] = ()) -> httpx.Response:
    if response.is_success or response.status_code in refusals:
        return response
    try:
        error = response.json()["error"]
        raise ApiError(response.status_code, error["code"], error["message"])
    except (ValueError, KeyError, TypeError):  # not our error body: a proxy's, another program's
        said = f"{response.url} answered {response.status_code} {response.reason_phrase}"
        raise ApiError(response.status_code, f"http_{response.status_code}", said) from None


def _events(lines: Iterator[str]) -> Iterator[Event]:
    """Server-sent events, as https://html.spec.whatwg.org/multipage/server-sent-events.html frames them."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            value = value.removeprefix(" ")
            fields[name] = f"{fields['data']}\n{value}" if name == "data" and "data" in fields else value
        elif not line and "data" in fields:
            yield Event(fields.get("id", ""), fields.get("event", "message"), json.loads(fields.pop("data")))
            fields.pop("event", None)


class _Counted(io.BufferedReader):
    """A file that tells how much of it has been read."""

    def __init__(self, path: Path, on_read: Callable[[int], None] | None) -> None:
        super().__init__(io.FileIO(path))
        self._on_read = on_read

    def read(self, size: int | None = -1) -> bytes:
        block = super().read(size)
        if self._on_read:
            self._on_read(self.tell())
        return block


def _timeout(read: float | None) -> httpx.Timeout:
    return httpx.Timeout(read, connect=5, write=60)


def _normal(url: str) -> str:
    """With a scheme, without a slash at the end."""
    return (url if "://" in url else f"http://{url}").rstrip("/")


def _is_local(url: str) -> bool:
    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL as error:
        raise ClientError(f"{url} is not a URL: {error}") from None
    return host in ("localhost", "::1") or host.startswith("127.")
