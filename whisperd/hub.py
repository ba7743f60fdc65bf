"""Getting a published file from the Hugging Face hub, or from the mirror that HF_ENDPOINT names.

The only user of huggingface_hub, which is imported inside the functions: half a second and 30 MB that a
daemon without a pull need not spend. Knows nothing of the models folder; checks no hash (models.py does, for
every way in).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from whisperd.catalogue import CorruptModel, Entry, HubUnavailable

Progress = Callable[[int, int], None]  # bytes done, bytes in all

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Offer(NamedTuple):
    """What the hub has for an entry of the catalogue: where, and what must come."""

    url: str
    sha256: str
    size_bytes: int


def ask(entry: Entry) -> Offer:
    """One HEAD request. Raises HubUnavailable, or CorruptModel if the catalogue says another hash."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with _naming(entry.file):
        url = hf_hub_url(entry.repository, entry.file, revision=entry.revision)
        stated = get_hf_file_metadata(url)
    # The ETag of a file in git-LFS is its SHA-256. A mirror may state another kind, which says nothing.
    etag = stated.etag if _SHA256.fullmatch(stated.etag or "") else None
    if entry.sha256 and etag not in (None, entry.sha256):
        raise CorruptModel(f"{url} is another file: its SHA-256 is {etag}, the catalogue's {entry.sha256}")
    sha256, size_bytes = entry.sha256 or etag, entry.size_bytes or stated.size
    if sha256 is None or size_bytes is None:
        raise HubUnavailable(f"{url}: neither the hub nor the catalogue states its size and SHA-256")
    return Offer(url, sha256, size_bytes)


def download(offer: Offer, part: Path, progress: Progress) -> None:
    """Append to `part` what it lacks of the offer; `progress` is called from this thread, about every 10 MB.

    A cut connection is taken up again a few times. Raises HubUnavailable, then and after a kill with the
    bytes so far in `part`; OSError if the disk is full.
    """
    # Not hf_hub_download: since version 2 it throws away what a process that died had downloaded.
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # lazily exported there

    bar: Any = partial(_Bar, progress, offer.size_bytes)
    with _naming(part.name), open(part, "ab", opener=partial(os.open, mode=0o600)) as file:
        if file.tell() > offer.size_bytes:
            file.truncate(0)
        done = file.seek(0, os.SEEK_END)
        headers = build_hf_headers()
        http_get(
            offer.url, file, resume_size=done, headers=headers, expected_size=offer.size_bytes, tqdm_class=bar
        )


class _Bar:
    """As much of tqdm as the hub's client uses, for whoever draws the bar."""

    def __init__(self, report: Progress, size_bytes: int, **options: Any) -> None:
        self._report, self._total, self._done = report, size_bytes, int(options.get("initial") or 0)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        self._done += n  # negative when a server starts over
        self._report(self._done, self._total)


@contextmanager
def _naming(file: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the client lets its HTTP library's through, and has changed library
        if isinstance(error, OSError) and error.errno:  # the disk's; the network's carry no number here
            raise
        raise HubUnavailable(f"{file} cannot be had from the hub: {type(error).__name__}: {error}") from error
