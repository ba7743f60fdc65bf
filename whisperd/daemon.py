"""The composition root: where the parts are joined to the outside, run, and stopped in their order.

Order of a stop: streams end, HTTP ends, the pool finishes its chunks, a last backup is taken and the last
spans are sent, the database closes last.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic

import structlog

from whisperd import keys, links, logs, malloc, models, sessions
from whisperd.archive import BackupError, Reason
from whisperd.arrival import CannotStart
from whisperd.brokers.identity import BrokersMissing, BrokersUnusable
from whisperd.brokers.post import post_for
from whisperd.buckets import Buckets
from whisperd.config import Config, ConfigError
from whisperd.db import DatabaseInUse, DatabaseTooNew
from whisperd.deliveries import Deliveries, Sender
from whisperd.detector import Detector
from whisperd.drain import Drain
from whisperd.housekeeping import keep_searchable, tidy
from whisperd.lag import Lag
from whisperd.listening import announce, bind, http_server
from whisperd.machine import Machine, machine
from whisperd.minutes import Minutes
from whisperd.notify import Notifier
from whisperd.outbound import Outbound
from whisperd.pace import Pace
from whisperd.pulse import Pulse
from whisperd.redacting import Redacting
from whisperd.redis_queue.client import RedisMissing, RedisUnusable
from whisperd.reload import changes, merged
from whisperd.results import Results
from whisperd.routes import Services, own_id
from whisperd.routes.view import task_view
from whisperd.rulebooks import RiskMissing, need_libraries
from whisperd.s3 import S3Unusable
from whisperd.searcher import Searcher
from whisperd.sessions import Sessions
from whisperd.sharing import Sharing, check_role, sharing
from whisperd.sources import Sources
from whisperd.task import ModelUnusable, StorageBusy, StorageFailed, StorageFull
from whisperd.tracing import SEND_SECONDS, Tracing, TracingMissing
from whisperd.upkeep import Upkeep
from whisperd.webhooks import Webhooks, message
from whisperd.worker_pool import PoolFailed

log = structlog.get_logger(__name__)
BACKUP_SECONDS = 1.5  # for the last one, at least, whatever the pool has left of the grace
SPANS_SECONDS = 1.0  # for the last traces, at least; no more than a second beyond the grace
STOP_SECONDS = 60.0  # beyond the grace, for what systemd need not interrupt
PACKED_BYTES = 16 * 10**6  # a second that a backup takes, about

# Why a start can fail that is for the operator to read, without a traceback.
_REASONS = (
    *(DatabaseInUse, DatabaseTooNew, CannotStart, BackupError, StorageFull),
    *(BrokersMissing, BrokersUnusable),
    *(S3Unusable, TracingMissing, RedisMissing, RedisUnusable, PoolFailed, ModelUnusable, models.ModelError),
)


@dataclass(slots=True)
class Signals:
    """What the operator asks for. A handler sets an event and does nothing else."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)  # SIGTERM, SIGINT
    now: asyncio.Event = field(default_factory=asyncio.Event)  # the second of them
    reload: asyncio.Event = field(default_factory=asyncio.Event)  # SIGHUP

    def listen(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: (self.now if self.stop.is_set() else self.stop).set())


