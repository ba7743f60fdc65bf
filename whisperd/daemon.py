"""The composition root: the only place where the parts are made and joined, started and stopped.

Order of a stop: streams end, HTTP ends, the pool finishes its chunks, the database closes last.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from time import time

import structlog
import uvicorn
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from whisperd import logs, models
from whisperd.config import Config, cores
from whisperd.db import Database, DatabaseInUse, DatabaseTooNew
from whisperd.engine.features import gpu_build
from whisperd.events import Events
from whisperd.http import build_app
from whisperd.queue import SqliteQueue
from whisperd.routes import Services
from whisperd.spool import Spool
from whisperd.task import FINAL, ModelUnusable, Rules, StorageBusy, StorageFailed, StorageFull, Task
from whisperd.worker_pool import Model, PoolFailed, PoolSettings, WorkerPool

log = structlog.get_logger(__name__)
SWEEP_SECONDS = 30
HTTP_GRACE_SECONDS = 1  # for answers under way
PRUNE_SECONDS = 300
# What a task failed with when its audio is of no use to anyone: it is not kept for a retry.
_HOPELESS = frozenset({"unsupported_media", "no_audio", "audio_too_long"})

# Why a start can fail that is for the operator to read, without a traceback.
_REASONS = (DatabaseInUse, DatabaseTooNew, PoolFailed, ModelUnusable, models.ModelError, OSError)


@dataclass(slots=True)
class Machine:
    """The daemon without its outside: what `serve` and a lone `transcribe` have in common."""

    config: Config
    db: Database
    queue: SqliteQueue
    events: Events
    spool: Spool
    pool: WorkerPool
    models: ModelStore


async def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; a second signal ends at once. Returns the exit status."""
    os.umask(0o077)
    logs.configure(config.log)
    stop, now = _stop_on_signal()
    reasons: list[BaseException] = []
    try:
        async with machine(config) as parts:
            await _serve(parts, stop, now)
    except* _REASONS as group:
        reasons += _leaves(group)
    for reason in reasons:
        print(f"whisperd: {reason}", file=sys.stderr)
    return 1 if reasons else 0


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


class ModelStore:
    """Finds models for the pool and the routes, checked against their hash before anything loads them."""

    def __init__(self, config: Config) -> None:
        self._folder = config.models_dir
        self._sound: dict[tuple[str, int, int], Model] = {}

    async def find(self, name: str) -> Model:
        """The model file, as it was when it came here. Raises ModelUnusable."""
        return await asyncio.to_thread(self._find, name)

    async def multilingual(self, name: str) -> bool:
        """Whether the model knows more than English. Raises ModelUnusable."""
        return (await asyncio.to_thread(self._look, name)).multilingual

    def _look(self, name: str) -> models.ModelFile:
        try:
            return self._installed(name)
        except models.NotInstalled as error:
            raise ModelUnusable(str(error)) from error
        except (models.ModelError, OSError) as error:
            raise ModelUnusable(f"the model {name} cannot be used: see `whisperd models list`") from error

    def _installed(self, name: str) -> models.ModelFile:
        try:
            return models.find(name, self._folder)
        except models.NotInstalled:
            if name != models.DEFAULT:
                raise
        models.ensure_default(self._folder)
        return models.find(name, self._folder)

    def _find(self, name: str) -> Model:
        path = self._look(name).path
        try:
            stat = path.stat()
            seen = (name, stat.st_size, stat.st_mtime_ns)
            if seen not in self._sound:
                self._sound[seen] = Model(str(path), self._checked(name, path))
        except OSError as error:
            raise ModelUnusable(f"the model {name} cannot be read: {error.strerror}") from error
        return self._sound[seen]

    def _checked(self, name: str, path: Path) -> str:
        verdict = models.verify(path)
        if verdict is models.Verdict.UNKNOWN:
            log.warning("a model of unknown origin is used as it is", model=name)
            with suppress(OSError):  # a folder that may only be read keeps no record of it
                models.trust(path)
        elif verdict is not models.Verdict.OK:
            raise ModelUnusable(f"the model {name} is damaged: `whisperd models verify` says more")
        return models.sha256(path)


async def _serve(parts: Machine, stop: asyncio.Event, now: asyncio.Event) -> None:
    services, listening = _services(parts), _bind(parts.config)
    server = _server(services)
    async with asyncio.TaskGroup() as group:
        pooling = group.create_task(parts.pool.run(), name="pool")
        serving = group.create_task(server.serve([listening]), name="http")
        tidying = group.create_task(_tidy(parts), name="tidy")
        await _first(parts.pool.ready.wait(), stop.wait(), pooling)
        if not stop.is_set():
            _announce(listening)
        with _schedule(parts):
            await _first(stop.wait(), pooling)
        log.info("stopping", grace_seconds=parts.config.shutdown.grace_seconds)
        services.draining = True
        parts.pool.drain()
        parts.events.close()  # open streams end: they would keep the server from stopping
        server.should_exit = True
        await _wind_down(pooling, now, parts.config.shutdown.grace_seconds)
        server.force_exit = now.is_set()
        await asyncio.wait([serving])
        tidying.cancel()
    await _leave_in_order(parts)


