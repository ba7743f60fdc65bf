"""Each request, and how it was answered: counted."""

from __future__ import annotations

from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whisperd.routes import Services
from whisperd.routes.call import route_of


class Access:
    """A stream counts once, with the time until it begins. WebSockets are not counted."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = perf_counter(), 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._count(scope, status, began)
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            if not status:  # Starlette answers it, outside of us
                self._count(scope, 500, began)
            raise

    def _count(self, scope: Scope, status: int, began: float) -> None:
        self._services.counts.answered(scope["method"], route_of(scope), status, perf_counter() - began)
