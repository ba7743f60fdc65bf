"""What the shared queue is told of a task that is over: its transcript goes to the shared storage first, with
what was found in it.

At least once, and never twice: a transcript that is there is not written again, and the job's lock decides
whether what is said of it counts.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from whisperd.job import Job
from whisperd.redis_queue import formats, stored
from whisperd.redis_queue.boards import Boards
from whisperd.redis_queue.ledger import Ledger
from whisperd.redis_queue.seen import CANCELLED
from whisperd.redis_queue.storage import Storage
from whisperd.redis_queue.stored import Found, Stored
from whisperd.task import State, Task, TaskQueue
from whisperd.transcript import Transcript, render

# Why a task can fail that is up to it alone: no other host would fare better.
_FINAL = frozenset({"unsupported_media", "no_audio", "audio_too_long", "timeout", CANCELLED})


class Reports:
    """Raises QueueAway and S3Error: then it is to be said again."""

    def __init__(self, board: Boards, storage: Storage, queue: TaskQueue, ledger: Ledger) -> None:
        self._board = board
        self._storage = storage
        self._queue = queue
        self._ledger = ledger

    async def tell(self, job: Job, task: Task) -> None:
        """How the task of a job ended. Raises LostJob where nobody wants to know."""
        await self._put_back(job)
        if task.state is State.COMPLETED:
            content = await self._content(task)
            await self.tell_result(job, task.id, await self._storage.keep_result(task.id, content))
        elif task.state is State.CANCELLED:
            await self._board.fail(job, CANCELLED, final=True)
        else:
            why = f"{task.error.code}: {task.error.message}" if task.error else "failed"
            await self._board.fail(job, why, final=why.partition(":")[0] in _FINAL)

    async def _content(self, task: Task) -> bytes:
        transcript = Transcript.of(task, await self._queue.segments(task.id))
        look = await self._ledger.looked(task)
        if task.transcript is not None and look is not None and look.report is not None:
            # Before anybody sees that it is over: what it has found is hidden from then on.
            found = await asyncio.to_thread(Found.by, look, look.report)
            await self._storage.keep_look(task.transcript, task.id, msgspec.json.encode(found))
        peaks = await self._queue.peaks(task.id) or b""
        return await stored.encoded(Stored(task=task, segments=transcript.segments, look=look, peaks=peaks))

    async def _put_back(self, job: Job) -> None:
        """Into a Redis that has lost it, so that whoever added it hears of its end."""
        if job.server != (self._board.server or await self._board.identify()):
            await self._board.put_back(job)

    async def tell_result(self, job: Job, task_id: str, content: bytes) -> None:
        """The job is completed by this transcript. Raises LostJob."""
        seen = await self._board.held(job)
        if seen is None:
            return  # Redis has forgotten the job: the transcript is found all the same
        transcript = await stored.decoded(content)
        if isinstance(asked := formats.read(seen.data), formats.TheirJob):
            if not formats.is_of(asked, transcript.task) or transcript.look is not None:
                await self._board.fail(job, f"invalid_field: {formats.ANOTHERS}", final=True)
                return
            value = await self._rendered(asked, transcript)
        else:
            value = self._value(task_id, transcript, content)
        await self._board.complete(job, value)

    def _value(self, task_id: str, found: Stored, content: bytes) -> Mapping[str, Any]:
        url, words = self._storage.result_url(task_id), len(found.text.split())
        sha256, look = hashlib.sha256(content).hexdigest(), found.look.task if found.look else None
        return formats.our_value(url, sha256, found.task, words, look)

    async def _rendered(self, asked: formats.TheirJob, transcript: Transcript) -> Mapping[str, Any]:
        format = "text" if asked.format == "txt" else asked.format
        text, media_type = await asyncio.to_thread(render, transcript, format)
        name = f"{asked.task_id}.{asked.format}"
        url = await self._storage.keep_rendered(name, text.encode(), media_type)
        return formats.their_value(url, transcript.task)
