"""Where audio and transcripts lie for all hosts: in a bucket, or in a folder that all of them have mounted.

    audio/ID            what was submitted
    results/ID          the transcript, whole, as any host can show it; written once, by whoever comes first
    results/ID.FORMAT   the transcript as a job of WhisperAPI wants it
    checkpoints/…       what is finished of tasks that are not over, see checkpoints.py

Objects are streamed, and never whole in memory but for transcripts.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from whisperd import s3
from whisperd.buckets import is_s3
from whisperd.config import Config
from whisperd.redis_queue.client import RedisUnusable
from whisperd.s3 import S3Error, S3Exists, S3NotFound

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_PIECE_BYTES = 256 * 1024
_KEY = re.compile(r"(audio|results)/[A-Za-z0-9_-][A-Za-z0-9._-]*")
_OF_FOLDER = "shared://"


class Storage:
    """Every verb raises S3Error, for a folder too: it cannot be reached, or answers with an error."""

    def __init__(self, config: Config) -> None:
        """Connects to nothing yet. Raises RedisUnusable, S3Missing."""
        place = config.redis.storage
        if not place:
            raise RedisUnusable(
                "redis.storage is not set: hosts that share a queue share audio and transcripts"
            )
        self._store, self._base = _bucket(config, place) if is_s3(place) else _folder(place)
        self.checkpoints = _checkpoints(config, place)
        self._where = "shared storage"

    async def keep_audio(self, task_id: str, file: Path) -> str:
        """Returns its URL."""
        import obstore

        with self.troubles():
            await obstore.put_async(self._store, f"audio/{task_id}", file)
        return f"{self._base}audio/{task_id}"

    def key_of(self, url: str) -> str | None:
        """What is ours of it; None: it is elsewhere."""
        key = url.removeprefix(self._base)
        return key if key != url and _KEY.fullmatch(key) else None

    async def pieces(self, key: str) -> AsyncIterator[bytes]:
        """Raises S3NotFound."""
        import obstore

        with self.troubles("such audio"):
            result = await obstore.get_async(self._store, key)
        stream = result.stream(_PIECE_BYTES)
        while True:
            with self.troubles():  # not around the yield: what goes wrong there is no trouble of ours
                piece = await anext(stream, None)
            if piece is None:
                return
            yield bytes(piece)

    async def result(self, task_id: str) -> bytes | None:
        """The transcript that somebody has written; None: nobody has."""
        import obstore

        try:
            with self.troubles():
                found = await obstore.get_async(self._store, f"results/{task_id}")
                return bytes(await found.bytes_async())
        except S3NotFound:
            return None

    async def keep_result(self, task_id: str, content: bytes) -> bytes:
        """Write the transcript, if nobody has; returns what is there."""
        import obstore

        try:
            with self.troubles():
                await obstore.put_async(self._store, f"results/{task_id}", content, mode="create")
        except S3Exists:
            content = await self.result(task_id) or content
        return content

    async def keep_rendered(self, name: str, content: bytes, media_type: str) -> str:
        """Returns its URL. Written again it is the same."""
        import obstore

        attributes = {"Content-Type": media_type} if is_s3(self._base) else None
        with self.troubles():
            await obstore.put_async(self._store, f"results/{name}", content, attributes=attributes)
        return f"{self._base}results/{name}"

    def result_url(self, task_id: str) -> str:
        return f"{self._base}results/{task_id}"

    @contextmanager
    def troubles(self, name: str = "") -> Iterator[None]:
        """What goes wrong in the block becomes an S3Error."""
        try:
            with s3.troubles(self._where, name):
                yield
        except OSError as error:  # of a folder
            raise S3Error(f"the {self._where} cannot be used: {error.strerror}") from error


def _bucket(config: Config, place: str) -> tuple[ObjectStore, str]:
    bucket, _, prefix = place.partition("://")[2].partition("/")
    if bucket not in config.s3.buckets:
        raise RedisUnusable("the bucket of redis.storage is none of those in s3.buckets")
    prefix = prefix.strip("/")
    return s3.opened(config.s3, bucket, prefix), f"s3://{bucket}/{prefix}/" if prefix else f"s3://{bucket}/"


def _checkpoints(config: Config, place: str) -> ObjectStore:
    """Aside: they come and go with their folders, which those of others in audio/ must not."""
    if is_s3(place):
        return _bucket(config, f"{place.rstrip('/')}/checkpoints")[0]
    from obstore.store import LocalStore

    return LocalStore(prefix=Path(place) / "checkpoints", automatic_cleanup=True, mkdir=True)


def _folder(place: str) -> tuple[ObjectStore, str]:
    if not Path(place).is_dir():
        raise RedisUnusable("there is no folder at redis.storage: it has to be mounted on every host")
    try:
        from obstore.store import LocalStore
    except ImportError as error:
        raise s3.S3Missing("a shared queue needs a library more: pip install 'whisperd[redis]'") from error
    return LocalStore(prefix=place, automatic_cleanup=False), _OF_FOLDER
