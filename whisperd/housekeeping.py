"""What is done again and again beside the work: retention, and the tidying of the spool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

import structlog

from whisperd.config import Retention
from whisperd.events import Events, tells_an_end
from whisperd.history import History
from whisperd.outbox import Outbox
from whisperd.queue import SqliteQueue
from whisperd.spool import Spool
from whisperd.task import FINAL, IndexDamaged, StorageBusy, StorageFailed, StorageFull
from whisperd.usage import day

INDEX_SECONDS = 1.0  # between two looks whether there is anything new to index
INDEX_TROUBLE_SECONDS = 60.0  # after one that went wrong, so that what goes wrong each time holds up nobody

log = structlog.get_logger(__name__)

# What a task failed with when its audio is of no use to anyone: it is not kept for a retry.
_HOPELESS = frozenset({"unsupported_media", "no_audio", "audio_too_long"})


async def clean_spool(
    queue: SqliteQueue, spool: Spool, sure: Callable[[str], bool] = lambda task_id: True
) -> set[str]:
    """Remove the files of no task (an upload cut off by a crash), and the PCM of tasks that are over.

    Returns the ids of no task whose files stay, since `sure` said no: while the daemon takes submissions the
    row of a file may be about to be committed, so only what was such an orphan at the last look too may go.
    """
    owners, decoded = await asyncio.to_thread(lambda: (set(spool.owners()), set(spool.decoded())))
    states = await queue.states(sorted(owners | decoded))
    orphans = owners - states.keys()
    await asyncio.to_thread(spool.discard, filter(sure, orphans))
    over = {task_id for task_id in decoded if states.get(task_id) in FINAL}
    await asyncio.to_thread(spool.discard, over, decoded_only=True)
    return {task_id for task_id in orphans if not sure(task_id)}


async def prune(
    queue: SqliteQueue, spool: Spool, outbox: Outbox, history: History, keep: Retention, now: float
) -> None:
    """Forget the finished tasks that are too old, their audio, what was told of such tasks, and old usage.

    `now`: a cautious time, see Clock.
    """
    done_before, failed_before = now - keep.job_hours * 3600, now - keep.failed_job_hours * 3600
    while gone := await queue.prune(done_before, failed_before):
        await asyncio.to_thread(spool.discard, gone)
    await outbox.prune(done_before, failed_before)
    await history.forget_usage(day(now - keep.usage_days * 86_400))


async def keep_searchable(queue: SqliteQueue, wanted: Callable[[], bool]) -> None:
    """Have the index of words follow the tasks, or be emptied when it is not wanted; for ever.

    It takes half of the time at most, so that a back-fill of a million tasks holds up nobody.
    """
    while True:
        seconds = INDEX_SECONDS
        began = monotonic()
        try:
            if await _index(queue, wanted()):
                seconds = monotonic() - began
        except (StorageFull, StorageBusy, StorageFailed):  # said by others; what was noted stays
            pass
        except Exception:  # an edge: the daemon is there for more than its search
            log.exception("the index of words does not follow the tasks")
            seconds = INDEX_TROUBLE_SECONDS
        await asyncio.sleep(seconds)


async def _index(queue: SqliteQueue, wanted: bool) -> bool:
    """A step of it; False if there is no more."""
    try:
        step = await queue.index(wanted)
    except IndexDamaged:
        await queue.index_anew()
        raise
    for seq in step.unreadable if step else ():
        log.error("a task cannot be read, and is not found by words", seq=seq)
    return step is not None


async def tidy(events: Events, spool: Spool) -> None:
    """Remove at once what a task that is over does not need. A hint missed here is made up for at start."""
    while not events.closed:
        with events.subscribe(wants=tells_an_end) as subscription:
            async for event in subscription:
                decoded_only = event.task.error is None or event.task.error.code not in _HOPELESS
                await asyncio.to_thread(spool.discard, [event.task.id], decoded_only=decoded_only)