async def _wind_down(pooling: asyncio.Task[None], now: asyncio.Event, grace_seconds: float) -> None:
    """Let the pool finish its chunks for the grace; then, or at a second signal, have them handed back."""
    with suppress(TimeoutError):
        async with asyncio.timeout(grace_seconds):
            await _first(pooling, now.wait())
    pooling.cancel()
    await asyncio.wait([pooling])


async def _leave_in_order(parts: Machine) -> None:
    """What was begun waits in line, in the file as in the next start; which does the same if this fails."""
    with suppress(StorageFull, StorageBusy, StorageFailed):
        await parts.queue.recover()
        await _clean_spool(parts)


def _server(services: Services) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            build_app(services),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            http="h11",  # the limits below are its own
            timeout_graceful_shutdown=HTTP_GRACE_SECONDS,
            ws="websockets-sansio",
            ws_max_size=2**20,
            h11_max_incomplete_event_size=2**16,
        )
    )


async def _first(*waits: object) -> None:
    """Return when one of them is done; waits that are ours alone are cancelled, tasks are left alone."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, wait in zip(tasks, waits, strict=True):
            if task is not wait:
                task.cancel()


class _Server(uvicorn.Server):
    """Leave signals to the daemon: uvicorn would raise them again after it has shut down."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _stop_on_signal() -> tuple[asyncio.Event, asyncio.Event]:
    """The first signal sets the first event, a second one both."""
    stop, now = asyncio.Event(), asyncio.Event()

    def heard() -> None:
        (now if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, heard)
    return stop, now


def _bind(config: Config) -> socket.socket:
    """The listening socket. Without keys it must be one that only this machine can reach."""
    info = socket.getaddrinfo(config.http.host, config.http.port, type=socket.SOCK_STREAM)[0]
    if not ip_address(info[4][0]).is_loopback:
        raise OSError(
            f"refusing to listen on {config.http.host}: without keys whisperd serves only this machine "
            "(set http.host to 127.0.0.1)"
        )
    # With its protocol named: asyncio sets TCP_NODELAY only then, and answers would wait 40 ms (Nagle).
    listening = socket.socket(info[0], info[1], info[2])
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(info[4])
    except OSError as error:
        listening.close()
        raise OSError(f"cannot listen on {config.http.host}:{config.http.port}: {error.strerror}") from None
    listening.listen(2048)
    return listening


def _announce(listening: socket.socket) -> None:
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"whisperd is ready on {url}", flush=True)
    example = os.environ.get("WHISPERD_EXAMPLE", "talk.mp3")  # `make run` names a clip that is there
    print(f"Try it: curl -F file=@{example} {url}/tasks/transcription", flush=True)


async def _recover(parts: Machine) -> None:
    recovered = await parts.queue.recover()
    if recovered:
        log.warning("the last stop was not clean", queued_again=len(recovered))
    await _prune(parts)
    await _clean_spool(parts)


async def _clean_spool(parts: Machine) -> None:
    """Remove the files of no task (an upload cut off by a crash), and the PCM of tasks that are over."""
    found = await asyncio.to_thread(lambda: sorted(parts.spool.owners()))
    states = await parts.queue.states(found)
    for task_id in found:
        if task_id not in states:
            await asyncio.to_thread(parts.spool.remove, task_id)
        elif states[task_id] in FINAL:
            await asyncio.to_thread(parts.spool.remove_pcm, task_id)


async def _prune(parts: Machine) -> None:
    """Forget the finished tasks that are too old, and their audio."""
    keep = parts.config.retention
    while gone := await parts.queue.prune(
        time() - keep.job_hours * 3600, time() - keep.failed_job_hours * 3600
    ):
        for task_id in gone:
            await asyncio.to_thread(parts.spool.remove, task_id)


async def _tidy(parts: Machine) -> None:
    """Remove at once what a task that is over does not need. A hint missed here is made up for at start."""
    while not parts.events.closed:
        with parts.events.subscribe() as subscription:
            async for event in subscription:
                if event.task.state in FINAL:
                    await _remove_leftovers(parts.spool, event.task)


async def _remove_leftovers(spool: Spool, task: Task) -> None:
    hopeless = task.error is not None and task.error.code in _HOPELESS
    try:
        await asyncio.to_thread(spool.remove if hopeless else spool.remove_pcm, task.id)
    except OSError as error:
        log.error("a file of the spool cannot be removed", task_id=task.id, error=error.strerror)


@contextmanager
def _schedule(parts: Machine) -> Iterator[None]:
    scheduler = AsyncIOScheduler(timezone="UTC")  # its job store stays in memory: others pickle

    # Coroutine functions: APScheduler never awaits what a lambda returns.
    async def sweep() -> None:
        lease_seconds = 2 * parts.config.workers.silence_seconds
        swept = await parts.queue.sweep(time() - lease_seconds, parts.pool.held())
        if swept:
            log.warning("took chunks that no worker holds", tasks=len(swept))

    async def prune() -> None:
        await _prune(parts)

    scheduler.add_job(sweep, "interval", seconds=SWEEP_SECONDS, id="sweep")
    scheduler.add_job(prune, "interval", seconds=PRUNE_SECONDS, id="prune")
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown(wait=False)


def _services(parts: Machine) -> Services:
    return Services(
        queue=parts.queue,
        events=parts.events,
        spool=parts.spool,
        pool=parts.pool,
        config=parts.config,
        check_model=parts.models.multilingual,
        database_trouble=lambda: parts.db.broken,
    )


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


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
