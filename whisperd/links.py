"""Links: URLs of transcripts in S3, each of which works for a while, for whoever has it, without a key.

A transcript is written to a place that has nothing but such copies, as it is shown at that moment, and stays
until no link can lead to it any more. So a link never leads to what somebody else has written: not to a
result_url, which others may overwrite, nor to what hosts share, which nobody has redacted.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog

from whisperd import s3
from whisperd.buckets import is_s3
from whisperd.config import Config
from whisperd.redacting import Redacting
from whisperd.s3 import Link, S3Error
from whisperd.task import Task
from whisperd.transcript import render

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Store

log = structlog.get_logger(__name__)
ANSWER_SECONDS = 20.0  # that whoever asks for a link waits for the bucket
ROUND_SECONDS = 3600.0  # between two looks for what may go: a list of a bucket has its price
SKEW_SECONDS = 3600.0  # by which the clock of the bucket may be behind
_WHERE = "bucket of links"
_SHARED = ("audio/http-", "results/", "checkpoints/")  # see redis_queue/storage.py
_OURS = re.compile(r"[A-Za-z0-9_-]{1,64}(\.redacted)?\.(json|text|srt|vtt|tsv)")


def opened(config: Config, redacting: Redacting, cautious: Callable[[], float]) -> Links | None:
    """None: there is no bucket for them. Connects to nothing yet. Raises S3Unusable.

    `cautious`: Unix seconds, see Clock.
    """
    bucket, _, prefix = place(config).partition("://")[2].partition("/")
    if not bucket:
        return None
    store = s3.opened(config.s3, bucket)  # without the prefix: what is signed is the whole key
    return Links(store, prefix.strip("/"), redacting, config.s3.link_seconds, cautious)


def place(config: Config) -> str:
    """Where they lead, as s3://bucket/prefix; empty: nowhere."""
    storage = config.redis.storage
    if config.s3.links or not (config.redis.url and is_s3(storage)):
        return config.s3.links
    return f"{storage.rstrip('/')}/links"


def reserved(config: Config) -> tuple[str, ...]:
    """How the URLs begin of what only whisperd writes: that of a result_url would be taken for its own."""
    storage = config.redis.storage.rstrip("/")
    shared = [f"{storage}/{kind}" for kind in _SHARED] if is_s3(storage) else []
    return (*([f"{place(config).rstrip('/')}/"] if place(config) else []), *shared)


class Links:
    def __init__(
        self,
        store: S3Store,
        prefix: str,
        redacting: Redacting,
        longest_seconds: int,
        cautious: Callable[[], float],
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._redacting = redacting
        self._longest_seconds = longest_seconds
        self._cautious = cautious

    async def make(self, task: Task, format: str, *, hidden: bool, seconds: int) -> Link:
        """To the transcript as it is shown now; `hidden`: redacted. Raises NotRedacted, S3Error."""
        transcript = await self._redacting.transcript(task, hidden=hidden)
        text, media_type = await asyncio.to_thread(render, transcript, format)
        # Another name: who has a link to what is redacted is never shown more by a later one.
        name = f"{task.id}.redacted.{format}" if hidden else f"{task.id}.{format}"
        return await self._written(f"{self._prefix}/{name}", text.encode(), media_type, seconds)

    async def _written(self, key: str, body: bytes, media_type: str, seconds: int) -> Link:
        import obstore

        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                with s3.troubles(_WHERE):
                    await obstore.put_async(self._store, key, body, attributes={"Content-Type": media_type})
                    return await s3.link(self._store, key, seconds)
        except TimeoutError:
            raise S3Error(f"the {_WHERE} does not answer") from None

    # --- what may go ---

    async def run(self) -> None:
        """For ever: remove what no link can lead to any more. Every host may: what is gone is no trouble."""
        while True:
            try:
                await self.tidy()
            except S3Error as error:
                log.warning("transcripts that no link leads to are removed later", reason=str(error))
            await asyncio.sleep(ROUND_SECONDS)

    async def tidy(self) -> None:
        """One look. Raises S3Error: then the next one does the rest.

        Weakness: a link made in that instant to a transcript whose last one had expired may lead nowhere.
        """
        import obstore

        before = self._cautious() - self._longest_seconds - SKEW_SECONDS
        stream = obstore.list(self._store, self._prefix, chunk_size=s3.AT_ONCE)
        async for some in s3.each(stream, partial(s3.troubles, _WHERE)):
            if keys := [found["path"] for found in some if self._is_over(found, before)]:
                with s3.troubles(_WHERE):
                    await obstore.delete_async(self._store, keys)

    def _is_over(self, found: ObjectMeta, before: float) -> bool:
        name = found["path"].removeprefix(f"{self._prefix}/")
        return _OURS.fullmatch(name) is not None and found["last_modified"].timestamp() < before
