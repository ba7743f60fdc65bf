"""Reading a submission: multipart or JSON in, checked options and audio on disk out.

The body goes from the socket to the spool as it comes; no part of it is kept in memory or in a temporary
folder. Whatever is wrong with it raises before anything is acknowledged, and leaves nothing behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from ulid import ULID

from whisperd import links, sniff
from whisperd.buckets import place_of
from whisperd.config import Config
from whisperd.look import after
from whisperd.outbound import Outbound, UrlRefused
from whisperd.risk.rules import Severity
from whisperd.routes import Caller, caller, services
from whisperd.routes.errors import Refusal
from whisperd.routes.form import MAX_FIELD_BYTES, MAX_FIELDS, Form, read_form
from whisperd.routes.interactive import unless_left
from whisperd.routes.local_file import copy_local
from whisperd.routes.reading import checked, counted, json_object
from whisperd.routes.remote_file import fetch_remote
from whisperd.spool import Incoming
from whisperd.task import Audio, Detection, NewTask, Options
from whisperd.tracing import PARENT
from whisperd.transcript import language_code

HIGHEST = 100  # priority
_LISTS = frozenset({"risk", "packs", "categories"})  # in a form JSON, or with commas between
_BOOLS = frozenset({"true", "false", "1", "0"})
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 32  # levels; a task with more than some 900 could be stored and never be shown
LAST_YEAR = 9000  # of a run_at: near the end of the calendar a time in UTC can be one that nothing shows


Moment = Annotated[datetime, Meta(tz=True)]  # RFC 3339, with its offset


NAMES_AUDIO = ("audio_path", "audio_url")  # the options that do, where no file comes along


def _is(about: str, format: str | None = None, **bounds: Any) -> Meta:
    """What a value is, in words, and its bounds; its format is a hint: who uses the value checks it."""
    return Meta(description=about, extra_json_schema={"format": format} if format else None, **bounds)


PackName = Annotated[str, Meta(min_length=1, max_length=64)]
Language = Annotated[str, _is("By code or English name; auto: it is found out.", "language")]


class Submission(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The submit options: form fields or JSON keys of the same names."""

    audio_path: Annotated[str, _is("Of a file there, below one of http.allowed_roots.", "path")] | None = None
    audio_url: Annotated[str, _is("Where to fetch it from: http, https or s3.", "uri")] | None = None
    model: Annotated[str, _is("Its name.", "model", min_length=1, max_length=200)] | None = None
    language: Language = "auto"
    translate: Annotated[bool, _is("Into English.")] = False
    prompt: Annotated[str, _is("Names and words to expect.", max_length=4000)] | None = None
    temperature: Annotated[float, _is("Above 0 chance has a say.", ge=0, le=1)] = 0.0
    beam_size: Annotated[int, _is("Texts that are weighed at a time; 1 is fastest.", ge=1, le=8)] = 5
    word_timestamps: Annotated[bool, _is("Find out when each word is said.")] = False
    vad: Annotated[bool, _is("Leave out what is no speech.")] = True
    channels: Annotated[Literal["mix", "split"], _is("split: one speaker a channel.")] = "mix"
    detect_only: Annotated[bool, _is("Find out the language, and stop there.")] = False
    priority: Annotated[int, _is("Higher runs first, whatever the plan.", ge=-100, le=100)] | None = None
    plan: Annotated[Literal["FREE", "PRO", "PAYG"], _is("Priority and limits by name.")] | None = None
    tenant: Annotated[str, _is("Whose task it is.", pattern=r"^[\w.@:+-]{1,100}\Z")] | None = None
    max_retries: Annotated[int, _is("Times a chunk that failed runs again.", ge=0, le=100)] | None = None
    run_at: Annotated[Moment, _is(f"Not before; in a year before {LAST_YEAR}.")] | None = None
    timeout_seconds: Annotated[float, _is("From its start on.", gt=0, le=31_622_400)] | None = None
    callback_url: Annotated[str, _is("What is told when the task is over.", "uri")] | None = None
    result_url: Annotated[str, _is("Where its transcript goes, s3://bucket/key.", "uri")] | None = None
    metadata: Annotated[dict[str, Any], _is("Yours, shown with the task: at most 16 KiB.")] = {}
    alert_url: (
        Annotated[str, _is("What is told of severe findings, while a call runs, too.", "uri")] | None
    ) = None
    alert_severity: Annotated[Severity, _is("Of the findings that it is told of, at least.")] = Severity.HIGH
    risk: Annotated[bool | list[PackName], _is("Look for risk in the transcript; by these packs only.")] = (
        False
    )

    def options(self) -> Options:
        names = Options.__struct_fields__
        return Options(**{name: getattr(self, name) for name in names})

    def detection(self) -> Detection | None:
        """What to look for in the transcript. Raises Refusal."""
        if self.detect_only and self.risk:
            raise Refusal(422, "invalid_field", "detect_only makes no transcript to look through", "risk")
        if self.alert_url is not None and not self.risk:
            raise Refusal(422, "invalid_field", "there are no findings without risk", "alert_url")
        if not self.risk:
            return None
        packs = tuple(self.risk) if isinstance(self.risk, list) else None
        return Detection(packs=packs, alert_url=self.alert_url, alert_severity=self.alert_severity)

    def rules_json(self) -> str | None:
        """Rules that were sent along. Raises Refusal."""
        return None

    def tenant_for(self, caller: Caller) -> str:
        """Raises Refusal for one that the caller may not make tasks of."""
        tenant = self.tenant or caller.owner
        if caller.tenant not in (None, tenant):
            raise Refusal(403, "forbidden", "this key makes tasks of its own tenant only", "tenant")
        return tenant

    def plan_for(self, caller: Caller) -> str | None:
        """By which the task is counted: that of a tenant's own key, whatever the submission names.

        A key for several tenants says nothing of the plan of any.
        """
        return self.plan if caller.tenant is None else caller.plan

    def priority_for(self, caller: Caller, config: Config) -> int:
        """An explicit priority wins over that of a plan. Raises Refusal above the plan of a key it binds."""
        if self.priority is not None:
            return checked_priority(self.priority, caller, config, "priority")
        plan = self.plan or caller.plan
        return checked_priority((config.plans.priority(plan) if plan else None) or 0, caller, config, "plan")


