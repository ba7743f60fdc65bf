"""What the client raises: a class for each thing that a caller may do differently.

ClientError
  DaemonAway              start it, or try again later
  NotWhisperd             correct the URL
  TaskFailed              the task ended without a transcript
    TaskCancelled
  ApiError                the daemon refused
    Unauthorized, Forbidden
    NotFound
    NotFinished           wait for it
    WrongState            what the task is now does not permit it
      AudioGone           submit the audio again
    InvalidRequest        correct what `param` names
      TooLarge, UnsupportedMedia, IdempotencyConflict
    TryLater              after `retry_after` seconds
      QueueFull, RateLimited, Unavailable
    StorageFull           nothing was accepted; make room
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import msgspec

from whisperd.client.results import Task


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
        self.stopped = bool(cause)  # it was there: what was asked may have been done


class NotWhisperd(ClientError):
    """What answers at the URL is another program, or a version that this client does not understand."""

    def __init__(self, url: object, cause: object = "") -> None:
        super().__init__(f"what answers at {url} is not whisperd" + (f" ({cause})" if cause else ""))


class TaskFailed(ClientError):
    """The task ended without a transcript; `task` says how."""

    def __init__(self, task: Task) -> None:
        why = f"failed: {task.error.message}" if task.error else f"was {task.status}"
        super().__init__(f"task {task.task_id} {why}")
        self.task = task

    @classmethod
    def of(cls, task: Task) -> TaskFailed:
        """For a task that has ended, but is not completed."""
        return (TaskCancelled if task.status == "cancelled" else TaskFailed)(task)


class TaskCancelled(TaskFailed):
    """Somebody cancelled the task."""


class ApiError(ClientError):
    """The daemon refused, and did nothing of what was asked."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status  # of HTTP
        self.code = code  # "not_finished", "queue_full", …
        self.message = message
        self.param = param  # the field whose value is wrong
        self.retry_after = retry_after  # seconds, where the daemon named them
        self.doubtful = False  # an earlier try was cut off, and may have been carried out


class Unauthorized(ApiError):
    """No key, or a wrong one."""


class Forbidden(ApiError):
    """The key may not do this."""


class NotFound(ApiError):
    """There is no such task; or it belongs to somebody else."""


class WrongState(ApiError):
    """The state that the task is in does not permit it."""


class NotFinished(ApiError):
    """There is no result yet."""


class AudioGone(WrongState):
    """A task cannot run again when its audio is not kept any more."""


class InvalidRequest(ApiError):
    """The same request will never be accepted."""


class TooLarge(InvalidRequest):
    """More bytes than the daemon takes."""


class UnsupportedMedia(InvalidRequest):
    """What was sent is no audio or video."""


class IdempotencyConflict(InvalidRequest):
    """The Idempotency-Key has been used for something else."""


class TryLater(ApiError):
    """Refused for now."""


class QueueFull(TryLater):
    """As many tasks wait as the daemon takes."""


class RateLimited(TryLater):
    """The key, or its tenant, asks for too much at a time."""


class Unavailable(TryLater):
    """The daemon is stopping, or waits for its storage."""


class StorageFull(ApiError):
    """The daemon has no room on its disk, or cannot write there."""


_BY_CODE: dict[str, type[ApiError]] = {
    "not_finished": NotFinished,
    "audio_gone": AudioGone,
    "idempotency_conflict": IdempotencyConflict,
    "no_audio": UnsupportedMedia,
    "queue_full": QueueFull,
}
_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: WrongState,
    411: InvalidRequest,
    413: TooLarge,
    415: UnsupportedMedia,
    422: InvalidRequest,
    429: RateLimited,
    503: Unavailable,
    507: StorageFull,
}


class _Said(msgspec.Struct):
    code: str
    message: str
    param: str | None = None


class _Body(msgspec.Struct):
    error: _Said


def refusal(response: httpx.Response) -> ApiError:
    """The error that an answer stands for. It has to have been read."""
    status = response.status_code
    try:
        said = msgspec.json.decode(response.content, type=_Body).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # a proxy's, another program's
        told = f"{response.url} answered {status} {response.reason_phrase}".rstrip()
        said = _Said(f"http_{status}", told)
    kind = _BY_CODE.get(said.code) or _BY_STATUS.get(status, ApiError)
    return kind(status, said.code, said.message, said.param, _seconds(response.headers.get("retry-after")))


def _seconds(text: str | None) -> float | None:
    """A Retry-After: seconds, or a date as proxies write it (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without its zone
        return None
