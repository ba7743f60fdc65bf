"""Reading a submission: multipart or JSON in, checked options and audio on disk out.

The body goes from the socket to the spool as it comes; no part of it is kept in memory or in a temporary
folder. Whatever is wrong with it raises before anything is acknowledged, and leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote_to_bytes

import aiofiles
import msgspec
from aiofiles.threadpool.binary import AsyncBufferedReader
from msgspec import Meta, Struct
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from whisperd import sniff
from whisperd.config import Config
from whisperd.routes.errors import Refusal
from whisperd.spool import Incoming, TooLarge
from whisperd.task import Audio, NewTask, Options
from whisperd.transcript import language_code

MAX_FIELDS = 64
MAX_FIELD_BYTES = 64 * 1024
MAX_JSON_BYTES = 256 * 1024
MAX_KEY_LENGTH = 255  # of an Idempotency-Key, in characters
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 32  # levels; a task with more than some 900 could be stored and never be shown
LAST_YEAR = 9000  # of a run_at: near the end of the calendar a time in UTC can be one that nothing shows
READ_BYTES = 256 * 1024
_LATER = {  # options of the contract that this version does not have yet
    "audio_url": "send the file itself",
    "callback_url": "poll the task, or follow its events",
    "risk": "risk detection is not there yet",
}


Body = TypeVar("Body")
Moment = Annotated[datetime, Meta(tz=True)]  # RFC 3339, with its offset


class Submission(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The submit options: form fields or JSON keys of the same names."""

    audio_path: str | None = None
    model: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    language: str = "auto"
    translate: bool = False
    prompt: Annotated[str, Meta(max_length=4000)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] = 0.0
    beam_size: Annotated[int, Meta(ge=1, le=8)] = 5
    word_timestamps: bool = False
    vad: bool = True
    channels: Literal["mix", "split"] = "mix"
    priority: Annotated[int, Meta(ge=-100, le=100)] | None = None
    plan: Literal["FREE", "PRO", "PAYG"] | None = None
    tenant: Annotated[str, Meta(pattern=r"^[\w.@:+-]{1,100}\Z")] = "default"
    max_retries: Annotated[int, Meta(ge=0, le=100)] | None = None
    run_at: Moment | None = None
    timeout_seconds: Annotated[float, Meta(gt=0, le=31_622_400)] | None = None
    metadata: dict[str, Any] = {}

    def options(self) -> Options:
        names = Options.__struct_fields__
        return Options(**{name: getattr(self, name) for name in names})

    def priority_in(self, config: Config) -> int:
        """An explicit priority wins over that of a plan."""
        if self.priority is not None:
            return self.priority
        return (config.plans.priority(self.plan) if self.plan else None) or 0


async def receive(request: Request, incoming: Incoming, config: Config) -> tuple[Submission, str]:
    """Write the request's audio to `incoming`; return the checked options and the audio's name.

    Raises Refusal, TooLarge, StorageFull.
    """
    _check_head(request, config)
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    if kind == b"multipart/form-data":
        if not parameters.get(b"boundary"):
            raise Refusal(400, "malformed_multipart", "its Content-Type names no boundary")
        body = _counted(request, _longest_form(config), "file")
        fields, name = await _form(incoming, parameters[b"boundary"], body)
        return _checked(fields, strict=False), name
    if kind == b"application/json":
        submission = _checked(_json_object(await _small_body(request)), strict=True)
        return submission, await _copy(submission.audio_path, incoming, config)
    raise Refusal(
        415, "unsupported_content_type", "send multipart/form-data with a file, or application/json"
    )


def new_task(
    task_id: str, submission: Submission, audio: Audio, config: Config, idempotency_key: str | None
) -> NewTask:
    options = submission.options()
    content = (audio.sha256, msgspec.structs.replace(submission, audio_path=None))
    return NewTask(
        id=task_id,
        audio=audio,
        model=submission.model or config.workers.model,
        options=options,
        priority=submission.priority_in(config),
        tenant=submission.tenant,
        max_retries=config.queue.max_retries if submission.max_retries is None else submission.max_retries,
        run_at=unix_seconds(submission.run_at),
        timeout_seconds=submission.timeout_seconds,
        metadata=submission.metadata,
        idempotency_key=idempotency_key,
        body_sha256=hashlib.sha256(msgspec.json.encode(content)).hexdigest(),
    )


