"""How each API writes errors: ours, the envelope of the WhisperAPI, OpenAI's. Chosen by the path alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct
from starlette.responses import Response

from whisperd.routes import Json

if TYPE_CHECKING:  # errors.py has its errors written here
    from whisperd.routes.errors import Refusal


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