async def run(config: Config, reread: Callable[[], Config], *, begin_afresh: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; a second signal ends at once, SIGHUP takes over what `reread` returns.

    Returns the exit status.
    """
    os.umask(0o077)
    malloc.one_arena()
    faulthandler.enable()  # systemd's watchdog kills by SIGABRT: the log then says where the daemon hung
    notifier, signals = Notifier(), Signals()
    signals.listen()
    reasons: list[BaseException] = []
    try:
        async with AsyncExitStack() as stack:
            with _starting():
                logs.configure(config.logging, in_files=True)
                stack.callback(logs.close)
                check_role(config)
                ring = keys.KeyRing(config.data_dir / keys.FILE)
                listening = stack.enter_context(bind(config.http, asks_for_keys=ring.asks))
                parts = await _opened(stack, machine(config, begin_afresh=begin_afresh), signals)
                buckets = Buckets(config.s3)
                sources = Sources(config, Outbound(config.outbound), buckets)
                shared = await stack.enter_async_context(sharing(parts, sources))
            daemon = Daemon(parts, ring, signals, notifier, reread, buckets, sources, shared)
            await daemon.serve(listening)
    except* _REASONS as group:
        reasons += _leaves(group)
    for reason in reasons:
        print(f"whisperd: {reason}", file=sys.stderr)
    return 1 if reasons else 0


@contextmanager
def _starting() -> Iterator[None]:
    """What disk or network refuse at the start is for the operator to read; later it is a fault of ours."""
    try:
        yield
    except (OSError, StorageBusy, StorageFailed) as error:
        raise CannotStart(str(error)) from error


async def _opened(
    stack: AsyncExitStack, opening: AbstractAsyncContextManager[Machine], signals: Signals
) -> Machine:
    """The machine; a signal to stop ends the process here and now.

    The threads that hash a model, check a database or restore one cannot be stopped. They may be killed: what
    they do is done whole or not at all, and nothing has been accepted yet.
    """
    entering = asyncio.ensure_future(stack.enter_async_context(opening))
    await _first(entering, signals.stop.wait())
    if not entering.done():
        log.info("stopped during the start")
        logs.close()
        os._exit(0)
    return await entering


class Daemon:
    """A machine with its outside: HTTP, signals, systemd, and what is done by the clock."""

    def __init__(
        self,
        parts: Machine,
        ring: keys.KeyRing,
        signals: Signals,
        notifier: Notifier,
        reread: Callable[[], Config],
        buckets: Buckets,
        sources: Sources,
        shared: Sharing | None,
    ) -> None:
        self._parts = parts
        self._shared = shared
        self._signals = signals
        self._notifier = notifier
        self._reread = reread
        self._upkeep = Upkeep(parts)
        self._webhooks = Webhooks(parts.config, task_view, parts.clock.now)
        self._post = post_for(parts.config, lambda delivery: message(delivery, task_view))
        self._tracing = Tracing(parts.config.tracing) if parts.config.tracing.endpoint else None
        senders: dict[str, Sender] = {
            "webhook": self._post.beside(self._webhooks) if self._post else self._webhooks,
            "result": Results(buckets, parts.queue, parts.redacting),
        }
        self._deliveries = Deliveries(parts.outbox, parts.events, senders, parts.config.listeners)
        self._detector = Detector(
            parts.detections,
            # Another process than that which is asked before a task is accepted: nobody shall wait for it.
            Searcher(parts.searcher.books, parts.searcher.settings),
            parts.events,
            parts.counts,
            lambda: parts.config.risk.max_seconds,
            lambda: parts.pool.paused,
        )
        self._pulse = Pulse(parts, notifier, lambda: self._upkeep.rescuing)
        self._services = _services(
            parts, ring, self._deliveries, self._upkeep, sources, self._tracing, self._pulse, shared
        )
        if (post := self._post) is not None:
            self._services.broker_trouble = lambda: post.trouble

    async def serve(self, listening: socket.socket) -> None:
        """Until a signal, or until a part fails; a last backup is taken of what has changed either way."""
        reason: Reason = "error"
        try:
            await self._serve(listening)
            reason = "shutdown"
        finally:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._last_spans(), name="last-spans")
                # A start that fails again and again must not push out what was backed up before.
                if reason == "shutdown" or self._parts.pool.ready.is_set():
                    group.create_task(self._last_backup(reason), name="backup")

    async def _serve(self, listening: socket.socket) -> None:
        parts = self._parts
        server = http_server(self._services)
        async with asyncio.TaskGroup() as group:
            pooling = group.create_task(parts.pool.run(), name="pool")
            serving = group.create_task(server.serve([listening]), name="http")
            works = self._beside(server.config.app)
            beside = [group.create_task(work, name=name) for name, work in works.items()]
            await _first(parts.pool.ready.wait(), self._signals.stop.wait(), pooling)
            if not self._signals.stop.is_set():
                announce(listening)
                self._notifier.ready(parts.arrival.message if parts.arrival.recovered else "ready")
            with self._upkeep.scheduled():
                await _first(self._signals.stop.wait(), pooling)
            self._begin_to_stop()
            server.should_exit = True
            await self._wind_down(pooling)
            server.force_exit = self._signals.now.is_set()
            await asyncio.wait([serving])
            for work in beside:
                work.cancel()
        await parts.searcher.close()
        with suppress(StorageFull, StorageBusy, StorageFailed):  # else the next start does it
            await parts.queue.release_all()
            await parts.queue.keep_measured()

    def _beside(self, app: object) -> dict[str, Coroutine[object, object, None]]:
        """What goes on until the end."""
        parts = self._parts
        if parts.offsite is not None and parts.backups.last is not None:
            parts.offsite.offer(parts.backups.last)  # the one of the last stop, which had no time for it
        works = {
            "tidy": tidy(parts.events, parts.spool),
            "search": keep_searchable(parts.queue, lambda: parts.config.search.enabled),
            "clock": self._upkeep.follow_the_clock(),
            "files": self._upkeep.watch_the_files(),
            "deliveries": self._deliveries.run(),
            "reload": self._reload_when_asked(),
            "pulse": self._pulse.beat(),
            "outlook": parts.outlook.follow(parts.events),
            "forecast": parts.outlook.paint(),
            "lag": self._services.lag.follow(),
            "detector": self._detector.run(),
            "attendance": self._services.attendance.cancel_abandoned(self._services.queue.cancel),
        }
        if self._tracing is not None:
            works["traces"] = self._tracing.follow(parts.events, parts.history)
        if self._services.links is not None:
            works["links"] = self._services.links.run()
        if self._post is not None:
            works["broker"] = self._post.run(app)
        if self._shared is not None:
            works["bridge"] = self._shared.bridge.run()
            works["recall"] = self._shared.recall.run()
            works["census"] = self._shared.census.run()
            works["forgetting"] = self._shared.forgetting.run()
            if parts.config.redis.answers:
                works["follower"] = self._shared.follower.run()
        return works | ({"offsite": parts.offsite.run()} if parts.offsite else {})

    # --- the end ---

    def _begin_to_stop(self) -> None:
        grace_seconds = self._parts.config.shutdown.grace_seconds
        log.info("stopping", grace_seconds=grace_seconds)
        self._notifier.stopping("finishing what runs")
        self._notifier.extend(grace_seconds + STOP_SECONDS)  # the unit knows the grace of its day only
        self._parts.ends_at = monotonic() + grace_seconds
        self._services.draining = True
        self._services.attendance.stop()  # before every client is sent away
        if self._shared is not None:
            self._shared.bridge.drain()
        self._parts.pool.drain()
        self._parts.events.close()  # open streams end: they would keep the server from stopping

    async def _wind_down(self, pooling: asyncio.Task[None]) -> None:
        """Let the pool finish its chunks for the grace; then, or at a second signal, have them handed back.

        As much of the grace as the last backup may need is left to it, up to a half.
        """
        grace_seconds, last = self._parts.config.shutdown.grace_seconds, self._parts.backups.last
        needed = (last.seconds or last.bytes / PACKED_BYTES) if last else 0.0
        reserved = min(grace_seconds / 2, 1.5 * needed)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds - reserved):
                await _first(pooling, self._signals.now.wait())
        pooling.cancel()
        await asyncio.wait([pooling])

    async def _last_backup(self, reason: Reason) -> None:
        """With what is left of the grace; a second signal ends it, and nothing of it stays."""
        parts = self._parts
        seconds = max(BACKUP_SECONDS, min(parts.ends_at, monotonic() + 60) - monotonic())
        taking = asyncio.create_task(self._upkeep.back_up(reason, seconds), name="last-backup")
        await _first(taking, self._signals.now.wait())
        taking.cancel()
        await asyncio.wait([taking])
        if not taking.cancelled() and (error := taking.exception()):
            log.error("no last backup could be taken", error=str(error))
        if self._signals.now.is_set():
            parts.ends_at = monotonic()
        elif parts.offsite is not None:
            await parts.offsite.drain(max(0.0, min(parts.ends_at, monotonic() + 60) - monotonic()))

    async def _last_spans(self) -> None:
        """Beside the last backup; a second signal ends it, too."""
        if self._tracing is not None:
            left = min(self._parts.ends_at - monotonic(), SEND_SECONDS)
            await _first(self._tracing.close(max(SPANS_SECONDS, left)), self._signals.now.wait())

    # --- while it runs ---

    async def _reload_when_asked(self) -> None:
        await self._parts.pool.ready.wait()  # else the end of a reload would pass for that of the start
        if self._parts.config.rules_dir.is_dir():  # the shipped packs are read once somebody asks for them
            await self._read_rules()
        while True:
            await self._signals.reload.wait()
            self._signals.reload.clear()
            if self._signals.stop.is_set():
                return
            self._notifier.reloading()
            self._reload()
            await self._read_rules()
            self._notifier.ready()

    def _reload(self) -> None:
        """Take over what can change; what is wrong with the file is said, and all stays as it was."""
        try:
            old, new = self._parts.config, self._reread()
        except ConfigError as error:
            log.error("the settings are wrong and were not read", problems=error.problems)
            return
        found = changes(old, new)
        for change in found.applied:
            log.info("a setting changed", key=change.key, old=change.old, new=change.new)
        for change in found.needs_restart:
            log.warning("a setting needs a restart", key=change.key, now=change.old, then=change.new)
        self._apply(merged(old, new))

    async def _read_rules(self) -> None:
        """What is wrong with rule packs is logged, and told by /health; what was read before stays."""
        with suppress(RiskMissing):
            need_libraries()
            await self._parts.searcher.reload()

    def _apply(self, config: Config) -> None:
        logs.set_levels(config.logging)
        self._parts.reload(config)
        self._services.config = config
        self._upkeep.reload()
        self._webhooks.reload(config)
        self._deliveries.reload(config.listeners)


async def _first(*waits: object) -> None:
    """Return when one of them is done; waits that are ours alone are cancelled, tasks are left alone."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, wait in zip(tasks, waits, strict=True):
            if task is not wait:
                task.cancel()


def _services(
    parts: Machine,
    ring: keys.KeyRing,
    deliveries: Deliveries,
    upkeep: Upkeep,
    sources: Sources,
    tracing: Tracing | None,
    pulse: Pulse,
    shared: Sharing | None,
) -> Services:
    runs = parts.config.redis.takes_tasks
    redacting = Redacting(shared.queue, shared.detections) if shared else parts.redacting
    return Services(
        queue=shared.queue if shared else parts.queue,
        events=parts.events,
        history=parts.history,
        detections=shared.detections if shared else parts.detections,
        redacting=redacting,
        muting=parts.muting,
        audio_id=shared.borrowing.audio_id if shared else own_id,
        searcher=parts.searcher,
        outbox=parts.outbox,
        resend=deliveries.resend,
        spool=parts.spool,
        sources=sources,
        pool=parts.pool,
        outlook=parts.outlook,
        config=parts.config,
        check_model=parts.models.multilingual if runs else parts.models.seems_multilingual,
        installed_models=parts.models.installed,
        database_trouble=lambda: parts.db.broken,
        pulse_trouble=lambda: pulse.trouble,
        queue_trouble=lambda: shared.link.trouble if shared else None,
        share=lambda: shared.share() if shared else None,
        drain=Drain(parts.queue, parts.pool, shared.bridge if shared else None, runs=runs),
        copies=lambda: parts.offsite.state() if parts.offsite else None,
        backups=parts.backups,
        back_up=lambda: parts.back_up("manual"),
        backup_results=parts.backup_results,
        counts=parts.counts,
        lag=Lag(parts.counts.lagged),
        pace=shared.pace if shared else Pace(),
        audio_elsewhere=shared.audio if shared else None,
        links=links.opened(parts.config, redacting, parts.clock.cautious),
        tracing=tracing,
        sweep=upkeep.sweep,
        arrival=parts.arrival,
        keys=ring,
        sessions=Sessions(parts.config.data_dir / sessions.FILE),
        minutes=Minutes(parts.db, parts.clock.now),
        now=parts.clock.now,
    )


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
