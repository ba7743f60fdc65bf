"""Reading a request: its query and its JSON body, every value checked against the type that declares it.

Whatever is wrong raises Refusal, which names the field.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from enum import EnumType
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct
from starlette.requests import Request

from whisperd.routes.errors import Refusal

MAX_JSON_BYTES = 256 * 1024

Fields = TypeVar("Fields", bound=Struct)


def checked(fields: Mapping[str, Any], kind: type[Fields], *, strict: bool = True) -> Fields:
    """`fields` as a `kind`, every value valid. Not strict: numbers and bools may be texts. Raises Refusal."""
    fields = {name: _whole(value) for name, value in fields.items()}
    try:
        return msgspec.convert(fields, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind) from None


def queried(request: Request, kind: type[Fields]) -> Fields:
    """The query as a `kind`. Raises Refusal.

    A field that is a tuple takes its values with commas between, or none; names that are not asked for are
    ignored.
    """
    known = _known(kind)
    fields: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name in fields:
            raise Refusal(422, "duplicate_field", "stands twice in the query", name)
        if name in known:
            fields[name] = [part for part in value.split(",") if part] if known[name].is_list else value
    query = checked(fields, kind, strict=False)
    for name in fields:
        if getattr(query, known[name].attribute) is None:  # to msgspec the text "null" is one
            raise Refusal(422, "invalid_field", "null stands for no value here", name)
    return query


class _Known(NamedTuple):
    attribute: str
    is_list: bool


@cache
def _known(kind: type[Struct]) -> Mapping[str, _Known]:
    """The names of a query; msgspec reads the annotations anew each time that it is asked."""
    return {
        field.encode_name: _Known(field.name, _is_list(field.type)) for field in msgspec.structs.fields(kind)
    }


def check_header(request: Request, name: str, pattern: str, means: str) -> None:
    """Refuse a header that is there, and is not what it `means`."""
    value = request.headers.get(name)
    if value is not None and not re.search(pattern, value):
        raise Refusal(422, "invalid_field", f"must be {means}", name)


def has_already(request: Request, tag: str) -> bool:
    """Whether the client names this ETag, or any, as that of what it has. Linear in what it sends."""
    header = request.headers.get("if-none-match", "")
    named = {known.strip().removeprefix("W/") for known in header.split(",")}
    return "*" in named or tag.removeprefix("W/") in named


async def json_body(request: Request, kind: type[Fields], most: int = MAX_JSON_BYTES) -> Fields:
    """A JSON object of so many bytes at most as a `kind`. Raises Refusal."""
    return checked(await json_object(request, most), kind)


async def json_object(request: Request, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object of so many bytes at most. Raises Refusal."""
    body = b"".join([data async for data in counted(request, most, None)])
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal(400, "malformed_json", "the body is not JSON") from None
    if not isinstance(found, dict):
        raise Refusal(400, "malformed_json", "the body must be a JSON object")
    return found


async def counted(request: Request, limit: int, param: str | None) -> AsyncIterator[bytes]:
    """The body as it comes, whatever length was declared. What a parser skips counts too."""
    size = 0
    async for data in request.stream():
        size += len(data)
        if size > limit:
            raise Refusal(413, "too_large", f"the body has more than {limit} bytes", param)
        yield data


def _whole(value: Any) -> Any:
    """JSON has one kind of number, and JSON Schema calls 1.0 an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_list(hint: Any) -> bool:
    return get_origin(hint) is tuple or any(_is_list(part) for part in get_args(hint))


def _invalid(said: str, kind: type[Struct]) -> Refusal:
    """msgspec says "Expected `int` <= 100 - at `$.priority`", or "… unknown field `x`"."""
    unknown = re.search(rf"unknown field `(.*?)`{_WHERE}", said)
    if unknown:
        return Refusal(422, "unknown_field", "there is no such option", unknown[1])
    missing = re.search(rf"missing required field `(.*?)`{_WHERE}", said)
    if missing:
        return Refusal(422, "missing_field", f"{missing[1]} has to be given", missing[1])
    found = re.search(r" - at `\$\.?([\w]*)", said)
    name = found and found[1]
    if name and said.startswith("Invalid enum value"):
        allowed = ", ".join(_choices(get_type_hints(kind)[name]))
        return Refusal(422, "invalid_field", f"must be one of {allowed}", name)
    return Refusal(422, "invalid_field", said.split(" - at ")[0].replace("`", ""), name)


_WHERE = r"(?: - at `\$[^`]*`)?\Z"  # of what is nested


def _choices(hint: Any) -> tuple[str, ...]:
    """The values of the Literal or the Enum in a type, wherever in it."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if isinstance(hint, EnumType):
        return tuple(str(member) for member in hint)  # type: ignore[var-annotated]
    return tuple(value for part in get_args(hint) for value in _choices(part))
