"""The way to Redis: the client, whether it can be used at all, and its troubles in our words.

Needs redis and bullmq (`pip install 'whisperd[redis]'`), which are loaded with the link and not before. What
Redis says in an error may quote a password: nothing of it is passed on.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import structlog

from whisperd.config import Redis as Settings
from whisperd.task import QueueAway

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 5.0  # that a command may take: a network that drops packets says nothing
POLICY = "noeviction"


class RedisMissing(Exception):
    """The library is not installed."""


class RedisUnusable(QueueAway):
    """Redis refuses us, or may forget jobs: whoever runs it has to look. The message is safe to show."""


class RedisAway(QueueAway):
    """Redis does not answer; later it may."""


class Link:
    """One client for all that this host asks of Redis.

    `trouble`: why what was last asked had no answer. `well_since`: on the monotonic clock, since when all had
    one. `server`: which Redis it is, as its start has named it; "" from a trouble on, until it was asked.
    """

    def __init__(self, settings: Settings) -> None:
        """Connects to nothing yet. Raises RedisMissing, RedisUnusable."""
        self.client = _client(settings)
        self.trouble: str | None = None
        self.well_since = inf
        self.server = ""

    @asynccontextmanager
    async def asking(self, seconds: float = ANSWER_SECONDS) -> AsyncIterator[Redis]:
        """For one command, or a few. Raises RedisAway, RedisUnusable."""
        try:
            async with asyncio.timeout(seconds):
                with _told():
                    yield self.client
        except TimeoutError:
            self._note(away := RedisAway("the shared queue, on Redis, does not answer"))
            raise away from None
        except QueueAway as error:
            self._note(error)
            raise
        self._note(None)

    def _note(self, error: Exception | None) -> None:
        trouble = str(error) if error else None
        if trouble and trouble != self.trouble:
            log.warning("the shared queue cannot be used", reason=trouble)
        elif self.trouble and not trouble:
            log.info("the shared queue can be used again")
        self.trouble = trouble
        if trouble:
            self.well_since, self.server = inf, ""
        elif self.well_since == inf:
            self.well_since = monotonic()

    async def identify(self) -> str:
        """Which Redis this is: another one after each of its starts, and after a failover."""
        async with self.asking() as client:
            self.server = str((await client.info("server"))["run_id"])
        return self.server

    async def check(self) -> None:
        """Ask as this host will ask. Raises RedisUnusable, RedisAway."""
        async with self.asking(2 * CONNECT_SECONDS) as client:
            await client.ping()
            policy = (await client.info("memory")).get("maxmemory_policy", POLICY)
        if policy != POLICY:
            raise RedisUnusable(
                "Redis may throw tasks away when its memory is full: its maxmemory-policy is "
                f"{policy}, and has to be {POLICY}"
            )

    async def close(self) -> None:
        await self.client.aclose()


def _client(settings: Settings) -> Redis:
    try:
        from redis.asyncio import ConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise RedisMissing("a shared queue needs a library more: pip install 'whisperd[redis]'") from error
    options: dict[str, Any] = {
        "decode_responses": True,  # bullmq's scripts need it
        "socket_timeout": None,  # five seconds by default, which breaks blocking reads: `asking` has one
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),  # a command that was cut off may have been done: who asked decides
        "health_check_interval": 0,
        **_who(settings),
        **_tls(settings),
    }
    return Redis.from_pool(ConnectionPool.from_url(settings.url, **options))  # which it closes, then


def _who(settings: Settings) -> dict[str, str]:
    who = {"username": settings.username} if settings.username else {}
    if settings.password_file:
        try:
            who["password"] = Path(settings.password_file).read_text().strip()
        except (OSError, UnicodeError) as error:
            raise RedisUnusable(f"redis.password_file cannot be read: {_why(error)}") from None
    return who


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


@contextmanager
def _told() -> Iterator[None]:
    """Around a command: what redis raises becomes one of ours."""
    from redis import exceptions as theirs

    refusals = (theirs.AuthenticationError, theirs.AuthorizationError, theirs.NoPermissionError)
    passing = (theirs.ReadOnlyError, theirs.OutOfMemoryError, theirs.ClusterDownError, theirs.TryAgainError)
    try:
        yield
    except refusals:
        raise RedisUnusable("Redis refuses redis.username, its password, or what it asks for") from None
    except (theirs.ConnectionError, theirs.TimeoutError, OSError) as error:
        if _is_about_tls(error):
            raise RedisUnusable("Redis has no certificate that holds for its name, or refuses ours") from None
        raise RedisAway("the shared queue, on Redis, cannot be reached") from None
    except passing:
        raise RedisAway("the shared queue, on Redis, takes nothing at present") from None
    except theirs.RedisError as error:
        raise _answered(str(error)) from None


def _answered(said: str) -> QueueAway:
    if said.startswith(("MISCONF", "NOREPLICAS", "BUSY")):  # its disk is full, for one
        return RedisAway("the shared queue, on Redis, takes nothing at present")
    return RedisUnusable("Redis answers with an error: it may be older than 6.2, or not let scripts run")


def _is_about_tls(error: BaseException | None) -> bool:
    return error is not None and (
        isinstance(error, ssl.SSLError) or _is_about_tls(error.__cause__ or error.__context__)
    )