def idempotency_key(request: Request) -> str | None:
    """Raises Refusal for one that is not worth keeping."""
    key = request.headers.get("idempotency-key")
    if key is None or (0 < len(key) <= MAX_KEY_LENGTH and key.isprintable()):
        return key
    message = f"must be 1 to {MAX_KEY_LENGTH} printable characters"
    raise Refusal(422, "invalid_field", message, "Idempotency-Key")


def declared_bytes(request: Request) -> int:
    """The length of the body as its head has it, or 0; nobody need believe it."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else 0


def _check_head(request: Request, config: Config) -> None:
    """Refuse by the head alone, before a byte of the body is stored."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "unsupported_media", "send the body as it is, without a Content-Encoding")
    if declared_bytes(request) > _longest_form(config):
        raise Refusal(413, "too_large", f"at most {config.http.max_upload_bytes} bytes are accepted", "file")


def _longest_form(config: Config) -> int:
    """Bytes of a whole body: the largest file, with as many and as long fields as there may be."""
    return config.http.max_upload_bytes + MAX_FIELDS * MAX_FIELD_BYTES


async def _counted(request: Request, limit: int, param: str | None) -> AsyncIterator[bytes]:
    """The body as it comes, whatever length was declared. What a parser skips counts too."""
    size = 0
    async for data in request.stream():
        size += len(data)
        if size > limit:
            raise Refusal(413, "too_large", f"the body has more than {limit} bytes", param)
        yield data


async def _form(
    incoming: Incoming, boundary: bytes, body: AsyncIterator[bytes]
) -> tuple[dict[str, str], str]:
    """The fields, and the name of the file, which is written to `incoming`. Raises Refusal."""
    try:
        fields, name = await _Form(incoming, boundary).read(body)
    except FormParserError:
        raise Refusal(400, "malformed_multipart", "the multipart body cannot be read") from None
    if "audio_path" in fields:
        raise Refusal(422, "invalid_field", "a form sends the file; JSON may name one", "audio_path")
    check_audio(incoming.head, "file")
    return fields, name


