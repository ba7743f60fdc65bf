"""/session: a browser shows its key once, and is known by a cookie from then on."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address, ip_address
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from whisperd.keys import EVERY, Key, Plan, Scope
from whisperd.routes import Json, Services, cookie, services
from whisperd.routes.call import Answer, Call
from whisperd.routes.errors import Refusal
from whisperd.routes.rights import SESSION, SHOWN, judged
from whisperd.sessions import Session
from whisperd.shown import timestamp

WRONG_KEYS = 10  # a minute, of one address; then no key is taken from there until some of it is over


class SessionView(Struct, frozen=True, kw_only=True):
    """Whether calls need a key, and what this request may do: `scopes`, of which `admin` is all."""

    required: bool
    signed_in: bool
    tenant: str | None  # null: all
    plan: Plan | None
    scopes: tuple[Scope, ...]
    expires_at: str | None


class SignIn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: Annotated[str, Meta(max_length=200, description="As `whisperd keys add` showed it.")]


async def sign_in(request: Request, shown: SignIn) -> Response:
    """Sign a browser in with a key.

    The cookie of the answer may do what the key may, until `expires_at`; it ends with the key, or by DELETE.
    """
    if {"origin", "sec-fetch-site"} & set(request.headers) and not cookie.comes_from_us(request):
        raise cookie.cross_site()  # a page elsewhere would have its visitor work under another's name
    here = services(request)
    ring, peer = await here.keys.current(), _peer(request)
    here.wrong_keys.check(peer, WRONG_KEYS)
    key = judged(ring, ring.find(shown.key), now_utc(here))
    if isinstance(key, Refusal):
        here.wrong_keys.take(peer, WRONG_KEYS)
        raise key
    response = Json(_of_key(key, _end(here, key)))
    await sign_in_by(response, request, key)
    return response


async def sign_in_by(response: Response, request: Request, key: Key) -> None:
    """Have the answer sign its browser in with this key."""
    here = services(request)
    now, end = now_utc(here), _end(here, key)
    token = await here.sessions.begin(key.id, now, end)
    cookie.give(response, request, token, (end - now).total_seconds())


def _end(here: Services, key: Key) -> datetime:
    """When a session ends that begins now: never after its key."""
    end = now_utc(here) + timedelta(hours=here.config.http.session_hours)
    return end if key.expires_at is None else min(end, key.expires_at)


async def show_session(request: Request) -> Response:
    """Who is signed in, and whether that is asked for."""
    shown: Key | Refusal | None = request.scope[SHOWN]
    if isinstance(shown, Key):
        session: Session | None = request.scope.get(SESSION)
        return Json(_of_key(shown, session.expires_at if session else shown.expires_at))
    return Json(_NOT_ASKED_FOR if shown is None else _SIGNED_OUT)


async def sign_out(request: Request) -> Response:
    """Sign the browser out."""
    if token := cookie.token_of(request):
        if not cookie.comes_from_us(request):
            raise cookie.cross_site()
        await services(request).sessions.end(token)
    response = Response(status_code=204)
    cookie.take_back(response)
    return response


_SIGNED_OUT = SessionView(required=True, signed_in=False, tenant=None, plan=None, scopes=(), expires_at=None)
_NOT_ASKED_FOR = msgspec.structs.replace(_SIGNED_OUT, required=False, scopes=("submit", "read", "admin"))


def _of_key(key: Key, end: datetime | None) -> SessionView:
    return SessionView(
        required=True,
        signed_in=True,
        tenant=None if key.tenant == EVERY else key.tenant,
        plan=key.plan,
        scopes=key.scopes,
        expires_at=timestamp(end.timestamp()) if end else None,
    )


def now_utc(here: Services) -> datetime:
    return datetime.fromtimestamp(here.now(), UTC)


def _peer(request: Request) -> str:
    """Whom an attempt is counted against: an address, or the network that one customer is given."""
    with suppress(ValueError):
        address = ip_address(request.client.host if request.client else "")
        if isinstance(address, IPv6Address):
            return str(IPv6Address(int(address) >> 64 << 64))
        return str(address)
    return "elsewhere"


_VIEW = {200: Answer(about="Who is signed in.", body=SessionView)}
_COOKIE = {
    200: Answer(about="It is signed in.", body=SessionView, headers={"Set-Cookie": "by which it is known"})
}
_GONE = {204: Answer(about="It is signed out.", headers={"Set-Cookie": "which takes the cookie back"})}

calls = [
    Call(
        method="POST",
        path="/session",
        handler=sign_in,
        right="public",
        body=SignIn,
        answers=_COOKIE,
        refusals=(401, 429),
    ),
    Call(method="GET", path="/session", handler=show_session, right="public", answers=_VIEW),
    Call(method="DELETE", path="/session", handler=sign_out, right="public", answers=_GONE),
]
