"""The web application: which routes there are, whom they serve, what an error looks like."""

from __future__ import annotations

import asyncio
import logging

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars
from ulid import ULID

from whisperd.access import Access
from whisperd.config import Http
from whisperd.guard import Guard
from whisperd.routes import (
    Services,
    admin,
    asr,
    bulk,
    dashboard,
    estimate,
    explain,
    findings,
    health,
    keys,
    link,
    live,
    metrics,
    openai,
    openapi,
    rescan,
    result,
    risk,
    session,
    sound,
    status,
    tasks,
    timeline,
    usage,
    v1,
    webhooks,
)
from whisperd.routes.call import Call, Socket, mounted
from whisperd.routes.dialects import rendered
from whisperd.routes.errors import HANDLERS, stopping
from whisperd.routes.interactive import CUT
from whisperd.traced import Traced

CALLS: list[Call | Socket] = [
    *explain.calls,
    *estimate.calls,  # before tasks: no task is called "estimate"
    *bulk.calls,
    *risk.calls,
    *tasks.calls,
    *timeline.calls,
    *result.calls,
    *findings.calls,
    *rescan.calls,
    *link.calls,
    *sound.calls,
    *live.calls,
    *status.calls,
    *health.calls,
    *usage.calls,
    *admin.calls,
    *metrics.calls,
    *webhooks.calls,
    *keys.calls,
    *v1.calls,
    *asr.calls,
    *openai.calls,
    *openapi.calls,
    *dashboard.calls,
    *session.calls,
]
OF_WORKERS = [*status.calls, *health.calls, *admin.calls, *metrics.calls]  # where nobody asks about tasks
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


def build_app(services: Services) -> Starlette:
    logging.getLogger("uvicorn.error").addFilter(_is_complaint)
    calls = CALLS if services.config.redis.answers else OF_WORKERS
    app = Starlette(
        routes=mounted(calls),
        exception_handlers={**HANDLERS},
        middleware=[
            Middleware(SafeHeaders),
            *([Middleware(Traced, tracing=services.tracing)] if services.tracing else []),
            Middleware(Access, services=services),
            Middleware(CutOff, services=services),
            *_for_pages_elsewhere(services.config.http),
            Middleware(Guard, services=services),
        ],
    )
    app.router.redirect_slashes = False
    app.state.services = services
    app.state.calls = [call for call in calls if isinstance(call, Call)]
    app.state.document = None  # of them, once somebody asks for it
    return app


def _is_complaint(record: logging.LogRecord) -> bool:
    """uvicorn closes the connection of an answer without an end, as it should, and calls that an error."""
    return not (CUT.get() and record.msg == "ASGI callable returned without completing response.")


def _for_pages_elsewhere(config: Http) -> list[Middleware]:
    """Lets the browser hand our answers, the refusals too, to pages of the sites that are allowed (CORS).

    Nothing where none is. No cookies: such a page sends a key.
    """
    if not config.allowed_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=[origin.lower().rstrip("/") for origin in config.allowed_origins],
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=[
                "Authorization",
                "X-API-Key",
                "Content-Type",
                "Idempotency-Key",
                "Last-Event-ID",
                "If-Match",
                "If-None-Match",
            ],
            expose_headers=["Location", "Retry-After", "ETag", "Whisperd-Partial"],
        )
    ]


class SafeHeaders:
    """Headers that every answer carries. What is logged of a request has the id that its answer has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = f"req_{ULID()}"
        clear_contextvars()  # and never unbound: each request has a context of its own
        bind_contextvars(request_id=request_id)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-request-id", request_id.encode()))
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