class _Form:
    """A multipart form on its way in: fields are gathered, the one file goes to `incoming`.

    The parser's callbacks only note what they find, since they cannot wait; `_take` works it off after
    each piece of the body.
    """

    def __init__(self, incoming: Incoming, boundary: bytes) -> None:
        self._incoming = incoming
        self._found: list[tuple[str, bytes]] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": lambda: self._found.append(("part", b"")),
                "on_part_data": self._noting("data"),
                "on_header_field": self._noting("header_field"),
                "on_header_value": self._noting("header_value"),
                "on_header_end": lambda: self._found.append(("header_end", b"")),
                "on_headers_finished": lambda: self._found.append(("headers", b"")),
                "on_part_end": lambda: self._found.append(("part_end", b"")),
                "on_end": lambda: self._found.append(("end", b"")),
            },
        )
        self._header_name = self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._value: bytearray | None = None  # of the field at hand; None in the file
        self._fields: dict[str, str] = {}
        self._file_name: str | None = None
        self._ended = False

    async def read(self, stream: AsyncIterator[bytes]) -> tuple[dict[str, str], str]:
        """The fields, and the name of the file. Raises Refusal, FormParserError."""
        async for data in stream:
            self._parser.write(data)
            for what, piece in self._found:
                await self._take(what, piece)
            self._found.clear()
        if not self._ended:
            raise Refusal(400, "malformed_multipart", "the multipart body ends too early")
        if self._file_name is None:
            raise Refusal(422, "missing_field", "send the audio as a form field named file", "file")
        return self._fields, self._file_name

    def _noting(self, what: str) -> Any:
        return lambda data, start, end: self._found.append((what, data[start:end]))

    async def _take(self, what: str, piece: bytes) -> None:
        match what:
            case "data" if self._value is None:
                await self._incoming.write(piece)
            case "data":
                self._gather(piece)
            case "part":
                self._disposition = b""
            case "header_field":
                self._header_name += piece
            case "header_value":
                self._header_value += piece
            case "header_end":
                self._end_header()
            case "headers":
                self._begin()
            case "part_end":
                self._end_part()
            case "end":
                self._ended = True

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _begin(self) -> None:
        _, parameters = parse_options_header(self._disposition)
        self._name = parameters.get(b"name", b"").decode(errors="replace")
        if self._name == "file":
            if self._file_name is not None:
                raise Refusal(422, "duplicate_field", "send one file a request", "file")
            self._file_name = file_name(_encoded_name(self._disposition) or parameters.get(b"filename", b""))
            self._value = None
            return
        if self._name in self._fields or len(self._fields) >= MAX_FIELDS:
            raise Refusal(422, "duplicate_field", "a field stands twice, or there are too many", self._name)
        self._value = bytearray()

    def _gather(self, piece: bytes) -> None:
        assert self._value is not None
        self._value += piece
        if len(self._value) > MAX_FIELD_BYTES:
            raise Refusal(422, "field_too_long", f"at most {MAX_FIELD_BYTES} bytes", self._name)

    def _end_part(self) -> None:
        if self._value is None:
            return
        try:
            self._fields[self._name] = self._value.decode()
        except UnicodeDecodeError:
            raise Refusal(422, "invalid_field", "must be UTF-8", self._name) from None


def _encoded_name(disposition: bytes) -> bytes | None:
    """The name in `filename*=UTF-8''na%C3%AFve.wav` (RFC 8187), which says more than the plain one beside it.

    RFC 7578 wants none in a form, so the parser ignores it; some programs send it and nothing else.
    """
    unquoted = re.sub(rb'"(?:[^"\\]|\\.)*"', b'""', disposition)  # a plain name may look like it
    found = re.search(rb";\s*filename\*\s*=\s*utf-8'[^']*'([^;\s]*)", unquoted, re.IGNORECASE)
    return found and unquote_to_bytes(found[1])


