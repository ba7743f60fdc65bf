"""Prometheus: one reading of the daemon, and what was counted since its start, as text.

The reading is made when it is asked for: a daemon that nobody scrapes pays for the counting alone. Labels
have few values, all known beforehand: never a task, a model or a file name; a tenant only where the operator
asks for the few with the most tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from whisperd import __version__
from whisperd.backup import Backup
from whisperd.counts import Counts, priority_class
from whisperd.gpu import GpuMemory
from whisperd.job import Share
from whisperd.task import Depths, Stats
from whisperd.worker_pool import WorkerInfo

MEDIA_TYPE = CONTENT_TYPE_LATEST
WORKER_STATES = ("starting", "idle", "busy", "asleep", "resting", "stopped")
CAUSES = ("crashed", "hung", "out_of_memory", "model_unusable", "memory", "cancelled", "timeout")
LINES = ("waiting", "delayed", "processing")
OTHER = ""  # the tenant of all that are not named: none can be called so
Family: TypeAlias = GaugeMetricFamily | CounterMetricFamily | InfoMetricFamily


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the parts say at one moment."""

    now: float  # Unix seconds, UTC
    checks: Mapping[str, int]  # of /health: 0 ok, 1 degraded, 2 down
    is_ready: bool
    database_up: bool  # it can be read and written
    stats: Stats | None  # None: it cannot even be read
    depths: Depths | None
    webhooks: Mapping[str, int]  # that were not delivered, by state
    workers: Sequence[WorkerInfo]
    deaths: Mapping[str, int]  # of worker processes, by cause, since the start
    paused: bool
    draining: bool  # the host is emptied
    share: Share | None  # in the queues of several hosts
    last_backup: Backup | None
    backed_up_until: float | None  # Unix seconds, UTC: what was accepted before is in it
    backups: Mapping[str, int]  # attempts since the start, by result
    condition: str  # in which the database was found at the start
    recovered: bool  # and whether that made a recovery necessary
    free_bytes: int | None  # of the disk with the spool; None: that cannot be told
    spool_bytes: int | None
    gpus: Sequence[GpuMemory]
    lag_seconds: float  # of the event loop, the worst of the last minute


