"""This host's part in a queue that several hosts share: made and joined, where redis.url is set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import structlog

from whisperd.config import Config
from whisperd.detections import Detections
from whisperd.job import Share
from whisperd.machine import Machine
from whisperd.redis_queue.board import Board
from whisperd.redis_queue.boards import Boards
from whisperd.redis_queue.borrowing import Borrowing
from whisperd.redis_queue.bridge import Bridge
from whisperd.redis_queue.census import Census
from whisperd.redis_queue.checkpoints import Checkpoints
from whisperd.redis_queue.client import RedisAway, RedisUnusable
from whisperd.redis_queue.follower import Follower
from whisperd.redis_queue.forgetting import Forgetting
from whisperd.redis_queue.intake import Intake
from whisperd.redis_queue.ledger import Ledger
from whisperd.redis_queue.link import Link
from whisperd.redis_queue.pacing import SharedPace
from whisperd.redis_queue.parts import Common, Own
from whisperd.redis_queue.recall import Recall
from whisperd.redis_queue.shared_audio import SharedAudio
from whisperd.redis_queue.shared_detections import SharedDetections
from whisperd.redis_queue.shared_queue import SharedQueue
from whisperd.redis_queue.storage import Storage
from whisperd.s3 import S3Error
from whisperd.sources import Sources
from whisperd.task import TaskQueue
from whisperd.worker_pool import WorkerPool

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sharing:
    link: Link
    bridge: Bridge
    follower: Follower
    recall: Recall
    census: Census
    queue: TaskQueue  # as the outside sees it,
    detections: Detections  # as this
    audio: SharedAudio
    borrowing: Borrowing
    pace: SharedPace
    forgetting: Forgetting

    def share(self) -> Share:
        bridge = self.bridge
        return Share(
            trouble=self.link.trouble,
            depths=self.census.depths,
            held=len(bridge.held()),
            owed=bridge.owed,
            lost=bridge.lost,
        )


def check_role(config: Config) -> None:
    """Raises RedisUnusable for a part that one host alone cannot have."""
    if config.redis.role != "both" and not config.redis.url:
        raise RedisUnusable(
            f"the role {config.redis.role} is one among hosts that share a queue: set redis.url, or "
            "start without --role"
        )


@asynccontextmanager
async def sharing(parts: Machine, sources: Sources) -> AsyncIterator[Sharing | None]:
    """None where this host has a queue of its own.

    A Redis or a storage that is away is waited for: what this host has begun goes on. Raises RedisUnusable
    for one that would never do, RedisMissing, S3Unusable.
    """
    config = parts.config
    if not config.redis.url:
        yield None
        return
    storage, link = Storage(config), Link(config.redis)
    try:
        await _check(link, storage)
        yield _joined(parts, sources, storage, link)
    finally:
        await link.close()


def _joined(parts: Machine, sources: Sources, storage: Storage, link: Link) -> Sharing:
    config = parts.config
    board = Boards(config.redis, lambda queue: Board(link, config.redis, _kept_hours(config), queue))
    own = Own(parts.queue, Ledger(parts.db), parts.events, parts.spool)
    common = Common(board, storage, Checkpoints(storage, own.ledger, own.events))
    bridge = _bridge(parts, own, common, Intake(own, storage, sources, parts.models.multilingual, config))
    census, key_seconds = Census(board), config.queue.idempotency_hours * 3600
    queue = SharedQueue(own, common, bridge.holds, key_seconds, lambda: census.tally)
    return Sharing(
        link=link,
        bridge=bridge,
        follower=Follower(board, own.ledger, own.events, bridge.holds),
        recall=Recall(own, common, bridge.held, config.redis.lock_seconds),
        census=census,
        queue=cast(TaskQueue, queue),
        borrowing=Borrowing(parts.spool, storage),
        detections=cast(Detections, SharedDetections(parts.detections, queue, storage)),
        audio=SharedAudio(board, storage),
        pace=SharedPace(link, config.redis.prefix),
        # As the settings are then: a reload changes them.
        forgetting=Forgetting(board, storage, lambda: parts.config.retention, parts.clock.cautious),
    )


def _kept_hours(config: Config) -> tuple[float, float]:
    return config.retention.job_hours, config.retention.failed_job_hours


def _bridge(parts: Machine, own: Own, common: Common, intake: Intake) -> Bridge:
    settings = parts.config.redis
    bridge = Bridge(own, common, intake, partial(_slots, parts.pool), settings.stalled_seconds)
    if not settings.takes_tasks:  # what it took when it did goes back
        bridge.leave(0)
    return bridge


async def _check(link: Link, storage: Storage) -> None:
    try:
        await link.check()
    except RedisAway:
        log.warning("the shared queue is waited for")
    try:
        await storage.check()
    except S3Error as error:
        log.warning("the shared storage is waited for", reason=str(error))


def _slots(pool: WorkerPool) -> int:
    """How many jobs may be held: one for each worker, and none while nothing is handed out."""
    return pool.at_hand if pool.ready.is_set() and not pool.paused else 0
