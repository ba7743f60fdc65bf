"""What is done again and again beside the work: retention, and the tidying of the spool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from whisperd.config import Retention
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.spool import Spool
from whisperd.task import FINAL, Task

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
    found = await asyncio.to_thread(lambda: sorted(spool.owners()))
    states = await queue.states(found)
    orphans = {task_id for task_id in found if task_id not in states}
    for task_id in filter(sure, orphans):
        await asyncio.to_thread(spool.remove, task_id)
    for task_id in found:
        if states.get(task_id) in FINAL:
            await asyncio.to_thread(spool.remove_pcm, task_id)
    return {task_id for task_id in orphans if not sure(task_id)}


async def prune(queue: SqliteQueue, spool: Spool, keep: Retention, now: float) -> None:
    """Forget the finished tasks that are too old, and their audio. `now`: a cautious time, see Clock."""
    while gone := await queue.prune(now - keep.job_hours * 3600, now - keep.failed_job_hours * 3600):
        for task_id in gone:
            await asyncio.to_thread(spool.remove, task_id)


async def tidy(events: Events, spool: Spool) -> None:
    """Remove at once what a task that is over does not need. A hint missed here is made up for at start."""
    while not events.closed:
        with events.subscribe() as subscription:
            async for event in subscription:
                if event.task.state in FINAL:
                    await _remove_leftovers(spool, event.task)


async def _remove_leftovers(spool: Spool, task: Task) -> None:
    hopeless = task.error is not None and task.error.code in _HOPELESS
    try:
        await asyncio.to_thread(spool.remove if hopeless else spool.remove_pcm, task.id)
    except OSError as error:
        log.error("a file of the spool cannot be removed", task_id=task.id, error=error.strerror)