def text(reading: Reading, counts: Counts) -> bytes:
    """Both in the Prometheus text format, which MEDIA_TYPE names."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Read(reading))
    return generate_latest(registry) + generate_latest(counts.registry)


class _Read(Collector):
    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Family]:
        reading = self._reading
        yield InfoMetricFamily("whisperd", "The daemon.", {"version": __version__})
        yield _gauges(
            "health", "What /health says of each part: 0 ok, 1 degraded, 2 down.", "check", reading.checks
        )
        yield _gauge(
            "ready",
            "1 while /health/ready says so: new work is taken, and could be begun now.",
            reading.is_ready,
        )
        yield _gauge("database_up", "1 while the database can be read and written.", reading.database_up)
        if reading.stats is not None:
            yield from _tasks(reading.stats, reading.now)
            told = "Webhooks that wait to be delivered, and those given up, as long as they are kept."
            yield _gauges("webhooks", told, "state", reading.webhooks)
        if reading.depths is not None:
            yield from _queue(reading.depths)
        yield from _workers(reading)
        if reading.share is not None:
            yield from _shared(reading.share)
        yield from _backups(reading)
        yield from _resources(reading)


def _tasks(stats: Stats, now: float) -> Iterator[Family]:
    oldest = 0.0 if stats.oldest_queued_at is None else max(0.0, now - stats.oldest_queued_at)
    yield _gauges("tasks", "Tasks that are kept, by state.", "state", stats.by_state)
    yield _gauge("oldest_queued_seconds", "Age of the oldest queued task; 0 when there is none.", oldest)


def _queue(depths: Depths) -> Iterator[Family]:
    about = "Tasks that are not over, by where they are and by priority: low is below 0, high from 5."
    family = GaugeMetricFamily("whisperd_queue_depth", about, labels=["state", "priority"])
    found = Counter[tuple[str, str]]()
    for line, priority, n in depths.lines:
        found[line, priority_class(priority)] += n
    for line in LINES:
        for name in ("low", "normal", "high"):
            family.add_metric([line, name], found[line, name])
    yield family
    if depths.tenants:
        yield _tenants(depths)


def _tenants(depths: Depths) -> Family:
    queued = sum(n for line, _, n in depths.lines if line != "processing")
    named = dict(depths.tenants)
    about = 'Queued tasks of the tenants that have most, and, as tenant "", of all others.'
    return _gauges("tenant_depth", about, "tenant", {**named, OTHER: queued - sum(named.values())})


def _workers(reading: Reading) -> Iterator[Family]:
    states = Counter(worker.state for worker in reading.workers)
    yield _gauges("workers", "Workers, by state.", "state", {name: states[name] for name in WORKER_STATES})
    died = "Worker processes that died or were replaced since the start, by cause."
    # A rate needs a 0 to begin with.
    yield _counter("worker_restarts", died, "cause", {**dict.fromkeys(CAUSES, 0), **reading.deaths})
    memory = {str(worker.id): worker.rss_bytes for worker in reading.workers if worker.rss_bytes is not None}
    yield _gauges("worker_memory_bytes", "Resident memory of each worker.", "worker", memory)
    yield _gauge("paused", "1 while nothing is handed out to the workers.", reading.paused)
    yield _gauge("draining", "1 while this host is emptied: `whisperd drain`.", reading.draining)


def _shared(share: Share) -> Iterator[Family]:
    yield _gauge("redis_up", "1 while the queue that hosts share, on Redis, can be asked.", not share.trouble)
    about = "Jobs of each queue that hosts share, by where they are, as it was some seconds ago."
    family = GaugeMetricFamily("whisperd_redis_jobs", about, labels=["queue", "state"])
    for queue, depth in share.depths.items():
        for state in ("waiting", "delayed", "active"):
            family.add_metric([queue, state], getattr(depth, state))
    yield family
    about = "Jobs that wait in a queue from which no host takes, by queue."
    unserved = {**dict.fromkeys(share.depths, 0), **share.unserved()}
    yield _gauges("redis_unserved_jobs", about, "queue", unserved)
    yield _gauge("redis_held_jobs", "Jobs that this host is at work on, or owes the end of.", share.held)
    yield _gauge("redis_owed_jobs", "Jobs that are over here, which Redis is still to be told.", share.owed)
    about = (
        "Jobs that another host had meanwhile, since the start: this one gave no sign of life for too long."
    )
    yield CounterMetricFamily("whisperd_redis_lost_jobs", about, share.lost)


def _backups(reading: Reading) -> Iterator[Family]:
    tried = {"ok": 0, "failed": 0, **reading.backups}
    yield _counter("backups", "Backups attempted since the start, by result.", "result", tried)
    if (last := reading.last_backup) and reading.backed_up_until:
        age = max(0.0, reading.now - reading.backed_up_until)
        about = "Age of the newest sound backup, or of the last look that found nothing new for it."
        yield _gauge("backup_age_seconds", about, age)
        yield _gauge("backup_bytes", "Size of the newest sound backup.", last.bytes)
    found = "1 when this start had to recover the database, by the condition in which it was found."
    yield _gauges("recovered", found, "condition", {reading.condition: reading.recovered})


def _resources(reading: Reading) -> Iterator[Family]:
    if reading.free_bytes is not None:
        yield _gauge("disk_free_bytes", "Free space on the disk with the spool.", reading.free_bytes)
    if reading.spool_bytes is not None:
        about = "Size of all audio that is kept, as it was within the last minute."
        yield _gauge("spool_bytes", about, reading.spool_bytes)
    if reading.gpus:
        about = "Memory of each GPU: in use, by all programs, and altogether."
        family = GaugeMetricFamily("whisperd_gpu_memory_bytes", about, labels=["gpu", "kind"])
        for gpu in reading.gpus:
            family.add_metric([str(gpu.number), "used"], gpu.used)
            family.add_metric([str(gpu.number), "total"], gpu.total)
        yield family
    about = "How much too late the event loop got round to a timer, at the worst in the last minute."
    yield _gauge("loop_lag_worst_seconds", about, reading.lag_seconds)


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"whisperd_{name}", about, value)


def _gauges(name: str, about: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"whisperd_{name}", about, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, about: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"whisperd_{name}", about, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
