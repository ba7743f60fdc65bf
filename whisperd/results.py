"""Results: the transcript of a completed task, written to the `result_url` that its submission named.

The sender of one kind of delivery; deliveries.py decides when. At least once: written again, it is the same
bytes in the same place, since the transcript of a completed task does not change.
"""

from __future__ import annotations

import asyncio

from whisperd.buckets import Buckets
from whisperd.delivery import Delivery, Reply
from whisperd.outbound import UrlRefused
from whisperd.redacting import NotRedacted, Redacting
from whisperd.s3 import S3Error, S3Refused
from whisperd.task import TaskNotFound, TaskQueue
from whisperd.transcript import render

FORMATS = {"json": "json", "srt": "srt", "vtt": "vtt", "txt": "text", "tsv": "tsv"}  # by the end of the key


class Results:
    """The sender of results."""

    def __init__(self, buckets: Buckets, queue: TaskQueue, redacting: Redacting) -> None:
        self._buckets = buckets
        self._queue = queue
        self._redacting = redacting

    async def __call__(self, delivery: Delivery) -> Reply:
        try:
            body, media_type = await self._written(delivery)
            await self._buckets.write(delivery.url, body, media_type)
        except TaskNotFound:
            return Reply(problem="the task is not kept any more")
        except NotRedacted as error:  # it is tried again later
            return Reply(problem=str(error))
        except (UrlRefused, S3Refused) as error:  # of this object maybe, and not of all in its bucket
            return Reply(problem=str(error))
        except S3Error as error:
            return Reply(problem=str(error), is_of_place=True)
        return Reply()

    async def _written(self, delivery: Delivery) -> tuple[bytes, str]:
        """The transcript as the end of the key has it, and its media type.

        Raises TaskNotFound, NotRedacted.
        """
        task = await self._queue.get(delivery.task_id)
        hidden = task.redact is not None
        transcript = await self._redacting.transcript(task, hidden=hidden, original=True)
        text, media_type = await asyncio.to_thread(render, transcript, format_of(delivery.url))
        return text.encode(), media_type


def format_of(url: str) -> str:
    """One of transcript.FORMATS."""
    _, point, end = url.rpartition("/")[2].rpartition(".")
    return FORMATS.get(end.lower(), "json") if point else "json"
