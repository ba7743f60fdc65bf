"""A call: one method of one path, who may make it, what it takes and what it answers.

The one declaration from which routing, checks of the input, rights and /openapi.json are made: a handler is
called only with what its declaration lets through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from whisperd.routes import CALLER, Right
from whisperd.routes.errors import Refusal
from whisperd.routes.reading import MAX_JSON_BYTES, check_header, json_body, queried
from whisperd.routes.rights import REFUSED_SOCKET, admit

Handler = Callable[..., Awaitable[Response]]  # (request), with the query or the body behind it if it has one


class Answer(Struct, frozen=True, kw_only=True):
    """One way in which a call ends well."""

    about: str  # for people, in a sentence
    body: Any = None  # the type of its JSON body
    media_types: tuple[str, ...] = ()  # of a body that is no JSON
    headers: Mapping[str, str] = {}  # name, and what it says


class Header(Struct, frozen=True, kw_only=True):
    """A header that a call reads, when it is there."""

    about: str
    pattern: str = ""
    means: str = ""  # the pattern in words: "must be …"
    example: str = ""


# Of a call whose answer has an ETag.
TAGGED = {"If-None-Match": Header(about="The ETag of the one that is here already.")}
STILL = Answer(about="It is still the one of If-None-Match.")


class Form(Struct, frozen=True, kw_only=True):
    """A multipart form, which the handler reads itself as it streams."""

    fields: type[Struct]
    file: str = "file"  # the name of the field with the audio
    or_field: str = ""  # names the audio in place of the file
    without: tuple[str, ...] = ()  # of the fields
    open: bool = False  # others are passed over
    or_json: tuple[str, ...] = ()  # a JSON object of the fields does, too: it names the audio in one of these


class Call(Struct, frozen=True, kw_only=True):
    """The docstring of `handler` is its manual: the first line says what it does.

    `query` and `body` are checked first, and handed to the handler after the request, in this order.
    """

    method: str
    path: str
    handler: Handler
    right: Right
    answers: Mapping[int, Answer]
    query: type[Struct] | None = None
    body: type[Struct] | None = None
    body_bytes: int = MAX_JSON_BYTES  # at most
    form: Form | None = None
    headers: Mapping[str, Header] = {}  # that it reads
    refusals: tuple[int, ...] = ()  # statuses, beside those of any call with such an input

    async def answer(self, request: Request) -> Response:
        request.scope[CALLER] = admit(request, self.right)
        for name, header in self.headers.items():
            check_header(request, name, header.pattern, header.means)
        taken: list[Struct] = []
        if self.query is not None:
            taken.append(queried(request, self.query))
        if self.body is not None:
            taken.append(await json_body(request, self.body, self.body_bytes))
        return await self.handler(request, *taken)


class Socket(Struct, frozen=True, kw_only=True):
    """A WebSocket: the handler accepts it."""

    path: str
    handler: Callable[[WebSocket], Awaitable[None]]
    right: Right

    async def answer(self, socket: WebSocket) -> None:
        try:
            socket.scope[CALLER] = admit(socket, self.right)
        except Refusal:
            await socket.send(REFUSED_SOCKET)
        else:
            await self.handler(socket)


def mounted(calls: Iterable[Call | Socket]) -> list[BaseRoute]:
    """The routes, in the order of their first call.

    There is one for all methods of a path, so that a wrong one is told all that are allowed.
    """
    by_path: dict[str, list[Call]] = {}
    routes: list[BaseRoute] = []
    for call in calls:
        if isinstance(call, Socket):
            routes.append(WebSocketRoute(call.path, call.answer))
        else:
            by_path.setdefault(call.path, []).append(call)
    return [*(Route(path, Endpoint(some)) for path, some in by_path.items()), *routes]


def route_of(scope: Scope) -> str | None:
    """The path of the calls that a request came to, with the names of its parameters; None: there is none."""
    endpoint = scope.get("endpoint")
    return endpoint.path if isinstance(endpoint, Endpoint) else None


class Endpoint:
    """The calls of one path."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.path = calls[0].path
        self.calls = {call.method: call for call in calls}
        head = ["HEAD"] if "GET" in self.calls else []
        self._allow = ", ".join(sorted([*self.calls, *head]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        call = self.calls.get("GET" if request.method == "HEAD" else request.method)
        if call is None:
            raise HTTPException(405, headers={"Allow": self._allow})
        response = await call.answer(request)
        await response(scope, receive, send)
