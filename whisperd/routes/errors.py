"""What an error looks like outside, and which of ours is which status. One table, one shape.

Messages are safe to show: no path, no stack trace, no secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import structlog
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from whisperd.archive import BackupError
from whisperd.backup import BackupFailed
from whisperd.keys import KeysUnusable, LastAdmin, NoSuchKey
from whisperd.routes import Json
from whisperd.spool import TooLarge
from whisperd.task import (
    AudioGone,
    IdempotencyConflict,
    ModelUnusable,
    NoRoom,
    QueueFull,
    RateLimited,
    StorageBusy,
    StorageFailed,
    StorageFull,
    StorageReadOnly,
    TaskError,
    TaskNotFound,
    TenantQueueFull,
    WrongState,
)

log = structlog.get_logger(__name__)
RETRY_AFTER = {"Retry-After": "10"}  # seconds


class Refusal(Exception):
    """A request that is answered with an error: raised anywhere in a route, rendered in one place."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = dict(headers or {})


# The first that fits: subclasses stand before their bases.
_TABLE: list[tuple[type[Exception], int, str, str | None]] = [
    (TaskNotFound, 404, "not_found", None),
    (AudioGone, 409, "audio_gone", None),
    (WrongState, 409, "wrong_state", None),
    (IdempotencyConflict, 422, "idempotency_conflict", "Idempotency-Key"),
    (ModelUnusable, 422, "model_not_found", "model"),
    (QueueFull, 503, "queue_full", None),
    (TenantQueueFull, 429, "tenant_queue_full", None),
    (RateLimited, 429, "rate_limited", None),
    (StorageBusy, 503, "storage_busy", None),
    (StorageReadOnly, 507, "storage_read_only", None),
    (StorageFull, 507, "storage_full", None),
    (StorageFailed, 503, "storage_failed", None),
    (TooLarge, 413, "too_large", "file"),
    (BackupError, 503, "backup_failed", None),
    (NoSuchKey, 404, "not_found", None),
    (LastAdmin, 409, "last_admin", None),
    (KeysUnusable, 503, "keys_unusable", None),
]
# What to do about it, where the message says only what is wrong.
_ADVICE: dict[type[Exception], str] = {
    TooLarge: "send less, or raise http.max_upload_bytes",
    BackupFailed: "see the folder that backup.folder names, and its disk",
}
_HTTP_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return rendered(error, request.scope["path"])


def stopping() -> Refusal:
    return Refusal(503, "shutting_down", "whisperd is stopping; try again soon", headers=RETRY_AFTER)


def crowded() -> Refusal:
    message = "whisperd has as many connections as it serves at a time; try again soon"
    return Refusal(503, "too_many_connections", message, headers=RETRY_AFTER)


def failed(request: Request, error: Exception) -> Response:
    """One of our own errors, by the table."""
    return rendered(as_refusal(error), request.scope["path"])


def as_refusal(error: Exception) -> Refusal:
    """A refusal as it is; one of our own errors by the table."""
    if isinstance(error, Refusal):
        return error
    status, code, param = next((s, c, p) for kind, s, c, p in _TABLE if isinstance(error, kind))
    headers = RETRY_AFTER if status == 503 else {}
    if isinstance(error, NoRoom):
        headers = {"Retry-After": str(error.retry_after)}
    message = "the queue cannot be written at present" if code == "storage_failed" else explained(error)
    return Refusal(status, code, message, param, headers)


def explained(error: Exception) -> str:
    """What is wrong, and what to do about it."""
    advice = _ADVICE.get(type(error))
    return f"{error}; {advice}" if advice else str(error)


