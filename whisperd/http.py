"""The web application: which routes there are, whom they serve, what an error looks like."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Collection
from contextlib import suppress

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whisperd.config import Http
from whisperd.routes import Services, admin, asr, live, status, tasks, v1, webhooks
from whisperd.routes.call import Call, Socket, mounted
from whisperd.routes.errors import HANDLERS, Refusal, rendered, stopping
from whisperd.routes.interactive import CUT

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
CALLS: list[Call | Socket] = [
    *tasks.calls,
    *live.calls,
    *status.calls,
    *admin.calls,
    *webhooks.calls,
    *v1.calls,
    *asr.calls,
]
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


def build_app(services: Services) -> Starlette:
    logging.getLogger("uvicorn.error").addFilter(_is_complaint)
    app = Starlette(
        routes=mounted(CALLS),
        exception_handlers={**HANDLERS},
        middleware=[
            Middleware(SafeHeaders),
            Middleware(CutOff, services=services),
            Middleware(Loopback, config=services.config.http),
        ],
    )
    app.router.redirect_slashes = False
    app.state.services = services
    return app


def _is_complaint(record: logging.LogRecord) -> bool:
    """uvicorn closes the connection of an answer without an end, as it should, and calls that an error."""
    return not (CUT.get() and record.msg == "ASGI callable returned without completing response.")


class Loopback:
    """Serve this machine only, by a name of its own, and no page of another site (DNS rebinding, CSRF).

    A browser lets any page send requests here; its Host betrays a rebound name, its Origin another site.
    """

    def __init__(self, app: ASGIApp, config: Http) -> None:
        self._app = app
        self._hosts = {
            *LOCAL_NAMES,
            *(host.lower() for host in (_in_url(config.host), *config.allowed_hosts)),
        }
        self._origins = {origin.lower().rstrip("/") for origin in config.allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (refusal := self._refusal(scope)):
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008, "reason": "forbidden"})
                return
            await rendered(refusal, scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = HTTPConnection(scope).headers
        if not _is_loopback(scope.get("client")):
            return _forbidden("without keys only this machine is served")
        if _host_name(headers.getlist("host")) not in self._hosts | _reached(scope):
            return _forbidden("this Host is not served; see http.allowed_hosts")
        if not self._may_come_from(headers):
            return _forbidden("pages of this Origin are not served; see http.allowed_origins")
        return None

    def _may_come_from(self, headers: Headers) -> bool:
        own = {f"http://{headers['host']}".lower(), f"https://{headers['host']}".lower()}
        return all(origin.lower() in own | self._origins for origin in headers.getlist("origin"))


def _is_loopback(client: tuple[str, int] | None) -> bool:
    """A Unix socket has no client address: who may connect, its file mode decides.

    A proxy on this machine names its client in X-Forwarded-For; what is no address is no client of ours.
    """
    if client is None:
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(client[0]).is_loopback
    return False


def _reached(scope: Scope) -> set[str]:
    """The address that the request came to, which the ready line names: a rebound name is no address."""
    match scope.get("server"):
        case (str(address), int()):
            return {_in_url(address)}
        case _:  # a Unix socket
            return set()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _host_name(hosts: Collection[str]) -> str | None:
    """The one Host without its port, in lower case; None when there is none or several."""
    if len(hosts) != 1:
        return None
    (host,) = hosts
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


def _forbidden(message: str) -> Refusal:
    return Refusal(403, "forbidden", message)


class SafeHeaders:
    """Headers that every answer carries."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] += [header for header in HEADERS if header[0] not in present]
            await send(message)

        await self._app(scope, receive, send_with_headers)


class CutOff:
    """What the stop of the daemon cuts off, such as an upload that goes on and on, is told to come back.

    The server ends such a request by a cancel. This is its edge: raised any further, it would be logged as a
    bug and answered with 500. An answer that was begun just ends.
    """

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            if scope["type"] != "http" or not self._services.draining:
                raise
            if not started:
                await rendered(stopping(), scope["path"])(scope, receive, send)
