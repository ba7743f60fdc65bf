"""Where audio and transcripts lie for all hosts: in a bucket, or in a folder that all of them have mounted.

    audio/http-ID       what was submitted over HTTP, audio or text; all else in audio/ is of other programs
    results/ID          the transcript, whole, as any host can show it; written once, by whoever comes first
    results/ID.FORMAT   the transcript that a job of WhisperAPI was answered with: its producer's from then on
    looks/ID/LOOK       what a look of its own has found in that transcript, as far as it is to be redacted
    checkpoints/…       what is finished of tasks that are not over, see checkpoints.py
    links/…             in a bucket: what links lead to, see whisperd.links

Objects are streamed, and never whole in memory but for transcripts. What is ours goes when it is older than
what is kept and the shared queue has forgotten its task (see forgetting.py).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from whisperd import s3
from whisperd.buckets import is_s3
from whisperd.config import Config
from whisperd.redis_queue.client import RedisUnusable
from whisperd.s3 import S3Error, S3Exists, S3NotFound, S3Refused

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ObjectStore

CHECK_SECONDS = 10.0
PART_SECONDS = 15.0  # for a part of audio that somebody listens to
_PIECE_BYTES = 256 * 1024
_KEY = re.compile(r"(audio|results)/[A-Za-z0-9_-][A-Za-z0-9._-]*")
SUBMITTED = "audio/http-"  # over HTTP, and then the id of the task
# What is ours to remove, and the id of its task.
_ID = "([A-Za-z0-9_-]{1,64})"
_OURS = re.compile(rf"{SUBMITTED}{_ID}|results/{_ID}|looks/{_ID}/[\w-]+|checkpoints/{_ID}/[^/]+/[0-9]{{1,9}}")
_FOLDERS = ("audio", "results", "looks", "checkpoints")
_LOOKS, _CHECKPOINTS = "looks", "checkpoints"
_OF_FOLDER = "shared://"


class Kept(NamedTuple):
    """An object of ours."""

    key: str
    task_id: str
    at: float  # when it was written last, in Unix seconds


class Part(NamedTuple):
    """Some bytes of an object."""

    content: bytes
    size: int  # of all of it
    version: str | None  # another one, once it was written again
    at: float  # when it was written last, in Unix seconds


class Storage:
    """Every verb raises S3Error, for a folder too: it cannot be reached, or answers with an error."""

    def __init__(self, config: Config) -> None:
        """Connects to nothing yet. Raises RedisUnusable, S3Unusable."""
        place = config.redis.storage
        if not place:
            raise RedisUnusable(
                "redis.storage is not set: hosts that share a queue share audio and transcripts"
            )
        self._store, self._base = _bucket(config, place) if is_s3(place) else _folder(place)
        self.checkpoints = _aside(config, place, _CHECKPOINTS)
        self._looks = _aside(config, place, _LOOKS)
        self._where = "shared storage"

    async def check(self) -> None:
        """Ask as this host will ask. Raises RedisUnusable for what no waiting mends, S3Error."""
        import obstore

        try:
            async with asyncio.timeout(CHECK_SECONDS):
                with self.troubles():
                    await anext(obstore.list(self._store, "results", chunk_size=1), None)
        except TimeoutError:
            raise S3Error(f"the {self._where} does not answer") from None
        except S3NotFound:
            raise RedisUnusable("there is no bucket of the name that redis.storage has") from None
        except S3Refused as error:
            raise RedisUnusable(str(error)) from None

    async def keep_audio(self, task_id: str, content: Path | bytes) -> str:
        """Returns its URL."""
        import obstore

        with self.troubles():
            await obstore.put_async(self._store, self.audio_key(task_id), content)
        return f"{self._base}{self.audio_key(task_id)}"

    def audio_key(self, task_id: str) -> str:
        """Where what was submitted over HTTP lies."""
        return f"{SUBMITTED}{task_id}"

    def key_of(self, url: str) -> str | None:
        """What is ours of it; None: it is elsewhere."""
        key = url.removeprefix(self._base)
        return key if key != url and _KEY.fullmatch(key) else None

    async def pieces(self, key: str) -> AsyncIterator[bytes]:
        """Raises S3NotFound."""
        import obstore

        with self.troubles("such audio"):
            result = await obstore.get_async(self._store, key)
        async for piece in s3.each(result.stream(_PIECE_BYTES), self.troubles):
            yield bytes(piece)

    async def part(self, key: str, first: int, end: int, version: str | None = None) -> Part:
        """From one byte to before another, or to the end.

        Raises S3NotFound, also for what is of another `version` by now.
        """
        import obstore

        options: GetOptions = {"range": (first, end)}
        if version is not None:
            options["if_match"] = version
        try:
            async with asyncio.timeout(PART_SECONDS):
                with self.troubles("such audio"):
                    found = await obstore.get_async(self._store, key, options=options)
                    content = bytes(await found.bytes_async())
        except TimeoutError:
            raise S3Error(f"the {self._where} does not answer") from None
        except S3Exists:
            raise S3NotFound(f"there is other audio in the {self._where} by now") from None
        meta = found.meta
        return Part(content, meta["size"], meta["e_tag"], meta["last_modified"].timestamp())

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

    async def keep_look(self, transcription_id: str, task_id: str, content: bytes) -> None:
        """Note what a task has found in the transcript of another one. Written again it is the same."""
        import obstore

        with self.troubles():
            await obstore.put_async(self._looks, f"{transcription_id}/{task_id}", content)

    async def looks(self, transcription_id: str) -> Mapping[str, bytes]:
        """What was noted of a transcript, by the ids of the tasks, in their order."""
        import obstore

        found: dict[str, bytes] = {}
        with self.troubles():
            listed = await obstore.list(self._looks, transcription_id).collect_async()
        for key in sorted(entry["path"] for entry in listed):
            with suppress(S3NotFound), self.troubles():  # it was removed just now
                result = await obstore.get_async(self._looks, key)
                found[key.partition("/")[2]] = bytes(await result.bytes_async())
        return found

    async def keep_rendered(self, name: str, content: bytes, media_type: str) -> str:
        """Returns its URL. Written again it is the same."""
        import obstore

        attributes = {"Content-Type": media_type} if is_s3(self._base) else None
        with self.troubles():
            await obstore.put_async(self._store, f"results/{name}", content, attributes=attributes)
        return f"{self._base}results/{name}"

    def result_url(self, task_id: str) -> str:
        return f"{self._base}results/{task_id}"

    async def kept(self) -> AsyncIterator[Sequence[Kept]]:
        """What there is of ours, some at a time."""
        import obstore

        for folder in _FOLDERS:
            listed = obstore.list(self._store, folder, chunk_size=s3.AT_ONCE)
            async for found in s3.each(listed, self.troubles):
                yield [kept for one in found if (kept := _kept(one)) is not None]

    async def remove(self, keys: Sequence[str]) -> None:
        """One that is not there is no trouble."""
        import obstore

        aside = {_CHECKPOINTS: self.checkpoints, _LOOKS: self._looks}
        names: dict[str, list[str]] = {}
        for key in keys:
            folder, _, name = key.partition("/")
            names.setdefault(folder if folder in aside else "", []).append(name if folder in aside else key)
        for folder, some in names.items():
            with suppress(S3NotFound), self.troubles():
                await obstore.delete_async(aside.get(folder, self._store), some)

    @contextmanager
    def troubles(self, name: str = "") -> Iterator[None]:
        """What goes wrong in the block becomes an S3Error."""
        try:
            with s3.troubles(self._where, name):
                yield
        except OSError as error:  # of a folder
            raise S3Error(f"the {self._where} cannot be used: {error.strerror}") from error


def _kept(found: ObjectMeta) -> Kept | None:
    """None: somebody else has put it there."""
    ours = _OURS.fullmatch(found["path"])
    if ours is None:
        return None
    task_id = next(filter(None, ours.groups()))
    return Kept(found["path"], task_id, found["last_modified"].timestamp())


def _bucket(config: Config, place: str) -> tuple[ObjectStore, str]:
    bucket, _, prefix = place.partition("://")[2].partition("/")
    if bucket not in config.s3.buckets:
        raise RedisUnusable("the bucket of redis.storage is none of those in s3.buckets")
    prefix = prefix.strip("/")
    return s3.opened(config.s3, bucket, prefix), f"s3://{bucket}/{prefix}/" if prefix else f"s3://{bucket}/"


def _aside(config: Config, place: str, folder: str) -> ObjectStore:
    """Aside: they come and go with their folders, which those of others in audio/ must not."""
    if is_s3(place):
        return _bucket(config, f"{place.rstrip('/')}/{folder}")[0]
    from obstore.store import LocalStore

    return LocalStore(prefix=Path(place) / folder, automatic_cleanup=True, mkdir=True)


def _folder(place: str) -> tuple[ObjectStore, str]:
    if not Path(place).is_dir():
        raise RedisUnusable("there is no folder at redis.storage: it has to be mounted on every host")
    try:
        from obstore.store import LocalStore
    except ImportError as error:
        raise s3.S3Missing("a shared queue needs a library more: pip install 'whisperd[redis]'") from error
    return LocalStore(prefix=place, automatic_cleanup=False), _OF_FOLDER
