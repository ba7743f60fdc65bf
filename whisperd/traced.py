"""Each request as a span, where tracing is on."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whisperd.access import WATCHERS
from whisperd.routes.call import route_of
from whisperd.tracing import Tracing


class Traced:
    """Of a path, only its template is told, and no method that nobody knows: a client may invent any.

    Who watches is not traced: it asks every few seconds.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in WATCHERS:
            await self._app(scope, receive, send)
            return
        with self._tracing.request(Headers(scope=scope)) as span:
            status: int | None = None

            async def send_and_note(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await self._app(scope, receive, send_and_note)
            except Exception:
                status = status or 500  # which is sent further outside
                raise
            finally:
                self._tracing.answered(span, scope["method"], route_of(scope) or "other", status)
