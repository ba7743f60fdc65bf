"""Connections to the one node of a Redis Cluster that has the queue, whichever it is at the time.

All keys of a queue, ours too, begin with redis.prefix, whose hash tag puts them into one slot: its owner is
used like a single Redis. Each connection asks one of the nodes that are named who that is, as redis's own
does with Sentinels. A Redis that is no Cluster is its own owner, whatever its keys are called.

Needs redis: loaded for a prefix that has a hash tag, and not before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import proxy

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    TimeoutError,
)

from whisperd.redis_queue.client import RedisUnusable


class Address(NamedTuple):
    host: str
    port: int


class SlotOwnerPool(ConnectionPool):
    """`owner`: as it was named last; a connection to another is made anew before it is used."""

    def __init__(
        self, nodes: Iterable[Address], prefix: str, asking: Mapping[str, Any], **options: Any
    ) -> None:
        """`nodes`: to be asked; `asking`: the options of the connections for that."""
        kind = _SecureOwnerConnection if options.pop("ssl", False) else _OwnerConnection
        super().__init__(kind, **options)
        self.connection_kwargs["pool"] = proxy(self)  # of each connection
        self.owner: Address | None = None
        self._nodes = deque(nodes)
        self._slot = key_slot(prefix.encode())
        self._asking = asking
        self._database = options.get("db", 0)

    async def find_owner(self) -> Address:
        """Raises RedisUnusable, and what redis raises: of several nodes that have no answer, the last's."""
        trouble: Exception = ClusterDownError("no node knows of one that has the slot")
        for _ in range(len(self._nodes)):
            try:
                if owner := await self._ask(self._nodes[0]):
                    self.owner = owner
                    return owner
            except (AuthenticationError, AuthorizationError):
                raise
            except (ConnectionError, TimeoutError) as error:
                trouble = error
            self.doubt()
        raise trouble

    def doubt(self) -> None:
        """What the node that is asked first knows may be old: ask another one first."""
        self._nodes.rotate(-1)

    async def _ask(self, node: Address) -> Address | None:
        async with Redis(host=node.host, port=node.port, **self._asking) as client:
            if not (await client.info("cluster")).get("cluster_enabled"):
                return self._itself(node)
            if self._database:
                raise RedisUnusable("a Redis Cluster has no databases but 0, and redis.url names another one")
            return _owner_of(self._slot, await client.cluster("slots"), node)

    def _itself(self, node: Address) -> Address:
        if len(self._nodes) > 1:
            raise RedisUnusable(
                "redis.url names several hosts, and one of them is of no Redis Cluster: with which of them "
                "the queue is nobody says"
            )
        return node


class _OwnerConnection(Connection):
    def __init__(self, *, pool: SlotOwnerPool, **options: Any) -> None:
        super().__init__(**options)
        self._pool = pool

    async def connect_check_health(
        self, check_health: bool = True, retry_socket_connect: bool = True
    ) -> None:
        if self.is_connected and (self.host, self.port) != self._pool.owner:
            await self.disconnect()
        if self.is_connected:
            return
        self.host, self.port = await self._pool.find_owner()
        try:
            await super().connect_check_health(check_health, retry_socket_connect)
        except BaseException:  # cut off, too: a machine that has died does not refuse a connection
            self._pool.doubt()
            raise

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except (MovedError, ClusterDownError) as error:  # it was not done
            self._pool.doubt()
            await self.disconnect(nowait=True)
            raise ConnectionError("another node may have the slot") from error


class _SecureOwnerConnection(_OwnerConnection, SSLConnection):
    pass


def _owner_of(slot: int, ranges: Sequence[Any], asked: Address) -> Address | None:
    """A range: its first and last slot, its master, its replicas. Without a host it is the one asked."""
    for first, last, (host, port, *_), *_ in ranges:
        if first <= slot <= last:
            return Address(host or asked.host, port)
    return None
