"""How a daemon is reached: address, key, limits of patience; and how a request is built for httpx."""

from __future__ import annotations

import os
import ssl
from typing import IO, Any, cast

import httpx

from whisperd.client.calls import DEFAULT_URL, Request
from whisperd.client.errors import ClientError
from whisperd.client.sound import Reading

CONNECT_SECONDS = 5.0
WRITE_SECONDS = 60.0


def settings(url: str | None, key: str | None, patience: float, connections: int) -> dict[str, Any]:
    """What an httpx client is made with. Raises ClientError for a URL or a key that cannot be one."""
    base = _normal(
        url or os.environ.get("WHISPERD_URL") or os.environ.get("QUEUE_SERVICE_URL") or DEFAULT_URL
    )
    where = _parsed(base)
    return {
        "base_url": base,
        "headers": _authorization(os.environ.get("WHISPERD_KEY") if key is None else key),
        "timeout": timeout(patience),
        "limits": httpx.Limits(max_connections=connections),
        "trust_env": not _is_local(where.host),  # a proxy cannot reach this machine's loopback
        # To read all the certificates there are takes longer than any call.
        "verify": where.scheme == "https" or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    }


def timeout(read: float) -> httpx.Timeout:
    """No limit on the wait for a connection of our own: others hold them, and they have their limits."""
    return httpx.Timeout(connect=CONNECT_SECONDS, read=read, write=WRITE_SECONDS, pool=None)


def built(
    http: httpx.Client | httpx.AsyncClient, asked: Request, file: Reading | None, patience: float
) -> httpx.Request:
    """`file`: the sound of the request, opened."""
    named = None
    if asked.sound and file:
        named = {"file": (asked.sound.name, cast(IO[bytes], file), "application/octet-stream")}
    return http.build_request(
        asked.method,
        asked.path,
        params=asked.params,
        data=asked.fields,
        json=asked.body,
        files=named,
        headers=asked.headers,
        timeout=timeout(asked.wait + patience),
    )


def _authorization(key: str | None) -> dict[str, str]:
    key = (key or "").strip()  # as it came from a file
    if not (key.isascii() and key.isprintable()):
        raise ClientError("the key has characters that no key has")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _normal(url: str) -> str:
    """With a scheme, without a slash at the end."""
    return (url if "://" in url else f"http://{url}").rstrip("/")


def _parsed(url: str) -> httpx.URL:
    try:
        where = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ClientError(f"{url!a} is not a URL: {error}") from None
    if where.scheme not in ("http", "https") or not where.host:
        raise ClientError(f"{url!a} is not the URL of a daemon: http://HOST:PORT is one")
    return where


def _is_local(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
