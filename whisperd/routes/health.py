"""/health: whether all is well, and whether a chunk could be run now.

Each part is one check, a function of `Services`. It says what is wrong and what to do about it, in words for
whoever was woken up by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Literal, NamedTuple

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from whisperd import __version__
from whisperd.routes import NOBODY, Json, Services, caller, services
from whisperd.routes.call import Answer, Call
from whisperd.task import ModelUnusable
from whisperd.worker_pool import WorkerInfo

Verdict = Literal["ok", "degraded", "down"]
RECOVERY_SECONDS = 86_400.0
DIE_OFTEN = 5  # workers within a quarter of an hour: more than one file that kills each that tries it
SILENT = 0.5  # of workers.silence_seconds: signs of life come at a quarter of it
LATE_SECONDS = 0.25  # that the event loop may be, at the worst of a minute
RESTART_SECONDS = 30.0  # without any worker, as long as their restart may take


class Check(NamedTuple):
    verdict: Verdict = "ok"
    why: str | None = None  # and what to do about it
    blocks: bool = False  # nothing is taken, or none of it could be run now; so it is with all that is down


OK = Check()


class CheckView(Struct, frozen=True, kw_only=True):
    status: Verdict
    message: str | None


class HealthView(Struct, frozen=True, kw_only=True):
    status: Verdict
    uptime_seconds: float
    version: str
    checks: dict[str, CheckView]


async def health(request: Request) -> Response:
    """What the daemon says of itself; why, to those with a key where keys are asked for."""
    here, tells = services(request), caller(request) != NOBODY
    found = await checks(here)
    status = _worst(found)
    view = HealthView(
        status=status,
        uptime_seconds=round(monotonic() - here.started_at, 1),
        version=__version__,
        checks={
            name: CheckView(status=check.verdict, message=check.why if tells else None)
            for name, check in found.items()
        },
    )
    return Json(view, 503 if status == "down" else 200)


class ReadyView(Struct, frozen=True, kw_only=True):
    status: Verdict


async def live(request: Request) -> Response:
    """Whether the process answers."""
    return Json(ReadyView(status="ok"))


async def ready(request: Request) -> Response:
    """Whether new work is taken, and could be begun now. A daemon that was paused takes it all the same.

    Whoever paused it wants it neither restarted nor taken out of a balancer.
    """
    here = services(request)
    down = not is_ready(here, await checks(here))
    return Json(ReadyView(status="down" if down else "ok"), 503 if down else 200)


def is_ready(here: Services, found: Mapping[str, Check]) -> bool:
    return not (here.draining or any(check.blocks or check.verdict == "down" for check in found.values()))


async def checks(here: Services) -> Mapping[str, Check]:
    return {
        "database": _database(here),
        "workers": _workers(here),
        "canary": _canary(here),
        "model": await _model(here),
        "disk": await asyncio.to_thread(_disk, here),  # which may hang
        "loop": _loop(here),
        "backup": _backup(here),
        "recovery": _recovery(here),
        "rules": _rules(here),
        "keys": Check("down", here.keys.trouble) if here.keys.trouble else OK,
        "redis": _redis(here),
        "broker": _broker(here),
    }


def is_writable(here: Services) -> bool:
    """Whether the database could be written at the last look at it."""
    with suppress(OSError):  # no spool: that is told of the disk
        if here.spool.is_read_only():
            return False
    return _database(here).verdict == "ok"


def _database(here: Services) -> Check:
    """Down once it failed, until a restart; degraded as long as it does not answer: that may pass."""
    if trouble := here.database_trouble():
        return Check("down", trouble)
    trouble = here.pulse_trouble()
    return Check("degraded", trouble, blocks=True) if trouble else OK


def _workers(here: Services) -> Check:
    workers = here.pool.workers()
    up = _those_up(here, workers)
    return up if up.verdict != "ok" else _wedged(here, workers) or _dying(here) or up


def _wedged(here: Services, workers: Sequence[WorkerInfo]) -> Check | None:
    """Those at a chunk that give no sign of life. They are replaced soon: until then they are of no use."""
    most = here.config.workers.silence_seconds
    silent = [worker for worker in workers if (worker.silent_seconds or 0.0) > SILENT * most]
    if not silent:
        return None
    worst = max(silent, key=lambda worker: worker.silent_seconds or 0.0)
    told = (
        f"worker {worst.id} (process {worst.pid}) has given no sign of life for {worst.silent_seconds:.0f} s "
        f"at a chunk; it is replaced after {most:g} s (workers.silence_seconds). If that happens again, look "
        "at the machine: a hung disk or driver, no memory, a stopped process"
    )
    return Check("degraded", told, blocks=len(silent) == len(workers))


def _dying(here: Services) -> Check | None:
    died = here.pool.lately_died()
    if died.total() <= DIE_OFTEN:
        return None
    causes = ", ".join(f"{cause} {times}" for cause, times in died.most_common())
    told = (
        f"{died.total()} worker processes died within 15 minutes ({causes}): the log has their last words; "
        "`whisperd list --status failed` shows whether one file kills them, `whisperd doctor` the rest"
    )
    return Check("degraded", told)


def _those_up(here: Services, workers: Sequence[WorkerInfo]) -> Check:
    at_work = sum(worker.is_up for worker in workers)
    if here.drain.begun:
        emptied = "this host is emptied and takes nothing new until `whisperd drain --off`"
        return Check("degraded", emptied, blocks=True)
    here.none_up_since = (here.none_up_since or monotonic()) if workers and not at_work else None
    if at_work == len(workers):
        paused = "nothing is handed out until somebody resumes: POST /admin/resume, or `whisperd resume`"
        return Check("degraded", paused) if here.pool.paused else OK
    lives_on = at_work or _is_restarting(here, workers)
    return Check("degraded" if lives_on else "down", f"{at_work} of {len(workers)} workers are up")


def _is_restarting(here: Services, workers: Collection[WorkerInfo]) -> bool:
    """Whether none is up for a moment only: after a crash, or replaced for its size.

    Known only from one look to the next: a first look may come late, and then gives it all of the time.
    """
    began = here.none_up_since
    soon = began is not None and monotonic() - began <= RESTART_SECONDS
    return soon and here.pool.ready.is_set() and any(worker.state == "starting" for worker in workers)


def _canary(here: Services) -> Check:
    """Where all failed, a task would most likely fare no better: none is to be sent here."""
    if not here.config.workers.canary_after_seconds or not (trouble := here.pool.canary_trouble):
        return OK
    return Check("degraded", trouble, blocks=not here.pool.is_fit)


async def _model(here: Services) -> Check:
    """That of tasks which name none; another is asked for when its task comes. Hashes nothing.

    A worker that has it loaded still asks for the file before each chunk.
    """
    name = here.config.workers.model
    try:
        await here.check_model(name)
    except ModelUnusable:  # whose words may name a folder
        why = f"the model {name} is missing or damaged: `whisperd models list`, `whisperd models pull {name}`"
        return Check("degraded", why, blocks=True)
    return OK


def _disk(here: Services) -> Check:
    least = here.config.storage.min_free_mb
    try:
        read_only, free = here.spool.is_read_only(), here.spool.free_bytes() // 2**20
    except OSError as error:
        return Check("down", f"the spool, below storage.data_dir, cannot be looked at: {error.strerror}")
    if read_only:
        return Check("degraded", "the disk cannot be written: nothing new is accepted", blocks=True)
    if free < least:
        return Check(
            "degraded", f"{free} MiB free: nothing new is accepted until there are {least}", blocks=True
        )
    if free < here.config.storage.warn_free_mb:
        told = (
            f"{free} MiB free; below {least} nothing new is accepted: make room, or keep less (retention.*), "
            "or set storage.warn_free_mb lower"
        )
        return Check("degraded", told)
    return OK


def _loop(here: Services) -> Check:
    late = here.lag.worst()
    if late <= LATE_SECONDS:
        return OK
    told = (
        f"within the last minute the daemon answered up to {late:.2f} s late: the machine lacks "
        "processor time or memory (it swaps), or its disk hangs; fewer workers.count leave more to the daemon"
    )
    return Check("degraded", told)


def _backup(here: Services) -> Check:
    """Overdue after three intervals. A daemon that was off for longer has as long to take the first one."""
    copies = here.copies()
    if trouble := here.backups.trouble or (copies and copies.trouble):
        return Check("degraded", trouble)
    current_at, up = here.backups.current_at, monotonic() - here.started_at
    age = up if current_at is None else min(up, here.now() - current_at)
    if age <= 3 * here.config.backup.interval_seconds:
        return OK
    told = f"the last backup is {age / 60:.0f} min old" if current_at else "there is no backup"
    return Check("degraded", f"{told}: `whisperd backup` takes one, or says what hinders it")


def _rules(here: Services) -> Check:
    """Of risk detection: it goes on by the packs that can be read."""
    problems = here.searcher.books.problems
    if not problems:
        return OK
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    told = f"a rule pack is broken, and stays as it was or out: {problems[0]}{more}; `whisperd rules lint`"
    return Check("degraded", told)


def _redis(here: Services) -> Check:
    """Nothing is accepted without it, and what runs is told later: others in front of it can do no better."""
    if not here.config.redis.url:
        return Check("ok", "not configured")
    if trouble := here.queue_trouble():
        return Check("degraded", f"{trouble}; what runs goes on: see docs/redis.md")
    share = here.share()
    if share is None or not (unserved := share.unserved()):
        return OK
    told = ", ".join(f"{waiting} in {queue}" for queue, waiting in unserved.items())
    return Check("degraded", f"tasks wait where no host takes them ({told}): see redis.take_from")


def _broker(here: Services) -> Check:
    """What comes over HTTP is done all the same."""
    if not here.config.brokers.url:
        return Check("ok", "not configured")
    trouble = here.broker_trouble()
    return Check("degraded", f"{trouble}: see docs/brokers.md") if trouble else OK


def _recovery(here: Services) -> Check:
    """Said for a day, or until the next start: whoever looks after the daemon has to hear of it once."""
    told = here.arrival.recovered and monotonic() - here.started_at < RECOVERY_SECONDS
    return Check("degraded", here.arrival.message) if told else OK


def _worst(checks: Mapping[str, Check]) -> Verdict:
    verdicts = {check.verdict for check in checks.values()}
    return "down" if "down" in verdicts else "degraded" if "degraded" in verdicts else "ok"


_HEALTH = {
    200: Answer(about="All that matters is well.", body=HealthView),
    503: Answer(about="It is down.", body=HealthView),
}
_READY = {200: Answer(about="Yes.", body=ReadyView), 503: Answer(about="No.", body=ReadyView)}

calls = [
    Call(method="GET", path="/health", handler=health, right="public", answers=_HEALTH),
    Call(method="GET", path="/health/live", handler=live, right="public", answers={200: _READY[200]}),
    Call(method="GET", path="/health/ready", handler=ready, right="public", answers=_READY),
]
