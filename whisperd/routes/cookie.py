"""The cookie of the dashboard's login, and which requests may bring it.

A browser adds a cookie to whatever a page sends here, so no page of another site may gain by that (CSRF).
SameSite=Strict keeps out other sites, but neither another port of this host nor a sister domain. So each
request has to say where it comes from: by Sec-Fetch-Site, which no page can forge and which holds behind any
proxy, but is sent by HTTPS or to this machine only; or else by an Origin that is its Host.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response

from whisperd.routes.errors import Refusal

NAME = "whisperd_session"
_READS = {"GET", "HEAD"}  # and change nothing; what they answer, no page elsewhere can see


def token_of(connection: HTTPConnection) -> str | None:
    """That of the cookie. None where there is none, or where somebody has put a second one beside ours."""
    pairs = [pair.strip() for value in connection.headers.getlist("cookie") for pair in value.split(";")]
    tokens = {pair.removeprefix(f"{NAME}=") for pair in pairs if pair.startswith(f"{NAME}=")}
    return tokens.pop() if len(tokens) == 1 else None


def own_origins(headers: Headers) -> set[str]:
    """What a page of ours has as its Origin, by the Host that it was asked for."""
    host = headers.get("host", "").lower()
    return {f"http://{host}", f"https://{host}"}


def comes_from_us(connection: HTTPConnection) -> bool:
    """Whether a browser that sends this sends it for a page of ours. What reads may come from no page."""
    headers = connection.headers
    sites, origins = set(headers.getlist("sec-fetch-site")), headers.getlist("origin")
    has_own_origin = bool(origins) and {origin.lower() for origin in origins} <= own_origins(headers)
    if connection.scope["type"] == "websocket":
        return has_own_origin and sites <= {"same-origin"}
    if connection.scope["method"] in _READS:
        return sites <= {"same-origin", "none"} if sites else has_own_origin or not origins
    return sites == {"same-origin"} if sites else has_own_origin


def cross_site() -> Refusal:
    message = (
        "only the dashboard's own pages may use its sign-in; a proxy before them has to pass on the Host"
    )
    return Refusal(403, "cross_site", message)


def give(response: Response, connection: HTTPConnection, token: str, seconds: float) -> None:
    """Have the browser keep it for so long; and never send it without TLS, if it came by that."""
    by_tls = connection.scope["scheme"] == "https"
    response.set_cookie(NAME, token, max_age=int(seconds), secure=by_tls, httponly=True, samesite="strict")


def take_back(response: Response) -> None:
    response.delete_cookie(NAME, httponly=True, samesite="strict")
