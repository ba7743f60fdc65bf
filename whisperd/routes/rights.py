"""Who may make a call: what was shown at the door (guard.py), held against the right that it declares."""

from __future__ import annotations

from datetime import datetime

from starlette.requests import HTTPConnection

from whisperd.keys import EVERY, Key, Ring
from whisperd.routes import ANYBODY, NOBODY, Caller, Right
from whisperd.routes.errors import Refusal

# In the scope of each request: the Key it shows, the Refusal where it shows none that holds, or None where
# none is asked for. What came past the guard has no such thing, and so no answer either.
SHOWN = "whisperd.shown"
SESSION = "whisperd.session"  # likewise: the Session by which it shows its key; not there without one

# Told before it is accepted: the server makes 403 of it. To an answer of our own instead (the extension
# websocket.http.response) uvicorn 0.54 logs an error each time.
REFUSED_SOCKET = {"type": "websocket.close", "code": 1008, "reason": "refused"}


_CHALLENGE = {"WWW-Authenticate": "Bearer"}


def judged(ring: Ring, key: Key | None, now: datetime) -> Key | Refusal:
    """A key that somebody shows, if it holds."""
    if ring.trouble:
        message = "the keys cannot be read, so nobody is served; see `whisperd doctor`, and the log"
        return Refusal(503, "keys_unusable", message)
    status = key.status(now) if key else "not known"
    return key if key and status == "active" else unauthorized(f"this key is {status}")


def unauthorized(message: str) -> Refusal:
    return Refusal(401, "invalid_api_key", message, headers=_CHALLENGE)


def admit(connection: HTTPConnection, right: Right) -> Caller:
    """Whom the request is made for. Raises Refusal: 401 without a valid key, 403 if it may not do this."""
    shown: Key | Refusal | None = connection.scope[SHOWN]
    if shown is None:
        return ANYBODY
    if isinstance(shown, Refusal):
        if right == "public":
            return NOBODY
        raise shown
    _check(shown, right)
    return caller_of(shown)


def caller_of(key: Key) -> Caller:
    is_admin, is_for_all = "admin" in key.scopes, key.tenant == EVERY
    return Caller(
        tenant=None if is_admin or is_for_all else key.tenant,
        plan=key.plan,
        may_go_ahead=is_admin,
        owner=ANYBODY.owner if is_for_all else key.tenant,
    )


def _check(key: Key, right: Right) -> None:
    if right == "public" or "admin" in key.scopes:
        return
    needed = "read" if right == "oversee" else right
    if needed not in key.scopes:
        raise _missing(needed, f"this call needs the scope {needed}; this key has {', '.join(key.scopes)}")
    if right == "oversee" and key.tenant != EVERY:
        message = "this call shows all tenants: it needs the scope admin, or read with a key for all of them"
        raise _missing("admin", message)


def _missing(scope: str, message: str) -> Refusal:
    return Refusal(403, "missing_scope", message, scope)
