"""Objects that users name as `s3://bucket/key`: read and written in the buckets of the settings only.

A key is taken as it is written, as S3's own tools do: nothing of it is decoded or resolved, and one that a
path could climb with is refused. The endpoint is the operator's, so the rules of outbound.py are not its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from whisperd import s3
from whisperd.config import S3
from whisperd.outbound import AnswerTooLarge, Download, OutboundError, UrlRefused

if TYPE_CHECKING:
    from obstore import GetResult

MAX_KEY_BYTES = 1024  # S3's own
_PIECE_BYTES = 256 * 1024
_SCHEME = re.compile(r"s3://", re.IGNORECASE)


class Place(NamedTuple):
    bucket: str
    key: str

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]


def is_s3(url: str) -> bool:
    return _SCHEME.match(url) is not None


def place_of(url: str, buckets: Collection[str]) -> Place:
    """Where that is, in one of these buckets; looks nothing up. Raises UrlRefused."""
    if not is_s3(url):
        raise UrlRefused("it must begin with s3://")
    bucket, _, key = _SCHEME.sub("", url, count=1).partition("/")
    if bucket not in buckets:
        raise UrlRefused("its bucket is none of those in s3.buckets")
    if not key:
        raise UrlRefused("it names no object: s3://bucket/key")
    _check_key(key)
    return Place(bucket, key)


def _check_key(key: str) -> None:
    """Raises UrlRefused."""
    if not key.isprintable():  # which surrogates are not, either
        raise UrlRefused("its key has a character that cannot be shown")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise UrlRefused(f"its key is longer than {MAX_KEY_BYTES} bytes")
    if {"", ".", ".."} & set(key.split("/")):
        raise UrlRefused('its key has a part that is empty, "." or ".."')


class Buckets:
    """The buckets of the settings."""

    def __init__(self, settings: S3) -> None:
        """Connects to nothing yet. Raises S3Unusable, if there is any bucket."""
        self._stores = {bucket: s3.opened(settings, bucket) for bucket in settings.buckets}

    @asynccontextmanager
    async def download(self, url: str, *, max_bytes: int, seconds: float) -> AsyncIterator[Download]:
        """What is there; all in all within `seconds`, the block included.

        Raises OutboundError; out of `pieces`, too.
        """
        place = place_of(url, self._stores)
        try:
            async with asyncio.timeout(seconds) as limit:
                result = await self._got(place)
                declared = result.meta["size"]
                if declared > max_bytes:
                    raise AnswerTooLarge(f"it has more than {max_bytes} bytes")
                yield Download(declared, _pieces(result, place))
        except TimeoutError:
            if limit.expired():
                raise OutboundError(f"it took longer than {seconds:g} seconds") from None
            raise

    async def _got(self, place: Place) -> GetResult:
        import obstore

        with _told(place):
            return await obstore.get_async(self._stores[place.bucket], place.key)

    async def write(self, url: str, content: bytes, media_type: str) -> None:
        """The object is there, whole, in place of what was; cut off, it may be or not.

        Raises UrlRefused, S3Error.
        """
        import obstore

        place = place_of(url, self._stores)
        with s3.troubles(f"bucket {place.bucket}"):
            await obstore.put_async(
                self._stores[place.bucket], place.key, content, attributes={"Content-Type": media_type}
            )


async def _pieces(result: GetResult, place: Place) -> AsyncIterator[bytes]:
    async for piece in s3.each(result.stream(_PIECE_BYTES), partial(_told, place)):
        yield bytes(piece)


@contextmanager
def _told(place: Place) -> Iterator[None]:
    """The troubles of a bucket are those of a download."""
    try:
        with s3.troubles(f"bucket {place.bucket}", "such object"):
            yield
    except s3.S3Error as error:
        raise OutboundError(str(error)) from None
