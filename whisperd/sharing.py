"""This host's part in a queue that several hosts share: made and joined, where redis.url is set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import structlog

from whisperd.machine import Machine
from whisperd.redis_queue.board import Board
from whisperd.redis_queue.bridge import Bridge
from whisperd.redis_queue.follower import Follower
from whisperd.redis_queue.ledger import Ledger
from whisperd.redis_queue.link import Link, RedisAway
from whisperd.redis_queue.shared_queue import SharedQueue
from whisperd.redis_queue.storage import Storage
from whisperd.sources import Sources
from whisperd.task import TaskQueue

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sharing:
    link: Link
    bridge: Bridge
    follower: Follower
    queue: TaskQueue  # as the outside sees it


@asynccontextmanager
async def sharing(parts: Machine, sources: Sources) -> AsyncIterator[Sharing | None]:
    """None where this host has a queue of its own.

    A Redis that is away is waited for: what this host has begun goes on. Raises RedisUnusable for one that
    would never do, RedisMissing, S3Missing.
    """
    config = parts.config
    if not config.redis.url:
        yield None
        return
    storage, link = Storage(config), Link(config.redis)
    try:
        try:
            await link.check()
        except RedisAway:
            log.warning("the shared queue is waited for")
        keep = config.retention
        board = Board(link, config.redis, (keep.job_hours, keep.failed_job_hours))
        bridge = _bridge(parts, board, storage, sources)
        queue = SharedQueue(
            parts.queue,
            board,
            storage,
            parts.spool.audio,
            parts.spool.remove,
            bridge.holds,
            lambda: link.trouble,
            config.queue.idempotency_hours * 3600,
        )
        follower = Follower(board, parts.events, bridge.holds)
        yield Sharing(link, bridge, follower, cast(TaskQueue, queue))
    finally:
        await link.close()


def _bridge(parts: Machine, board: Board, storage: Storage, sources: Sources) -> Bridge:
    pool = parts.pool
    return Bridge(
        board,
        storage,
        parts.queue,
        Ledger(parts.db),
        parts.events,
        parts.spool,
        sources,
        lambda: pool.at_hand if pool.ready.is_set() and not pool.paused else 0,
        parts.models.multilingual,
        parts.config,
    )
