"""/admin: what an operator asks of the daemon."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Annotated, Literal

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from whisperd.backup import BackupFailed, Copies
from whisperd.drain import LONGEST_SECONDS, Draining
from whisperd.routes import Json, Services, services
from whisperd.routes.call import Answer, Call
from whisperd.shown import BackupView, backup_view, timestamp
from whisperd.task import State

LONGEST_HOURS = 87_600.0  # ten years
BATCH = 500  # tasks deleted in one transaction


class CopiesView(Struct, frozen=True, kw_only=True):
    """How it stands with the copies elsewhere, since the start."""

    last: str | None  # the newest that is there
    last_at: str | None  # when it was made, or seen to be there
    error: str | None  # the last that there was; over where `last_at` is later
    error_at: str | None
    behind: bool  # a newer backup is still to be copied


class BackupsView(Struct, frozen=True, kw_only=True):
    backups: list[BackupView]
    elsewhere: CopiesView | None  # null where no copies are made: backup.s3


class SweptView(Struct, frozen=True, kw_only=True):
    requeued: int
    failed: int


class ClearedView(Struct, frozen=True, kw_only=True):
    deleted: int


class PausedView(Struct, frozen=True, kw_only=True):
    paused: bool


async def back_up(request: Request) -> Response:
    """Take a backup now."""
    return Json(backup_view(await services(request).back_up()))


async def list_backups(request: Request) -> Response:
    """The backups, newest first, the broken ones too."""
    try:
        found = await asyncio.to_thread(services(request).backups.list)
    except OSError as error:
        raise BackupFailed(f"the backups cannot be listed: {error.strerror}") from error
    copies = services(request).copies()
    elsewhere = _copies_view(copies) if copies else None
    return Json(BackupsView(backups=[backup_view(backup) for backup in found], elsewhere=elsewhere))


def _copies_view(copies: Copies) -> CopiesView:
    return CopiesView(
        last=copies.last,
        last_at=timestamp(copies.last_at),
        error=copies.error,
        error_at=timestamp(copies.error_at),
        behind=copies.behind,
    )


async def sweep(request: Request) -> Response:
    """Queue again what no worker holds any more.

    Tasks are counted, not chunks: one that lost several may have failed with the last of them.
    """
    states = {task.id: task.state for task in await services(request).sweep()}
    failed = sum(state == State.FAILED for state in states.values())
    return Json(SweptView(requeued=len(states) - failed, failed=failed))


class Clear(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: Annotated[list[Literal["completed", "failed", "cancelled"]], Meta(min_length=1)]
    older_than_hours: Annotated[float, Meta(ge=0, le=LONGEST_HOURS)]


async def clear(request: Request, wanted: Clear) -> Response:
    """Delete finished tasks, with their audio and transcripts."""
    here = services(request)
    states = frozenset(State(name) for name in wanted.status)
    hours = wanted.older_than_hours
    # 0 is all of them: also those of a time that is still to come, from before the clock was set back.
    deleted = await _clear(here, states, here.now() - hours * 3600 if hours else inf)
    return Json(ClearedView(deleted=deleted))


async def _clear(here: Services, states: frozenset[State], before: float) -> int:
    """The oldest first, and never more than there are now: what is finished meanwhile was not meant."""
    by_state = (await here.queue.stats()).by_state
    left = there = sum(by_state[state] for state in states)
    while left > 0 and (gone := await here.queue.clear(states, before, min(left, BATCH))):
        await asyncio.to_thread(here.spool.discard, gone)
        left -= len(gone)
    return there - left


async def pause(request: Request) -> Response:
    """Hand out nothing more; what runs is finished, and tasks are accepted."""
    pool = services(request).pool
    pool.pause()
    return Json(PausedView(paused=pool.paused))


async def resume(request: Request) -> Response:
    """Hand out tasks again."""
    pool = services(request).pool
    pool.resume()
    return Json(PausedView(paused=pool.paused))


class Patience(Struct, frozen=True, kw_only=True):
    timeout_seconds: Annotated[
        float, Meta(ge=0, le=LONGEST_SECONDS, description="What runs then is handed back to other hosts.")
    ] = LONGEST_SECONDS


async def drain(request: Request, patience: Patience) -> Response:
    """Empty this host: what nobody has begun goes back to the shared queue, what runs is finished.

    It is not ready any more. Without a shared queue it finishes all that it has, and accepts nothing.
    """
    draining = services(request).drain
    draining.begin(patience.timeout_seconds)
    return Json(await draining.state())


async def show_drain(request: Request) -> Response:
    """How far it is with that."""
    return Json(await services(request).drain.state())


async def undrain(request: Request) -> Response:
    """Take work again."""
    draining = services(request).drain
    draining.end()
    return Json(await draining.state())


_BACKUP = {200: Answer(about="The backup, checked.", body=BackupView)}
_BACKUPS = {200: Answer(about="The backups.", body=BackupsView)}
_SWEPT = {200: Answer(about="How many tasks.", body=SweptView)}
_CLEARED = {200: Answer(about="How many tasks.", body=ClearedView)}
_PAUSED = {200: Answer(about="Whether it is paused now.", body=PausedView)}
_DRAINING = {200: Answer(about="How far it is.", body=Draining)}

calls = [
    Call(method="POST", path="/admin/backup", handler=back_up, right="admin", answers=_BACKUP),
    Call(method="GET", path="/admin/backups", handler=list_backups, right="admin", answers=_BACKUPS),
    Call(method="POST", path="/admin/cleanup-stuck-tasks", handler=sweep, right="admin", answers=_SWEPT),
    Call(
        method="POST",
        path="/admin/clear",
        handler=clear,
        right="admin",
        body=Clear,
        answers=_CLEARED,
    ),
    Call(method="POST", path="/admin/pause", handler=pause, right="admin", answers=_PAUSED),
    Call(method="POST", path="/admin/resume", handler=resume, right="admin", answers=_PAUSED),
    Call(method="POST", path="/admin/drain", handler=drain, right="admin", query=Patience, answers=_DRAINING),
    Call(method="GET", path="/admin/drain", handler=show_drain, right="admin", answers=_DRAINING),
    Call(method="POST", path="/admin/undrain", handler=undrain, right="admin", answers=_DRAINING),
]