Asked = TypeVar("Asked", bound=Submission)


async def receive(
    request: Request, incoming: Incoming, config: Config, form_of: type[Asked]
) -> tuple[Asked, str]:
    """Write the request's audio to `incoming`; return the checked options and the audio's name.

    Raises Refusal, TooLarge, StorageFull.
    """
    kind, _ = parse_options_header(request.headers.get("content-type"))
    if kind == b"multipart/form-data":
        form = await receive_form(request, incoming, config, optional=True)
        submission = checked_form(_of_form(form), form_of)
        return submission, form.file_name or await named(request, submission, incoming)
    if kind == b"application/json":
        _check_head(request, config)
        submission = checked_json(await json_object(request), form_of)
        return submission, await named(request, submission, incoming)
    raise Refusal(
        415, "unsupported_content_type", "send multipart/form-data with a file, or application/json"
    )


def _of_form(form: Form) -> dict[str, str]:
    fields = dict(form.fields)
    if "audio_path" in fields:
        raise Refusal(422, "invalid_field", "a form sends the file; JSON may name one", "audio_path")
    if form.file_name and fields.get("audio_url"):
        raise Refusal(422, "invalid_field", "send the file or its URL, not both", "audio_url")
    if not form.file_name and not fields.get("audio_url"):
        raise _no_file()
    return fields


async def named(request: Request, submission: Submission, incoming: Incoming) -> str:
    """Get the audio that the request only names. Returns its name. Raises ClientDisconnect.

    Who leaves meanwhile is told of no task, so there must be none: it would come again for another.
    """
    return await unless_left(request.receive, _fetched(request, submission, incoming))


async def _fetched(request: Request, submission: Submission, incoming: Incoming) -> str:
    here = services(request)
    if submission.audio_url is not None:
        tenant = submission.tenant_for(caller(request))
        name = await fetch_remote(submission.audio_url, incoming, here, tenant)
        check_audio(incoming.head, "audio_url")
    else:
        name = await copy_local(submission.audio_path, incoming, here.config)
        check_audio(incoming.head, "audio_path")
    return name


async def receive_form(
    request: Request,
    incoming: Incoming,
    config: Config,
    takes: Callable[[str], bool] | None = None,
    file: str = "file",
    *,
    optional: bool = False,
) -> Form:
    """Write the file of a multipart form to `incoming`; see read_form. Raises as `receive` does.

    `optional`: there need be no file.
    """
    _check_head(request, config)
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise Refusal(415, "unsupported_content_type", "send multipart/form-data with a file")
    if not parameters.get(b"boundary"):
        raise Refusal(400, "malformed_multipart", "its Content-Type names no boundary")
    body = counted(request, _longest_form(config), file)
    form = await read_form(incoming, parameters[b"boundary"], body, takes, file)
    if form.file_name:
        check_audio(incoming.head, file)
    elif not optional:
        raise _no_file(file)
    return form


def _no_file(field: str = "file") -> Refusal:
    return Refusal(422, "missing_field", f"send the audio as a form field named {field}", field)


