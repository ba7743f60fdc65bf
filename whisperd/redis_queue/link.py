"""The way to Redis: whether it can be used at all, since when it answers, and its troubles in our words.

Needs redis and bullmq (`pip install 'whisperd[redis]'`), which are loaded with the link and not before. What
Redis says in an error may quote a password: nothing of it is passed on.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from whisperd.config import Redis as Settings
from whisperd.redis_queue.client import (
    CONNECT_SECONDS,
    RedisAway,
    RedisUnusable,
    close,
    connected,
    has_hash_tag,
)
from whisperd.task import QueueAway

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)
ANSWER_SECONDS = 5.0  # that a command may take: a network that drops packets says nothing
POLICY = "noeviction"
# Why what answers at redis.url is none that can be used, by what it calls itself.
_OTHERS = {
    "sentinel": "redis.url names a Sentinel: redis.sentinel_master has to name the master that it watches",
    "cluster": "redis.url names a node of a Redis Cluster: redis.prefix has to have a hash tag, like "
    '"{bull}", the same as for Node\'s programs',
}


class Link:
    """One client for all that this host asks of Redis.

    `trouble`: why what was last asked had no answer. `well_since`: on the monotonic clock, since when all had
    one. `server`: which Redis it is, as its start has named it; "" from a trouble on, until it was asked.
    """

    def __init__(self, settings: Settings) -> None:
        """Connects to nothing yet. Raises RedisMissing, RedisUnusable."""
        self.client = connected(settings)
        self._prefix = settings.prefix
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
            self._notice(away := RedisAway("the shared queue, on Redis, does not answer"))
            raise away from None
        except QueueAway as error:
            self._notice(error)
            raise
        self._notice(None)

    def _notice(self, error: Exception | None) -> None:
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
        """Which Redis this is: another one after each of its starts, and after a failover.

        One that was started again between two questions has come back, though none of them was in trouble:
        with Sentinels the client makes idle connections that have ended anew, and says nothing.
        """
        async with self.asking() as client:
            pipe = client.pipeline(transaction=False)
            pipe.exists(f"{self._prefix}:")  # which of a Cluster only the node answers that has the queue
            pipe.info("server")
            server = str((await pipe.execute())[1]["run_id"])
        if self.server not in ("", server):
            log.warning("the shared queue is on another Redis, or on one that was started again")
            self.well_since = monotonic()
        self.server = server
        return server

    async def check(self) -> None:
        """Ask as this host will ask. Raises RedisUnusable, RedisAway."""
        async with self.asking(2 * CONNECT_SECONDS) as client:
            await client.ping()
            mode = (await client.info("server")).get("redis_mode", "")
            policy = (await client.info("memory")).get("maxmemory_policy", POLICY)
        if (why := _OTHERS.get(mode)) and not (mode == "cluster" and has_hash_tag(self._prefix)):
            raise RedisUnusable(why)
        if policy != POLICY:
            raise RedisUnusable(
                "Redis may throw tasks away when its memory is full: its maxmemory-policy is "
                f"{policy}, and has to be {POLICY}"
            )

    async def close(self) -> None:
        await close(self.client)


@contextmanager
def _told() -> Iterator[None]:
    """Around a command: what redis raises becomes one of ours."""
    from redis import exceptions as theirs
    from redis.asyncio.sentinel import MasterNotFoundError

    refusals = (theirs.AuthenticationError, theirs.AuthorizationError, theirs.NoPermissionError)
    passing = (
        *(theirs.ReadOnlyError, theirs.OutOfMemoryError),
        *(theirs.ClusterDownError, theirs.TryAgainError, theirs.AskError),  # its slot is being moved
    )
    try:
        yield
    except refusals:
        raise RedisUnusable("Redis refuses redis.username, its password, or what it asks for") from None
    except MasterNotFoundError:
        raise RedisAway("no Sentinel that answers names a master of the name redis.sentinel_master") from None
    except (theirs.ConnectionError, theirs.TimeoutError, OSError) as error:
        if _is_about_tls(error):
            raise RedisUnusable("Redis has no certificate that holds for its name, or refuses ours") from None
        raise RedisAway("the shared queue, on Redis, cannot be reached") from None
    except passing:
        raise RedisAway("the shared queue, on Redis, takes nothing at present") from None
    except theirs.RedisError as error:
        raise _answered(str(error)) from None


# Its disk is full, for one; it was made a replica while we waited; its slot of a Cluster is being moved.
_FOR_A_WHILE = ("MISCONF", "NOREPLICAS", "BUSY", "UNBLOCKED", "Script attempted to access a non local key")


def _answered(said: str) -> QueueAway:
    if said.startswith(_FOR_A_WHILE):
        return RedisAway("the shared queue, on Redis, takes nothing at present")
    return RedisUnusable("Redis answers with an error: it may be older than 6.2, or not let scripts run")


def _is_about_tls(error: BaseException | None) -> bool:
    return error is not None and (
        isinstance(error, ssl.SSLError) or _is_about_tls(error.__cause__ or error.__context__)
    )
