"""/openapi.json, made from the declarations of all calls, and /docs, a page that shows it without a network.

OpenAPI 3.1: https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from whisperd import __version__
from whisperd.routes.call import TAGGED, Answer, Call, Form, Header
from whisperd.routes.dialects import view_of
from whisperd.routes.web import PAGE, PART, Folder

Schema = dict[str, Any]

_ABOUT = """\
A transcription daemon for one box: a durable queue in front of whisper.cpp.

What is answered with 2xx is never lost; what is answered with an error leaves nothing behind."""
_TAGS = {"/tasks": "Tasks", "/api/v1/": "WhisperAPI v1", "/v1/": "OpenAI", "/admin/": "Operation"}
_ANYWHERE = (403, 503)  # a Host or Origin that is not served; stopping, or trouble with the storage
_REF = "#/components/schemas/{name}"
_PAGE = Folder(
    "docs",
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
)


def document(calls: Sequence[Call]) -> Schema:
    """The OpenAPI document of these calls."""
    schemas = _Schemas(calls)
    paths: dict[str, Schema] = {}
    for call in calls:
        path = re.sub(r":\w+}", "}", call.path)  # Starlette's {model_id:path}
        paths.setdefault(path, {})[call.method.lower()] = _operation(call, path, schemas)
    _link(paths)
    return {
        "openapi": "3.1.0",
        "info": {"title": "whisperd", "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


class _Schemas:
    """The JSON schemas of all types that the calls name, each once."""

    def __init__(self, calls: Sequence[Call]) -> None:
        types = list(dict.fromkeys(_types(calls)))
        schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
        self._by_type: dict[Any, Schema] = dict(zip(types, map(_portable, schemas), strict=True))
        self._all: dict[str, Schema] = {name: _portable(schema) for name, schema in components.items()}
        self._unfolded: set[str] = set()  # shown field by field where they are used

    @property
    def components(self) -> dict[str, Schema]:
        return {name: schema for name, schema in self._all.items() if name not in self._unfolded}

    def of(self, kind: Any) -> Schema:
        return self._by_type[kind]

    def fields(self, kind: type[Struct]) -> Schema:
        """The schema of a struct itself, and no reference to it."""
        name = self._by_type[kind]["$ref"].rpartition("/")[2]
        self._unfolded.add(name)
        return self._all[name]


def _types(calls: Sequence[Call]) -> Iterator[Any]:
    for call in calls:
        yield from (kind for kind in (call.query, call.body) if kind is not None)
        yield from (answer.body for answer in call.answers.values() if answer.body is not None)
        if call.form is not None:
            yield call.form.fields
        yield view_of(call.path)


def _portable(schema: Any) -> Any:
    """Python's \\Z, which is not in the regular expressions of JSON Schema, as the $ it stands for there."""
    if isinstance(schema, dict):
        return {
            name: value.replace(r"\Z", "$") if name == "pattern" else _portable(value)
            for name, value in schema.items()
        }
    return [_portable(item) for item in schema] if isinstance(schema, list) else schema


def _operation(call: Call, path: str, schemas: _Schemas) -> Schema:
    summary, _, rest = inspect.cleandoc(call.handler.__doc__ or "").partition("\n")
    operation: Schema = {
        "operationId": f"{call.method.lower()}{re.sub(r'[^a-z0-9]+', '_', path.lower())}".rstrip("_"),
        "summary": summary,
        "description": rest.strip(),
        "tags": [next((tag for start, tag in _TAGS.items() if path.startswith(start)), "Daemon")],
        "parameters": [*_path_parameters(path), *_query(call, schemas), *_headers(call.headers)],
        "responses": dict(_responses(call, path, schemas)),
        "security": [{}] if call.right == "public" else [{"key": [call.right]}, {}],
    }
    if body := _request_body(call, schemas):
        operation["requestBody"] = body
    return operation


def _link(paths: Mapping[str, Schema]) -> None:
    """Say of the task that is submitted what can be done with it."""
    links = {
        operation["operationId"]: {
            "operationId": operation["operationId"],
            "parameters": {"task_id": "$response.body#/task_id"},
        }
        for path, operations in paths.items()
        if "{task_id}" in path
        for operation in operations.values()
    }
    for status in ("200", "202"):
        paths["/tasks/transcription"]["post"]["responses"][status]["links"] = links


