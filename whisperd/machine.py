"""The daemon without its outside: what `serve` and a lone `transcribe` have in common, made and joined."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from whisperd import backup_setup, malloc
from whisperd.archive import Reason
from whisperd.arrival import Arrival, prepare
from whisperd.backup import Backup, BackupStore
from whisperd.clock import Clock
from whisperd.condition import seal, unseal
from whisperd.config import Config, PlanLimits, TenantLimits, cores
from whisperd.counts import Counts
from whisperd.db import Database, owned
from whisperd.deliveries import LONGEST_DELAY_SECONDS
from whisperd.detections import Detections
from whisperd.events import Events
from whisperd.fitting import on_gpu
from whisperd.history import History
from whisperd.housekeeping import clean_spool, prune
from whisperd.model_store import ModelStore
from whisperd.muting import Muting
from whisperd.outbox import Outbox
from whisperd.outlook import Outlook
from whisperd.queue import SqliteQueue
from whisperd.redacting import Redacting
from whisperd.risk_protocol import Settings as SearchSettings
from whisperd.searcher import Books, Searcher
from whisperd.spool import Spool
from whisperd.task import Limits, Rules, TaskError
from whisperd.worker_pool import PoolSettings, WorkerPool

if TYPE_CHECKING:
    from whisperd.offsite import Offsite

log = structlog.get_logger(__name__)
IDLE_SECONDS = 60.0  # with nothing to do, until one process more than workers.min ends
PATIENCE_SECONDS = 2.0  # that work waits before one more is started: a clip is often over by then
SEAL_SECONDS = 0.5  # for the hash of the file at the end, at least: a few hundred MB


@dataclass(slots=True)
class Machine:
    config: Config
    arrival: Arrival  # what this start found
    clock: Clock
    db: Database
    backups: BackupStore
    offsite: Offsite | None
    queue: SqliteQueue
    history: History
    detections: Detections
    redacting: Redacting
    muting: Muting
    searcher: Searcher  # for what is asked of rules before a task is accepted
    outbox: Outbox
    events: Events
    spool: Spool
    pool: WorkerPool
    models: ModelStore
    outlook: Outlook
    counts: Counts
    backup_results: Counter[str] = field(default_factory=Counter)  # since the start: "ok", "failed"
    ends_at: float = inf  # on the monotonic clock: until then the end may take its time

    async def back_up(self, reason: Reason, seconds: float | None = None) -> Backup:
        """Back up now, and elsewhere too when that is set up. Raises what BackupStore.take does."""
        try:
            backup = await self.backups.take(self.db, reason, seconds)
        except Exception:
            self.backup_results["failed"] += 1
            raise
        finally:
            malloc.trim()
        self.backup_results["ok"] += 1
        if self.offsite is not None:
            self.offsite.offer(backup)
        return backup

    def reload(self, config: Config) -> None:
        """Go by other settings, as far as they can change while everything runs: see reload.py."""
        self.config = config
        self.queue.reload(rules(config))
        self.pool.reload(pool_settings(config))
        self.spool.reload(config.http.max_upload_bytes, config.storage.min_free_mb * 2**20)
        self.backups.keep = backup_setup.keep(config)
        if self.offsite is not None:
            self.offsite.keep = self.backups.keep


@asynccontextmanager
async def machine(config: Config, *, begin_afresh: bool = False) -> AsyncIterator[Machine]:
    """Everything below the HTTP server, made and recovered, with nothing running yet.

    The database is one that this start can go on with: see arrival.py for what is done about one that is not.
    """
    _make_folders(config)
    models = ModelStore(config)
    if config.redis.takes_tasks:
        for name in dict.fromkeys([config.workers.model, *config.models.preload]):
            await models.find(name)
    path = config.database
    with owned(path):
        backups = backup_setup.store(config)
        arrival = await asyncio.to_thread(prepare, path, backups, config.spool_dir, begin_afresh=begin_afresh)
        _say(arrival)
        await asyncio.to_thread(unseal, path)
        counts = Counts()
        async with Database(path, committed=counts.committed) as db:
            settings = await asyncio.to_thread(pool_settings, config)  # which asks whisper.cpp and the GPU
            parts = _joined(config, arrival, models, db, backups, settings, counts)
            await _recover(parts)
            yield parts
        await _seal(path, parts.ends_at - monotonic())


def _joined(
    config: Config,
    arrival: Arrival,
    models: ModelStore,
    db: Database,
    backups: BackupStore,
    settings: PoolSettings,
    counts: Counts,
) -> Machine:
    events, clock = Events(), Clock()
    queue = SqliteQueue(db, events, rules(config), clock.now, clock.cautious, models.known_sha256, counts)
    detections = Detections(db, events, queue.told_all, clock.now)
    spool = Spool(
        config.spool_dir,
        max_bytes=config.http.max_upload_bytes,
        min_free_bytes=config.storage.min_free_mb * 2**20,
    )
    pool = WorkerPool(queue, events, spool, models.find, config.workers.model, settings, counts)
    return Machine(
        config=config,
        arrival=arrival,
        clock=clock,
        db=db,
        backups=backups,
        offsite=_offsite(config),
        queue=queue,
        history=History(db),
        redacting=Redacting(queue, detections),
        muting=Muting(spool, settings),
        searcher=Searcher(Books(), search_settings(config)),
        detections=detections,
        outbox=Outbox(db, clock.now),
        events=events,
        spool=spool,
        pool=pool,
        models=models,
        outlook=Outlook(queue, pool, clock.now, counts.eta_missed),
        counts=counts,
    )


async def _seal(path: Path, seconds: float) -> None:
    """Where there is no room for a seal nothing is lost: the next start looks at the database otherwise."""
    try:
        await asyncio.to_thread(seal, path, within=max(SEAL_SECONDS, seconds))
    except (OSError, TaskError) as error:
        log.warning("the database was closed but not sealed", reason=str(error))


def _offsite(config: Config) -> Offsite | None:
    if not config.backup.s3.bucket:
        return None
    from whisperd.offsite import Offsite

    return Offsite(config.backup.s3, backup_setup.keep(config))


def _say(arrival: Arrival) -> None:
    say = log.warning if arrival.recovered else log.info
    say(arrival.message, database=arrival.condition, restored=arrival.restored, skipped=arrival.skipped)


async def _recover(parts: Machine) -> None:
    await parts.outbox.point(parts.config.listeners)  # before any task can end
    await parts.outbox.recover(LONGEST_DELAY_SECONDS)
    await parts.queue.remember()
    recovered = await parts.queue.recover()
    if recovered:
        log.warning("the last stop was not clean", queued_again=len(recovered))
    await prune_all(parts)
    await clean_spool(parts.queue, parts.spool)


async def prune_all(parts: Machine) -> None:
    """Forget what is too old by the settings."""
    keep, now = parts.config.retention, parts.clock.cautious()
    await prune(parts.queue, parts.spool, parts.outbox, parts.history, keep, now)


def rules(config: Config) -> Rules:
    return Rules(
        order=config.queue.order,
        retry_delay_seconds=config.queue.retry_delay_ms / 1000,
        max_retry_delay_seconds=config.queue.max_retry_delay_seconds,
        max_queued=config.queue.max_queued,
        max_wait_seconds=config.queue.max_wait_seconds,
        idempotency_seconds=config.queue.idempotency_hours * 3600,
        limits=partial(_limits, config),
        heaviest=_heaviest(config.limits),
        paced=any(plan.per_minute for plan in _plans(config.limits)),
        cache_seconds=config.cache.hours * 3600 if config.cache.enabled else None,
    )


def _limits(config: Config, tenant: str, plan: str | None) -> Limits:
    """What is set for the tenant itself; else for its plan; else for those without one."""
    of_plan = config.limits.of_plan(plan) or PlanLimits(concurrent=config.queue.tenant_concurrent)
    return Limits(
        concurrent=config.queue.tenants.get(tenant, of_plan.concurrent),
        queued=of_plan.queued,
        per_minute=of_plan.per_minute,
        weight=config.limits.weights.get(tenant, of_plan.weight),
    )


def _heaviest(limits: TenantLimits) -> float:
    return max(1.0, *(plan.weight for plan in _plans(limits)), *limits.weights.values())


def _plans(limits: TenantLimits) -> Sequence[PlanLimits]:
    return limits.FREE, limits.PRO, limits.PAYG


def pool_settings(config: Config) -> PoolSettings:
    workers, threads = 0, 1
    cards: tuple[str, ...] = ()
    if config.redis.takes_tasks:
        cards = tuple(on_gpu(config))
        workers, threads = config.workers.sized(cores(), len(cards))
    return PoolSettings(
        workers=workers,
        threads=threads,
        engine=config.workers.engine,
        gpu=config.workers.gpu,
        cards=cards,
        nice=config.workers.nice,
        max_memory_bytes=config.workers.max_memory_mb * 2**20,
        max_rss_bytes=config.workers.max_rss_mb * 2**20,
        calm_seconds=config.workers.step_up_seconds,
        max_seconds_per_chunk=config.workers.max_processing_seconds,
        silence_seconds=config.workers.silence_seconds,
        max_audio_seconds=config.audio.max_seconds,
        canary_after_seconds=config.workers.canary_after_seconds,
        canary_limit_seconds=config.workers.canary_limit_seconds,
        preload=config.models.preload,
        affinity_seconds=config.models.affinity_seconds,
        ttl_seconds=config.models.ttl_seconds or (IDLE_SECONDS if config.workers.max else 0.0),
        least=min(config.workers.min, workers) if config.workers.max else None,
        patience_seconds=PATIENCE_SECONDS if config.workers.max else 0.0,
    )


def search_settings(config: Config) -> SearchSettings:
    return SearchSettings(daemon_pid=os.getpid(), rules_dir=str(config.rules_dir), nice=config.workers.nice)


def _make_folders(config: Config) -> None:
    for folder in (config.data_dir, config.models_dir):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
