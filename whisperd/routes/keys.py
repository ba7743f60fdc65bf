"""/admin/keys: the keys of those who may call, as `whisperd keys` has them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, to_builtins
from starlette.requests import Request
from starlette.responses import Response

from whisperd.keys import Plan, Scope, Tenant, new_key
from whisperd.routes import Json, services
from whisperd.routes.call import Answer, Call
from whisperd.routes.errors import Refusal
from whisperd.routes.session import now_utc, sign_in_by
from whisperd.routes.submission import Moment
from whisperd.shown import KeyView, key_view


class KeysView(Struct, frozen=True, kw_only=True):
    """The oldest first."""

    keys: list[KeyView]


class MadeView(KeyView, frozen=True, kw_only=True):
    key: str  # to be kept: it is not shown again


class NewKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(max_length=200, description="What it is for, to know it again.")] = ""
    tenant: Annotated[Tenant, Meta(description="Whose tasks it makes and sees; * for those of all.")] = (
        "default"
    )
    plan: Annotated[Plan, Meta(description="The priority of its tasks, and the most they may ask.")] = "FREE"
    scopes: Annotated[
        tuple[Scope, ...], Meta(min_length=1, max_length=3, description="admin: all, for every tenant.")
    ] = ("submit", "read")
    expires_at: Moment | None = None


async def list_keys(request: Request) -> Response:
    """The keys, also those that hold no more; none can be read out of it."""
    here = services(request)
    ring = await here.keys.current()
    return Json(KeysView(keys=[key_view(key, now_utc(here)) for key in ring.keys.values()]))


async def make_key(request: Request, wanted: NewKey) -> Response:
    """Make a key, which the answer shows this once.

    From the first one on every call needs a key: so that one has to be an admin's, and the answer signs its
    browser in with it.
    """
    here = services(request)
    is_first, now = not (await here.keys.current()).is_asked_for, now_utc(here)
    _check(wanted, is_first=is_first)
    if wanted.expires_at is not None and wanted.expires_at <= now:
        raise Refusal(422, "invalid_field", "is over already", "expires_at")
    secret, key = new_key(
        name=wanted.name,
        tenant=wanted.tenant,
        plan=wanted.plan,
        scopes=tuple(dict.fromkeys(wanted.scopes)),
        now=now,
        expires_at=wanted.expires_at,
    )
    await here.keys.add(key)
    response = Json(MadeView(**to_builtins(key_view(key, now)), key=secret), 201)
    if is_first:
        await sign_in_by(response, request, key)
    return response


def _check(wanted: NewKey, *, is_first: bool) -> None:
    """Refuse a first key that would lock out who makes it."""
    if is_first and ("admin" not in wanted.scopes or wanted.expires_at is not None):
        message = "from the first key on every call needs one: make that of an admin first, without an end"
        raise Refusal(409, "no_admin", message, "scopes")


async def revoke_key(request: Request) -> Response:
    """Take a key back: the next call with it is refused, and what it listens to ends.

    But not the last of an admin: nobody could make another here.
    """
    here = services(request)
    now = now_utc(here)
    return Json(key_view(await here.keys.revoke(str(request.path_params["key_id"]), now), now))


_KEYS = {200: Answer(about="The keys.", body=KeysView)}
_MADE = {201: Answer(about="The key, this once.", body=MadeView)}
_REVOKED = {200: Answer(about="The key, revoked, now or before.", body=KeyView)}

calls = [
    Call(method="GET", path="/admin/keys", handler=list_keys, right="admin", answers=_KEYS),
    Call(
        method="POST",
        path="/admin/keys",
        handler=make_key,
        right="admin",
        body=NewKey,
        answers=_MADE,
        refusals=(409,),
    ),
    Call(
        method="DELETE",
        path="/admin/keys/{key_id}",
        handler=revoke_key,
        right="admin",
        answers=_REVOKED,
        refusals=(409,),
    ),
]
