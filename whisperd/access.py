"""Each request, and how it was answered: counted, and a line in the log."""

from __future__ import annotations

from time import perf_counter

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whisperd.routes import Services
from whisperd.routes.call import route_of

log = structlog.get_logger(__name__)
WATCHERS = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})  # ask every few seconds


class Access:
    """A stream is counted with the time until it begins, and logged with all of it; of WebSockets only
    their beginning is counted.

    A path is known by its template alone: what stands in it may be anything, and so may a query.
    """

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, self._noting_the_first(send))
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
                status = 500
                self._count(scope, status, began)
            raise
        finally:
            _say(scope, status, perf_counter() - began)

    def _noting_the_first(self, send: Send) -> Send:
        """Of a WebSocket, whether it was opened: its first message says so."""
        known = False

        async def send_and_note(message: Message) -> None:
            nonlocal known
            if not known:
                known = True
                self._services.counts.asked_for_websocket(opened=message["type"] == "websocket.accept")
            await send(message)

        return send_and_note

    def _count(self, scope: Scope, status: int, began: float) -> None:
        self._services.counts.answered(scope["method"], route_of(scope), status, perf_counter() - began)


def _say(scope: Scope, status: int, seconds: float) -> None:
    """`status` 0: it was cut off before there was an answer."""
    route = route_of(scope)
    say = log.debug if route in WATCHERS else log.info
    say("request", method=scope["method"], route=route, status=status or None, ms=round(1000 * seconds, 1))
