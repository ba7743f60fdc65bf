"""The client for Redis that the settings ask for: of one server, or of the one that Sentinels or nodes name.

Connects to nothing yet. Who opens it closes it by `close`.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from whisperd.config import Redis as Settings
from whisperd.task import QueueAway

if TYPE_CHECKING:
    from redis.asyncio import Redis

CONNECT_SECONDS = 5.0
ASKING_SECONDS = 1.0  # for each Sentinel or node: one whose machine has died must leave time to ask the next
PORT = 6379
SENTINEL_PORT = 26379
# As Redis reads the name of a key: what is between its first brace and the next one tells the slot.
_HASH_TAG = re.compile(r"[^{]*\{[^}]+\}")


class RedisMissing(Exception):
    """The library is not installed."""


class RedisUnusable(QueueAway):
    """Redis refuses us, or may forget jobs: whoever runs it has to look. The message is safe to show."""


class RedisAway(QueueAway):
    """Redis does not answer; later it may."""


def connected(settings: Settings) -> Redis:
    """Raises RedisMissing, RedisUnusable."""
    try:
        from redis.asyncio import ConnectionPool, Redis
    except ImportError as error:
        raise RedisMissing("a shared queue needs a library more: pip install 'whisperd[redis]'") from error
    options, places = _options(settings), _places(settings.url)
    if settings.sentinel_master:
        return _of_sentinels(settings, places, options | _by_url(settings, places))
    if has_hash_tag(settings.prefix):
        return _of_nodes(settings, places, options | _by_url(settings, places))
    if len(places) > 1:
        raise RedisUnusable(
            "redis.url names several hosts: that is for Sentinels, with redis.sentinel_master, or for nodes "
            'of a Redis Cluster, with a hash tag in redis.prefix, like "{bull}"'
        )
    return Redis.from_pool(ConnectionPool.from_url(settings.url, **options))  # which it closes, then


async def close(client: Redis) -> None:
    await client.aclose()
    if manager := getattr(client.connection_pool, "sentinel_manager", None):
        for sentinel in manager.sentinels:
            await sentinel.aclose()


def has_hash_tag(prefix: str) -> bool:
    """Whether all keys that begin so lie on one node of a Redis Cluster."""
    return _HASH_TAG.match(prefix) is not None


def _options(settings: Settings) -> dict[str, Any]:
    """Of each connection."""
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.maint_notifications import MaintNotificationsConfig

    return {
        "decode_responses": True,  # bullmq's scripts need it
        "socket_timeout": None,  # five seconds by default, which breaks blocking reads: `asking` has one
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),  # a command that was cut off may have been done: who asked decides
        "health_check_interval": 0,
        # Redis Cloud's; with them on, a connection that ended while nobody used it is given out all the same.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        **_who(settings),
        **_tls(settings),
    }


def _places(url: str) -> Sequence[Any]:
    """Of each host in the URL what is said of it: host, port, db, username, password."""
    from redis.asyncio.connection import parse_url

    parts = urlsplit(url)
    who, at, hosts = parts.netloc.rpartition("@")
    try:
        return [parse_url(parts._replace(netloc=f"{who}{at}{host}").geturl()) for host in hosts.split(",")]
    except ValueError:  # whose words may quote the URL
        raise RedisUnusable("redis.url has a port that is no number") from None


def _of_sentinels(settings: Settings, places: Sequence[Any], options: dict[str, Any]) -> Redis:
    """They are asked anew for each connection: the next one after a failover goes to the new master."""
    from redis.asyncio.sentinel import Sentinel

    asking = {name: value for name, value in options.items() if name.startswith(("ssl", "retry"))}
    asking |= _quickly()
    if settings.sentinel_password_file:
        asking["password"] = _secret("redis.sentinel_password_file", settings.sentinel_password_file)
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        [(place.get("host", "localhost"), place.get("port", SENTINEL_PORT)) for place in places],
        sentinel_kwargs=asking,
    )
    client: Redis = sentinels.master_for(settings.sentinel_master, **options)
    return client


def _of_nodes(settings: Settings, places: Sequence[Any], options: dict[str, Any]) -> Redis:
    """Of a Cluster, or of a server that is none: only that one can tell."""
    from redis.asyncio import Redis

    from whisperd.redis_queue.slot_owner import Address, SlotOwnerPool

    nodes = [Address(place.get("host", "localhost"), place.get("port", PORT)) for place in places]
    asking = options | {"db": 0} | _quickly()
    return Redis.from_pool(SlotOwnerPool(nodes, settings.prefix, asking, **options))


def _by_url(settings: Settings, places: Sequence[Any]) -> dict[str, Any]:
    """What is said of all hosts at once."""
    said = {name: places[0][name] for name in ("username", "password", "db") if name in places[0]}
    return said | ({"ssl": True} if settings.url.startswith("rediss://") else {})


def _quickly() -> dict[str, Any]:
    return {"socket_connect_timeout": ASKING_SECONDS, "socket_timeout": ASKING_SECONDS}


def _who(settings: Settings) -> dict[str, str]:
    who = {"username": settings.username} if settings.username else {}
    if settings.password_file:
        who["password"] = _secret("redis.password_file", settings.password_file)
    return who


def _secret(name: str, file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeError) as error:
        raise RedisUnusable(f"{name} cannot be read: {_why(error)}") from None


def _tls(settings: Settings) -> dict[str, str]:
    files = {
        "ssl_ca_certs": settings.ca_file,
        "ssl_certfile": settings.cert_file,
        "ssl_keyfile": settings.key_file,
    }
    named = {name: file for name, file in files.items() if file}
    if named and not settings.url.startswith("rediss://"):
        raise RedisUnusable(
            "redis.ca_file, cert_file and key_file are for TLS: redis.url begins with rediss://"
        )
    try:  # redis loads them with the first connection: a wrong one would look like a Redis that is away
        trusting = ssl.create_default_context(cafile=settings.ca_file or None)
        if settings.cert_file:
            trusting.load_cert_chain(settings.cert_file, settings.key_file or None)
    except (OSError, ssl.SSLError) as error:
        raise RedisUnusable(
            f"a file of redis.ca_file, cert_file, key_file is no good: {_why(error)}"
        ) from None
    return named


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "it is no such file"