def http_failed(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: no such route, wrong method."""
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, "http_error")
    message = error.detail
    if code == "method_not_allowed":
        message = f"{request.method} is not allowed here; allowed: {(error.headers or {})['Allow']}"
    elif code == "not_found":
        message = "there is no such path; the README lists the calls"
    refusal = Refusal(error.status_code, code, message, None, error.headers)
    return rendered(refusal, request.scope["path"])


def left(request: Request, error: Exception) -> Response:
    """The client has gone in mid-request: nobody reads this, and nothing of ours is wrong."""
    return Response(status_code=400)


def broke(request: Request, error: Exception) -> Response:
    """A bug of ours. Starlette has logged it; the outside learns nothing of it."""
    log.error("a request broke", path=request.scope.get("path"), exc_info=error)
    refusal = Refusal(500, "internal_error", "whisperd failed on this request; its log says why")
    return rendered(refusal, request.scope["path"])


class ErrorBody(Struct, frozen=True, kw_only=True):
    code: str
    message: str
    param: str | None


class ErrorView(Struct, frozen=True, kw_only=True):
    """What an error looks like: `message` says what to do about it, `param` names the field."""

    error: ErrorBody


def _ours(error: Refusal) -> Response:
    body = ErrorBody(code=error.code, message=error.message, param=error.param)
    return Json(ErrorView(error=body), error.status, error.headers)


class EnvelopedBody(Struct, frozen=True, kw_only=True):
    code: str
    message: str


class EnvelopedError(Struct, frozen=True, kw_only=True):
    """What an error of the WhisperAPI looks like: the code in capitals."""

    success: Literal[False] = False
    error: EnvelopedBody


def _enveloped(error: Refusal) -> Response:
    body = EnvelopedBody(code=error.code.upper(), message=error.message)
    return Json(EnvelopedError(error=body), error.status, error.headers)


class OpenAIErrorBody(Struct, frozen=True, kw_only=True):
    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None


class OpenAIError(Struct, frozen=True, kw_only=True):
    """What an error of OpenAI's API looks like: always with all four."""

    error: OpenAIErrorBody


# What OpenAI has a status for; else it is 400. Its clients repeat 408, 409, 429 and all from 500 on: so the
# first two are never used, that nothing is uploaded again in vain.
_OPENAI_STATUSES = {401, 403, 404, 405, 413, 429}
_OPENAI_CODE_STATUS = {"model_not_found": 404, "queue_full": 429}
_LONGEST_RETRY_AFTER = 120  # seconds; its clients pay no heed to more


def _openai(error: Refusal) -> Response:
    status = _openai_status(error)
    headers = dict(error.headers)
    if "Retry-After" in headers:
        headers["Retry-After"] = str(min(int(headers["Retry-After"]), _LONGEST_RETRY_AFTER))
    return Json(openai_error(error), status, headers)


def openai_error(error: Refusal) -> OpenAIError:
    match _openai_status(error):
        case 429:
            kind = "rate_limit_error"
        case status if status >= 500:
            kind = "server_error"
        case _:
            kind = "invalid_request_error"
    code = "invalid_api_key" if error.status == 401 else error.code
    body = OpenAIErrorBody(message=error.message, type=kind, param=error.param, code=code)  # type: ignore[arg-type]
    return OpenAIError(error=body)


def _openai_status(error: Refusal) -> int:
    if error.code in _OPENAI_CODE_STATUS:
        return _OPENAI_CODE_STATUS[error.code]
    return error.status if error.status >= 500 or error.status in _OPENAI_STATUSES else 400


class Dialect(NamedTuple):
    """How the API below a path writes errors."""

    view: type[Struct]
    write: Callable[[Refusal], Response]


_OURS = Dialect(ErrorView, _ours)
_DIALECTS = {  # by the start of the path
    "/api/v1/": Dialect(EnvelopedError, _enveloped),
    "/v1/": Dialect(OpenAIError, _openai),
}


def _dialect(path: str) -> Dialect:
    return next((dialect for start, dialect in _DIALECTS.items() if path.startswith(start)), _OURS)


def rendered(error: Refusal, path: str) -> Response:
    """The error as the API that this path belongs to writes errors."""
    return _dialect(path).write(error)


def view_of(path: str) -> type[Struct]:
    """What an error on this path looks like."""
    return _dialect(path).view


HANDLERS = {
    Refusal: refused,
    TaskError: failed,
    TooLarge: failed,
    BackupError: failed,
    NoSuchKey: failed,
    LastAdmin: failed,
    KeysUnusable: failed,
    HTTPException: http_failed,
    ClientDisconnect: left,
    Exception: broke,
}
