"""The daemon without its outside: what `serve` and a lone `transcribe` have in common, made and joined."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from whisperd.config import Config, cores
from whisperd.db import Database
from whisperd.engine.features import gpu_build
from whisperd.events import Events
from whisperd.housekeeping import clean_spool, prune
from whisperd.model_store import ModelStore
from whisperd.queue import SqliteQueue
from whisperd.spool import Spool
from whisperd.task import Rules
from whisperd.worker_pool import PoolSettings, WorkerPool

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Machine:
    config: Config
    db: Database
    queue: SqliteQueue
    events: Events
    spool: Spool
    pool: WorkerPool
    models: ModelStore


@asynccontextmanager
async def machine(config: Config) -> AsyncIterator[Machine]:
    """Everything below the HTTP server, made and recovered, with nothing running yet."""
    _make_folders(config)
    store = ModelStore(config)
    await store.find(config.workers.model)
    async with Database(config.data_dir / "whisperd.db") as db:
        events = Events()
        queue = SqliteQueue(db, events, _rules(config))
        spool = Spool(
            config.data_dir / "spool",
            max_bytes=config.http.max_upload_bytes,
            min_free_bytes=config.storage.min_free_mb * 2**20,
        )
        pool = WorkerPool(queue, events, spool, store.find, config.workers.model, _pool_settings(config))
        parts = Machine(config, db, queue, events, spool, pool, store)
        await _recover(parts)
        yield parts


async def _recover(parts: Machine) -> None:
    recovered = await parts.queue.recover()
    if recovered:
        log.warning("the last stop was not clean", queued_again=len(recovered))
    await prune(parts.queue, parts.spool, parts.config.retention)
    await clean_spool(parts.queue, parts.spool)


def _rules(config: Config) -> Rules:
    limits = config.queue.tenants
    return Rules(
        order=config.queue.order,
        retry_delay_seconds=config.queue.retry_delay_ms / 1000,
        max_retry_delay_seconds=config.queue.max_retry_delay_seconds,
        max_waiting=config.queue.max_waiting,
        idempotency_seconds=config.queue.idempotency_hours * 3600,
        tenant_limit=lambda tenant: limits.get(tenant, config.queue.tenant_concurrent),
    )


def _pool_settings(config: Config) -> PoolSettings:
    workers, threads = config.workers.sized(cores(), gpu_build())
    return PoolSettings(
        workers=workers,
        threads=threads,
        gpu=config.workers.gpu,
        nice=config.workers.nice,
        max_memory_bytes=config.workers.max_memory_mb * 2**20,
        max_seconds_per_chunk=config.workers.max_processing_seconds,
        silence_seconds=config.workers.silence_seconds,
        max_audio_seconds=config.audio.max_seconds,
    )


def _make_folders(config: Config) -> None:
    for folder in (config.data_dir, config.models_dir):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
