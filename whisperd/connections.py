"""The connections of the HTTP server, and how long each is borne with: uvicorn itself waits for ever.

A head has to be there in time, a body and an answer have to move, and a connection that asks nothing goes
when others need its place. All of that costs a timer a connection, no task and no thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from whisperd.config import Http
from whisperd.counts import Refused
from whisperd.http import HEADERS, SafeHeaders
from whisperd.routes.dialects import rendered
from whisperd.routes.errors import Refusal, crowded

Tell: TypeAlias = Callable[[Refused], None]
MAX_HEADERS = 100
SPARE = 64  # connections beyond the limit, so that there is somebody to answer 503 to, and /health


class ServerConfig(uvicorn.Config):
    """uvicorn's settings, and ours for its connections."""

    def __init__(
        self, app: ASGIApp, limits: Http, refused: Tell = lambda reason: None, **options: Any
    ) -> None:
        """`refused` is told of each that is turned away here, before the application sees it."""
        super().__init__(app, http=Connection, ws=WebSocketConnection, **options)
        self.limits = limits
        self.refused = refused
        self.crowd = Crowd(limits.max_connections, refused)


class Crowd:
    """All connections of a server, and which of them ask nothing."""

    def __init__(self, most: int, refused: Tell) -> None:
        self.most = most
        self._refused = refused
        self._all: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # the longest idle first

    def __len__(self) -> int:
        return len(self._all)

    @property
    def too_large(self) -> bool:
        return len(self) > self.most

    def enter(self, connection: Connection) -> None:
        """Let it in; where there is no room, the one that has asked nothing for longest goes."""
        self._all.add(connection)
        if self.too_large and self._idle:
            self._drop(next(iter(self._idle)))
        if len(self) > self.most + SPARE:
            self._drop(connection)
        else:
            self._idle[connection] = None

    def note(self, connection: Connection, *, idle: bool) -> None:
        """Whether it waits for a head, or for an answer."""
        if not idle:
            self._idle.pop(connection, None)
        elif connection in self._all:
            self._idle.setdefault(connection)

    def leave(self, connection: Connection) -> None:
        self._all.discard(connection)
        self._idle.pop(connection, None)

    def _drop(self, connection: Connection) -> None:
        self._refused("dropped")
        self.leave(connection)  # now: what is lost is told in a later round of the loop
        connection.transport.abort()


class Connection(H11Protocol):
    """One connection, which is cut off when its client is too slow.

    - A head may take `head_seconds`, from the start of the connection or from its first byte.
    - Every `slow_seconds` is looked whether a body that is due, or an answer that is under way, moved by
      `min_bytes_per_second`. While we keep the client waiting, nothing is due. So a stalled one is found
      within twice that time, and never one that is fast enough.
    """

    config: ServerConfig

    def __init__(self, config: ServerConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self._limits, self._crowd = config.limits, config.crowd
        self.app = self._guarded
        self.ws_protocol_class = partial(WebSocketConnection, connection=self)  # type: ignore[assignment]
        self._is_websocket = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._looked_at: object = None  # the request whose body was due at the last look, and ever since
        self._came = 0  # bytes since the last look
        self._unsent = 0  # bytes, at the last look
        self.resumed = False  # since the last look: most of what was unsent was taken

    # --- what asyncio and uvicorn tell ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._crowd.enter(self)
        self._await_head()
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.left()

    def data_received(self, data: bytes) -> None:
        self._came += len(data)
        super().data_received(data)
        if self.flow.read_paused:
            self._looked_at = None  # it sends faster than we take
        self._note_state()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note_state()

    def resume_writing(self) -> None:
        self.resumed = True
        super().resume_writing()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        if self._crowd.too_large:
            self._refuse(crowded(), "crowded")
        else:
            self._is_websocket = True
            super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's, for what is not HTTP: in the shape of all errors."""
        self._refuse(
            Refusal(400, "malformed_request", "this is not HTTP, or its head is too large"), "malformed"
        )

    def left(self) -> None:
        """The connection is over, in whatever protocol it ended."""
        self._crowd.leave(self)
        for timer in (self._head_timer, self._look_timer):
            if timer:
                timer.cancel()

    # --- the head ---

    def _note_state(self) -> None:
        waits_for_head = self.conn.their_state is h11.IDLE
        self._crowd.note(self, idle=waits_for_head)
        if not waits_for_head:
            self._end_head()
        elif self.conn.trailing_data[0]:
            self._await_head()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_seconds, self._head_is_late)

    def _end_head(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if self.conn.trailing_data[0]:
            self._refuse(_too_slow("the head of the request"), "slow")
        else:  # nothing was asked, so nothing is answered
            self.transport.abort()

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, but for requests that are refused by what their head alone tells."""
        refusal = None
        if len(scope["headers"]) > MAX_HEADERS:
            refusal = Refusal(431, "too_many_headers", f"at most {MAX_HEADERS} headers are read")
            self.config.refused("headers")
        elif self._crowd.too_large and not scope["path"].startswith("/health"):
            refusal = crowded()
            self.config.refused("crowded")
        app = SafeHeaders(rendered(refusal, scope["path"])) if refusal else self.config.loaded_app
        await app(scope, receive, send)

    # --- the pace ---

    def _look_later(self) -> None:
        self._look_timer = self.loop.call_later(self._limits.slow_seconds, self._look_again)

    def _look_again(self) -> None:
        self._look_later()
        self.look()

    def look(self) -> None:
        """Cut it off if it has stalled since the last look."""
        if self._answer_stalls():
            self.config.refused("slow")
            self.transport.abort()
        elif self._body_stalls():
            self._end_body()

    def _answer_stalls(self) -> bool:
        """Whether the client took too little of what is in the buffer since the last look."""
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        resumed, self.resumed = self.resumed, False
        return 0 < before < self._unsent + self._least() and self._unsent > 0 and not resumed

    def _body_stalls(self) -> bool:
        """Whether too little came since the last look, of a body that was due all the time."""
        came, self._came = self._came, 0
        before, self._looked_at = self._looked_at, self.cycle if self._body_is_due() else None
        if self._looked_at is None or self._looked_at is not before:
            return False
        return self.cycle.response_complete or came < self._least()

    def _body_is_due(self) -> bool:
        on_its_way = self.conn.their_state is h11.SEND_BODY and not self._is_websocket
        return on_its_way and not self.flow.read_paused and not self.cycle.waiting_for_100_continue

    def _least(self) -> float:
        return self._limits.min_bytes_per_second * self._limits.slow_seconds

    def _end_body(self) -> None:
        self.cycle.disconnected = True  # an answer that the application begins just now goes nowhere
        self._refuse(_too_slow("the body of the request"), "slow")

    def _refuse(self, refusal: Refusal, reason: Refused) -> None:
        """Answer without the application, and close; where an answer was begun, only that."""
        self.config.refused(reason)
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        answer = rendered(refusal, self.scope["path"] if self.scope else "")
        head = h11.Response(
            status_code=answer.status_code,
            headers=[*answer.raw_headers, *HEADERS, (b"connection", b"close")],
            reason=STATUS_PHRASES[answer.status_code],
        )
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class WebSocketConnection(WebSocketsSansIOProtocol):
    """A WebSocket on a connection that goes on being looked at; its client must take, and answer pings."""

    def __init__(self, *args: Any, connection: Connection, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connection = connection

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._connection.left()

    def resume_writing(self) -> None:
        self._connection.resumed = True
        super().resume_writing()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()  # else it stays until what was sent is taken, which may be never


def _too_slow(what: str) -> Refusal:
    return Refusal(408, "too_slow", f"{what} came too slowly; send it again")