def new_task(
    task_id: str,
    submission: Submission,
    audio: Audio,
    config: Config,
    caller: Caller,
    idempotency_key: str | None,
) -> NewTask:
    """Raises Refusal for what the caller may not do."""
    checked_callback(submission.callback_url, config)
    checked_callback(submission.alert_url, config, "alert_url")
    _check_result(submission.result_url, config)
    options = submission.options()
    content = (audio.sha256, msgspec.structs.replace(submission, audio_path=None, audio_url=None))
    new = NewTask(
        id=task_id,
        audio=audio,
        model=submission.model or config.workers.model,
        options=options,
        priority=submission.priority_for(caller, config),
        tenant=submission.tenant_for(caller),
        plan=submission.plan_for(caller),
        max_retries=config.queue.max_retries if submission.max_retries is None else submission.max_retries,
        run_at=unix_seconds(submission.run_at),
        timeout_seconds=submission.timeout_seconds,
        callback_url=submission.callback_url,
        result_url=submission.result_url,
        metadata=submission.metadata,
        idempotency_key=idempotency_key,
        body_sha256=hashlib.sha256(msgspec.json.encode(content)).hexdigest(),
        trace=PARENT.get(),
    )
    asked = submission.detection()
    if asked is None:
        return new
    return msgspec.structs.replace(new, then=after(new, str(ULID()), asked, submission.rules_json()))


def checked_callback(url: str | None, config: Config, param: str = "callback_url") -> str | None:
    """The URL. Refuses what would never be called: where a name leads to is looked at when it is."""
    try:
        if url is not None:
            Outbound(config.outbound).check(url)
    except UrlRefused as error:
        raise Refusal(422, "invalid_field", str(error), param) from None
    return url


def _check_result(url: str | None, config: Config) -> None:
    """Refuse what would never be written."""
    try:
        if url is not None:
            bucket, key = place_of(url, config.s3.buckets)
            if f"s3://{bucket}/{key}".startswith(links.reserved(config)):
                raise UrlRefused("nobody but whisperd writes there")
    except UrlRefused as error:
        raise Refusal(422, "invalid_field", str(error), "result_url") from None


def interactive(submission: Asked, caller: Caller, config: Config) -> Asked:
    """With the priority of tasks whose client waits for them, connected: as far as its plan goes."""
    priority = min(config.http.interactive_priority, _most(caller, config))
    return msgspec.structs.replace(submission, priority=priority)


def checked_priority(priority: int, caller: Caller, config: Config, param: str) -> int:
    """The priority. Raises Refusal above that of the caller's plan."""
    most = _most(caller, config)
    if priority > most:
        message = f"the plan of this key is {caller.plan}: its tasks have priority {most} at most"
        raise Refusal(403, "forbidden", message, param)
    return priority


def _most(caller: Caller, config: Config) -> int:
    """The highest priority that the caller may have."""
    of_plan = config.plans.priority(caller.plan) if caller.plan else None
    return HIGHEST if caller.may_go_ahead or of_plan is None else of_plan


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


def checked_form(fields: Mapping[str, Any], kind: type[Asked]) -> Asked:
    """The options, all valid, from the texts of a form; one that is empty is as if it were not there."""
    given = {name: value for name, value in fields.items() if value != ""}
    if "metadata" in given:
        given["metadata"] = _json(given["metadata"], "metadata")
    for name in _LISTS & given.keys():
        if not (name == "risk" and given[name].lower() in _BOOLS):
            given[name] = _list(given[name], name)
    if "rules" in given:
        given["rules"] = _json(given["rules"], "rules")
    return _checked(given, kind, strict=False)


def checked_json(fields: Mapping[str, Any], kind: type[Asked]) -> Asked:
    """The options, all valid, from a JSON object."""
    return _checked(fields, kind, strict=True)


def _checked(fields: Mapping[str, Any], kind: type[Asked], *, strict: bool) -> Asked:
    """The options, all valid. Strict: JSON types as they are; else texts, too."""
    submission = checked(fields, kind, strict=strict)
    if submission.audio_path is not None and submission.audio_url is not None:
        raise Refusal(422, "invalid_field", "name the audio once: audio_url or audio_path", "audio_url")
    check_metadata(submission.metadata)
    return msgspec.structs.replace(submission, language=language_of(submission.language))


def language_of(text: str) -> str:
    """The code of a language that is given by code or name, or "auto". Raises Refusal."""
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


def _list(text: str, field: str) -> Any:
    return _json(text, field) if text.startswith("[") else [part for part in text.split(",") if part]


def _json(text: str, field: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise Refusal(422, "invalid_field", "must be JSON", field) from None


def check_audio(head: bytes, param: str) -> None:
    """Refuse what is certainly not media."""
    if what := sniff.not_media(head):
        raise Refusal(415, "unsupported_media", f"this is {what}, not audio or video", param)
