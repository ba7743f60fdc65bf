"""Which of our errors is which status, and what it says: one table. How it is written: dialects.py.

Messages are safe to show: no path, no stack trace, no secret.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from whisperd.archive import BackupError
from whisperd.backup import BackupFailed
from whisperd.keys import KeysUnusable, LastAdmin, NoSuchKey, TooManyKeys
from whisperd.muting import AudioMissing, CannotMute
from whisperd.redacting import NotRedacted, NotRedactedYet
from whisperd.routes.dialects import rendered
from whisperd.s3 import S3Error
from whisperd.spool import TooLarge
from whisperd.task import (
    AudioGone,
    EditedMeanwhile,
    IdempotencyConflict,
    IndexDamaged,
    ModelUnusable,
    NoRoom,
    QueueAway,
    QueueFull,
    RateLimited,
    StorageBusy,
    StorageFailed,
    StorageFull,
    StorageReadOnly,
    TaskError,
    TaskNotFound,
    TenantQueueFull,
    TooManyWords,
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
    (AudioMissing, 404, "not_found", None),
    (AudioGone, 409, "audio_gone", None),
    (NotRedactedYet, 409, "not_finished", None),
    (NotRedacted, 409, "not_redacted", None),
    (CannotMute, 503, "cannot_mute", None),
    (WrongState, 409, "wrong_state", None),
    (EditedMeanwhile, 412, "edited_meanwhile", "If-Match"),
    (IdempotencyConflict, 422, "idempotency_conflict", "Idempotency-Key"),
    (TooManyWords, 422, "invalid_field", "q"),
    (IndexDamaged, 503, "index_damaged", "q"),
    (ModelUnusable, 422, "model_not_found", "model"),
    (QueueFull, 503, "queue_full", None),
    (TenantQueueFull, 429, "tenant_queue_full", None),
    (RateLimited, 429, "rate_limited", None),
    (QueueAway, 503, "queue_away", None),
    (StorageBusy, 503, "storage_busy", None),
    (StorageReadOnly, 507, "storage_read_only", None),
    (StorageFull, 507, "storage_full", None),
    (StorageFailed, 503, "storage_failed", None),
    (S3Error, 503, "bucket_unavailable", None),
    (TooLarge, 413, "too_large", "file"),
    (BackupError, 503, "backup_failed", None),
    (NoSuchKey, 404, "not_found", None),
    (LastAdmin, 409, "last_admin", None),
    (TooManyKeys, 409, "too_many_keys", None),
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


def emptied() -> Refusal:
    message = "whisperd is being emptied and accepts nothing; try again later, or elsewhere"
    return Refusal(503, "draining", message, headers=RETRY_AFTER)


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
    log.error("a request broke", exc_info=error)
    refusal = Refusal(500, "internal_error", "whisperd failed on this request; its log says why")
    return rendered(refusal, request.scope["path"])


HANDLERS = {
    Refusal: refused,
    TaskError: failed,
    TooLarge: failed,
    BackupError: failed,
    NoSuchKey: failed,
    LastAdmin: failed,
    TooManyKeys: failed,
    KeysUnusable: failed,
    S3Error: failed,
    HTTPException: http_failed,
    ClientDisconnect: left,
    Exception: broke,
}