def _path_parameters(path: str) -> Iterator[Schema]:
    for name in re.findall(r"{(\w+)}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query(call: Call, schemas: _Schemas) -> Iterator[Schema]:
    """A list takes its values with commas between: `reading.queried`."""
    fields = schemas.fields(call.query) if call.query else {"properties": {}}
    for name, schema in fields["properties"].items():
        given = _given(schema)
        about = given.pop("description", "")
        yield {
            "name": name,
            "in": "query",
            "schema": given,
            "style": "form",
            "explode": False,
            **({"description": about} if about else {}),
        }


def _given(schema: Schema) -> Schema:
    """What a value looks like that is there: neither a query nor a form has a null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return dict(kinds[0]) if len(kinds) == 1 else dict(schema)


def _headers(headers: Mapping[str, Header]) -> Iterator[Schema]:
    for name, header in headers.items():
        schema = _portable({"type": "string", "pattern": header.pattern})
        example = {"example": header.example} if header.example else {}
        yield {"name": name, "in": "header", "description": header.about, "schema": schema, **example}


def _request_body(call: Call, schemas: _Schemas) -> Schema | None:
    if call.body is not None:
        return {"required": True, "content": {"application/json": {"schema": schemas.of(call.body)}}}
    if call.form is None:
        return None
    content = {"multipart/form-data": {"schema": _form(call.form, schemas)}}
    if call.form.or_json:
        content["application/json"] = {"schema": _named(call.form, schemas)}
    return {"required": True, "content": content}


def _form(form: Form, schemas: _Schemas) -> Schema:
    fields = schemas.fields(form.fields)
    taken = {
        name: _given(schema) for name, schema in fields["properties"].items() if name not in form.without
    }
    file = {"type": "string", "format": "binary", "description": "The audio, or a video with sound."}
    return {
        **fields,
        "properties": {form.file: file, **taken},
        **_with_audio(form, fields.get("required", [])),
        "additionalProperties": form.open,
    }


def _with_audio(form: Form, required: list[str]) -> Schema:
    """That the file is there, or the field in place of it, and not both."""
    if not form.or_field:
        return {"required": [form.file, *required]}
    names = (form.file, form.or_field), (form.or_field, form.file)
    return {"anyOf": [{"required": [one, *required], "properties": {no: False}} for one, no in names]}


def _named(form: Form, schemas: _Schemas) -> Schema:
    """The fields as JSON, of which just one names the audio."""
    fields = schemas.fields(form.fields)
    unnamed = {name: {"type": "null"} for name in form.or_json}
    ways = [
        {"required": [name], "properties": {**unnamed, name: _given(fields["properties"][name])}}
        for name in form.or_json
    ]
    return {**fields, "anyOf": ways}


def _responses(call: Call, path: str, schemas: _Schemas) -> Iterator[tuple[str, Schema]]:
    for status, answer in call.answers.items():
        yield str(status), _answer(answer, schemas)
    for status in sorted({*_refusals(call, path)} - call.answers.keys()):
        error = {"application/json": {"schema": schemas.of(view_of(call.path))}}
        yield str(status), {"description": HTTPStatus(status).phrase, "content": error}


def _refusals(call: Call, path: str) -> Iterator[int]:
    yield from (*_ANYWHERE, *call.refusals)
    if call.method != "GET" and call.right != "public":
        yield 507  # what changes something is written
    if call.right != "public":
        yield 401
    if "{" in path:
        yield 404
    if call.query is not None or call.body is not None:
        yield 422
    if call.body is not None:
        yield from (400, 413)


def _answer(answer: Answer, schemas: _Schemas) -> Schema:
    response: Schema = {"description": answer.about}
    content: Schema = {kind: {} for kind in answer.media_types}
    if answer.body is not None:
        content["application/json"] = {"schema": schemas.of(answer.body)}
    if content:
        response["content"] = content
    if answer.headers:
        response["headers"] = {
            name: {"description": about, "schema": {"type": "string"}}
            for name, about in answer.headers.items()
        }
    return response


async def show_document(request: Request) -> Response:
    """This description of all calls, as OpenAPI 3.1."""
    known = request.app.state
    if known.document is None:  # made beside the loop, which it would hold up for 80 ms
        known.document = await asyncio.to_thread(_written, known.calls)
    return Response(known.document, media_type="application/json")


def _written(calls: Sequence[Call]) -> bytes:
    return msgspec.json.encode(document(calls))


async def show_page(request: Request) -> Response:
    """A page that shows all calls, and tries them."""
    return await _PAGE.answer(request, "index.html")


async def show_part(request: Request) -> Response:
    """A part of that page."""
    return await _PAGE.answer(request, str(request.path_params["name"]))


_DOCUMENT = {200: Answer(about="The document.", body=dict[str, Any])}

calls = [
    Call(method="GET", path="/openapi.json", handler=show_document, right="public", answers=_DOCUMENT),
    Call(method="GET", path="/docs", handler=show_page, right="public", answers=PAGE, headers=TAGGED),
    Call(method="GET", path="/docs/{name}", handler=show_part, right="public", answers=PART, headers=TAGGED),
]
