"""Prometheus: one reading of the daemon as text. Everything is read when it is asked for; nothing is counted
along the way, so a request costs nothing, and a daemon that nobody scrapes costs nothing either.

Labels have few values (states, causes): never a task, a tenant, a model or a file name.
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
from whisperd.task import Stats
from whisperd.worker_pool import WorkerInfo

MEDIA_TYPE = CONTENT_TYPE_LATEST
WORKER_STATES = ("starting", "idle", "busy", "resting", "stopped")
Family: TypeAlias = GaugeMetricFamily | CounterMetricFamily | InfoMetricFamily


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the parts say at one moment."""

    database_up: bool  # it can be read and written
    stats: Stats | None  # None: it cannot even be read
    webhooks: Mapping[str, int]  # that were not delivered, by state
    now: float  # Unix seconds, UTC
    workers: Sequence[WorkerInfo]
    deaths: Mapping[str, int]  # of worker processes, by cause, since the start
    paused: bool
    last_backup: Backup | None
    backed_up_until: float | None  # Unix seconds, UTC: what was accepted before is in it
    backups: Mapping[str, int]  # attempts since the start, by result
    condition: str  # in which the database was found at the start
    recovered: bool  # and whether that made a recovery necessary
    free_bytes: int | None  # of the disk with the spool; None: that cannot be told


def text(reading: Reading) -> bytes:
    """The reading in the Prometheus text format, which MEDIA_TYPE names."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Read(reading))
    return generate_latest(registry)


class _Read(Collector):
    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Family]:
        reading = self._reading
        yield InfoMetricFamily("whisperd", "The daemon.", {"version": __version__})
        yield _gauge("database_up", "1 while the database can be read and written.", reading.database_up)
        if reading.stats is not None:
            yield from _tasks(reading.stats, reading.now)
            told = "Webhooks that wait to be delivered, and those given up, as long as they are kept."
            yield _gauges("webhooks", told, "state", reading.webhooks)
        yield from _workers(reading)
        yield from _backups(reading)
        if reading.free_bytes is not None:
            yield _gauge("disk_free_bytes", "Free space on the disk with the spool.", reading.free_bytes)


def _tasks(stats: Stats, now: float) -> Iterator[Family]:
    oldest = 0.0 if stats.oldest_queued_at is None else max(0.0, now - stats.oldest_queued_at)
    yield _gauges("tasks", "Tasks that are kept, by state.", "state", stats.by_state)
    yield _gauge("tasks_delayed", "Queued tasks that are not to run before a time.", stats.delayed)
    yield _gauge("oldest_queued_seconds", "Age of the oldest queued task; 0 when there is none.", oldest)


def _workers(reading: Reading) -> Iterator[Family]:
    states = Counter(worker.state for worker in reading.workers)
    yield _gauges("workers", "Workers, by state.", "state", {name: states[name] for name in WORKER_STATES})
    died = "Worker processes that died or were replaced since the start, by cause."
    yield _counter("worker_restarts", died, "cause", reading.deaths)
    yield _gauge("paused", "1 while nothing is handed out to the workers.", reading.paused)


def _backups(reading: Reading) -> Iterator[Family]:
    yield _counter("backups", "Backups attempted since the start, by result.", "result", reading.backups)
    if (last := reading.last_backup) and reading.backed_up_until:
        age = max(0.0, reading.now - reading.backed_up_until)
        about = "Age of the newest sound backup, or of the last look that found nothing new for it."
        yield _gauge("backup_age_seconds", about, age)
        yield _gauge("backup_bytes", "Size of the newest sound backup.", last.bytes)
    found = "1 when this start had to recover the database, by the condition in which it was found."
    yield _gauges("recovered", found, "condition", {reading.condition: reading.recovered})


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