def file_name(raw: bytes) -> str:
    """The sender's file name, as data to show: the last part of its path, no control characters, short."""
    name = re.split(r"[/\\]", raw.decode(errors="replace"))[-1]
    name = "".join(char for char in name if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
    return name.strip()[:255] or "audio"


def checked(fields: dict[str, Any], kind: type[Body], *, strict: bool = True) -> Body:
    """`fields` as a `kind`, every value valid. Not strict: numbers and bools may be texts. Raises Refusal."""
    try:
        return msgspec.convert(fields, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None


def _checked(fields: dict[str, Any], *, strict: bool) -> Submission:
    """The options, all valid. Strict: JSON types as they are; else the texts of a form."""
    if not strict:
        fields = {name: value for name, value in fields.items() if value != ""}  # an empty input of a page
        if "metadata" in fields:
            fields["metadata"] = _metadata(fields["metadata"])
    for name in _LATER.keys() & fields.keys():
        raise Refusal(422, "not_supported", f"{name} is not supported yet: {_LATER[name]}", name)
    submission = checked(fields, Submission, strict=strict)
    check_metadata(submission.metadata)
    return msgspec.structs.replace(submission, language=_language(submission.language))


def _language(text: str) -> str:
    code = language_code(text)
    if code is None:
        raise Refusal(422, "invalid_field", "must be a language such as en or English, or auto", "language")
    return code


def check_metadata(metadata: dict[str, Any]) -> None:
    """Refuse what is too much to be kept and shown with every task."""
    if not _is_nested_within(metadata, MAX_METADATA_DEPTH):
        raise Refusal(422, "invalid_field", f"at most {MAX_METADATA_DEPTH} levels deep", "metadata")
    if len(msgspec.json.encode(metadata)) > MAX_METADATA_BYTES:
        raise Refusal(422, "invalid_field", f"at most {MAX_METADATA_BYTES} bytes", "metadata")


def _is_nested_within(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels >= 0 and all(_is_nested_within(item, levels - 1) for item in inner)


def unix_seconds(moment: datetime | None) -> float | None:
    """The time of a run_at, UTC. Raises Refusal for one too far away to be shown."""
    if moment is None:
        return None
    if moment.year >= LAST_YEAR:
        raise Refusal(422, "invalid_field", f"must be before the year {LAST_YEAR}", "run_at")
    return moment.timestamp()


def _invalid(said: str) -> Refusal:
    """msgspec says "Expected `int` <= 100 - at `$.priority`", or "… unknown field `x`"."""
    unknown = re.search(r"unknown field `(.*)`", said)
    if unknown:
        return Refusal(422, "unknown_field", "there is no such option", unknown[1])
    where = re.search(r" - at `\$\.?([\w]*)", said)
    return Refusal(422, "invalid_field", said.split(" - at ")[0].replace("`", ""), where and where[1])


def _metadata(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise Refusal(422, "invalid_field", "must be a JSON object", "metadata") from None


async def _small_body(request: Request) -> bytes:
    return b"".join([data async for data in _counted(request, MAX_JSON_BYTES, None)])


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal(400, "malformed_json", "the body is not JSON") from None
    if not isinstance(found, dict):
        raise Refusal(400, "malformed_json", "the body must be a JSON object")
    return found


async def json_body(request: Request) -> dict[str, Any]:
    """A small JSON object. Raises Refusal."""
    return _json_object(await _small_body(request))


async def _copy(path: str | None, incoming: Incoming, config: Config) -> str:
    """Copy a file of this machine into the spool; it may change or go away later. Returns its name."""
    if path is None:
        raise Refusal(422, "missing_field", "send a file, or name one with audio_path", "audio_path")
    if "\0" in path:  # open() itself would raise
        raise _no_such_file()
    opener = partial(_open_below, config.http.allowed_roots)
    try:
        async with aiofiles.open(path, "rb", opener=opener) as file:
            while data := await _read(file):
                await incoming.write(data)
    except TooLarge as error:
        raise Refusal(413, "too_large", str(error), "audio_path") from None
    check_audio(incoming.head, "audio_path")
    return file_name(os.fsencode(path))


async def _read(file: AsyncBufferedReader) -> bytes:
    try:
        return await file.read(READ_BYTES)
    except OSError:
        raise Refusal(422, "invalid_field", "the file cannot be read", "audio_path") from None


def _open_below(roots: Sequence[str], path: str, flags: int) -> int:
    """An opener for open(): of a regular file below a root. One answer for every other case.

    The descriptor that is looked at holds the file, so whatever its path leads to a moment later makes no
    difference; and by itself it opens nothing: no device notices it, no FIFO waits.
    """
    with suppress(OSError):  # gone, not to be read by us, a loop of links
        held = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if _is_file_below(roots, held):
                return os.open(f"/proc/self/fd/{held}", flags | os.O_NONBLOCK)
        finally:
            os.close(held)
    raise _no_such_file()


def _no_such_file() -> Refusal:
    return Refusal(422, "invalid_field", "no such file below http.allowed_roots", "audio_path")


def _is_file_below(roots: Sequence[str], held: int) -> bool:
    place = Path(os.readlink(f"/proc/self/fd/{held}"))  # without links and dots
    below = any(place.is_relative_to(os.path.realpath(root)) for root in roots)  # one may be unmounted
    return below and stat.S_ISREG(os.fstat(held).st_mode)


def check_audio(head: bytes, param: str) -> None:
    """Refuse what is certainly not media."""
    if what := sniff.not_media(head):
        raise Refusal(415, "unsupported_media", f"this is {what}, not audio or video", param)
