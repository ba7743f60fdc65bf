"""The door: what every request has to show before it meets a route.

Without keys it has to come from this machine, by a name of its own, and from no page of another site. With
keys it has to show one, and nothing else counts: no browser adds a key by itself, so neither a rebound name
nor another site's page gains anything. It does add the cookie of the dashboard's login: that counts for pages
of our own only. What the key may do is decided where the call is declared.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import lru_cache

from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whisperd.config import Http
from whisperd.keys import Key, Ring
from whisperd.routes import Services, cookie
from whisperd.routes.dialects import rendered
from whisperd.routes.errors import Refusal
from whisperd.routes.rights import REFUSED_SOCKET, SESSION, SHOWN, judged, unauthorized
from whisperd.sessions import Session

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
IN_PROTOCOL = "bearer."  # before a key among the subprotocols of a WebSocket
_BEARER = re.compile(r"bearer +(\S+) *\Z", re.IGNORECASE)
_IN_URL = {"key", "api_key", "apikey", "api-key", "token", "access_token"}
_STREAM = "text/event-stream"
_END: Mapping[str, Message] = {  # of a stream, by the type of its connection
    "http": {"type": "http.response.body", "body": b"", "more_body": False},
    "websocket": {"type": "websocket.close", "code": 1008, "reason": "the key does not hold any more"},
}


class Guard:
    """Turns away who may not come in, and notes the key of who may."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._local = Loopback(services.config.http)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        ring = await self._services.keys.current()
        if refusal := _of_url(scope) if ring.is_asked_for else self._local.refusal(scope):
            self._services.counts.refused("guard")
            await _turn_away(refusal, scope, receive, send)
            return
        shown = scope[SHOWN] = self._shown(ring, scope)
        if not isinstance(shown, Refusal):
            send = self._while_it_holds(shown, scope.get(SESSION), scope, send)
        await self._app(scope, receive, send)

    def _shown(self, ring: Ring, scope: Scope) -> Key | Refusal | None:
        if not ring.is_asked_for:
            return None
        if ring.trouble:
            return judged(ring, None, self._now())
        secrets = presented(scope)
        if len(secrets) > 1:
            return unauthorized("different keys were sent; send one")
        if secrets:  # whoever sends a key means that one, whatever cookie his browser adds
            return judged(ring, ring.find(secrets.pop()), self._now())
        if token := cookie.token_of(HTTPConnection(scope)):
            return self._signed_in(ring, token, scope)
        return unauthorized("send a key: Authorization: Bearer KEY")

    def _signed_in(self, ring: Ring, token: str, scope: Scope) -> Key | Refusal:
        session = self._services.sessions.find(token, self._now())
        if session is None:
            return unauthorized("this sign-in is over; sign in again")
        if not cookie.comes_from_us(HTTPConnection(scope)):
            return cookie.cross_site()
        scope[SESSION] = session
        return judged(ring, ring.keys.get(session.key), self._now())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._services.now(), UTC)

    def _while_it_holds(self, key: Key | None, session: Session | None, scope: Scope, send: Send) -> Send:
        """Ends a stream before it tells anything more to a key that was revoked or has expired.

        Or to a browser that has signed out; or to whoever needed no key, once there are keys.

        What is no stream is answered: it was let in, and may be done already.
        """
        streams, ended = scope["type"] == "websocket", False

        async def send_while_it_holds(message: Message) -> None:
            nonlocal streams, ended
            if ended:
                return
            if message["type"] == "http.response.start":
                streams = Headers(raw=message["headers"]).get("content-type", "").startswith(_STREAM)
            elif streams and not await self._holds(key, session):
                ended, message = True, _END[scope["type"]]
            await send(message)

        return send_while_it_holds

    async def _holds(self, key: Key | None, session: Session | None) -> bool:
        """No key holds until there are keys."""
        ring, now = await self._services.keys.current(), self._now()
        if key is None:
            return not ring.is_asked_for
        if session is not None and not self._services.sessions.holds(session, now):
            return False
        return isinstance(judged(ring, ring.keys.get(key.id), now), Key)


async def _turn_away(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send(REFUSED_SOCKET)
    else:
        await rendered(refusal, scope["path"])(scope, receive, send)


def presented(scope: Scope) -> set[str]:
    """The keys that a request shows, wherever. What should be one and is not counts, as an empty text."""
    headers = HTTPConnection(scope).headers
    found = {_bearer(value) for value in headers.getlist("authorization")} | {*headers.getlist("x-api-key")}
    protocols = scope.get("subprotocols") or ()
    return found | {name.removeprefix(IN_PROTOCOL) for name in protocols if name.startswith(IN_PROTOCOL)}


def _bearer(value: str) -> str:
    matched = _BEARER.match(value)
    return matched[1] if matched else ""


def _of_url(scope: Scope) -> Refusal | None:
    """A URL is logged and remembered wherever it passes: a key in it is no secret any more."""
    if not _IN_URL & {name.lower() for name in QueryParams(scope["query_string"])}:
        return None
    message = "no key is taken from a URL, which is logged on its way: send Authorization: Bearer KEY"
    return Refusal(400, "key_in_url", message)


class Loopback:
    """Serve this machine only, by a name of its own, and no page of another site (DNS rebinding, CSRF).

    A browser lets any page send requests here; its Host betrays a rebound name, its Origin another site.
    """

    def __init__(self, config: Http) -> None:
        self._hosts = {
            *LOCAL_NAMES,
            *(host.lower() for host in (_in_url(config.host), *config.allowed_hosts)),
        }
        self._origins = {origin.lower().rstrip("/") for origin in config.allowed_origins}

    def refusal(self, scope: Scope) -> Refusal | None:
        """Why the request is not served."""
        headers = HTTPConnection(scope).headers
        client = scope.get("client")
        if client is not None and not _is_loopback(client[0]):  # a Unix socket has none: its mode decides
            return _forbidden("without keys only this machine is served; see `whisperd keys add`")
        if _host_name(headers.getlist("host")) not in self._hosts | _reached(scope):
            return _forbidden("this Host is not served; see http.allowed_hosts")
        if not self._may_come_from(headers):
            return _forbidden("pages of this Origin are not served; see http.allowed_origins")
        return None

    def _may_come_from(self, headers: Headers) -> bool:
        served = cookie.own_origins(headers) | self._origins
        return all(origin.lower() in served for origin in headers.getlist("origin"))


@lru_cache(maxsize=1024)
def _is_loopback(client: str) -> bool:
    """A proxy names its client in X-Forwarded-For: what is no address is no client of ours."""
    try:
        return ipaddress.ip_address(client).is_loopback
    except ValueError:
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
