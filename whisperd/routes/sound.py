"""/tasks/{id}/audio and /tasks/{id}/peaks: what a player needs to play a task's audio, and to draw it.

The audio is handed out as it came, or as a worker's process muted it: nothing here looks into it. What is not
on a disk of this host may lie elsewhere, for all hosts that share a queue.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from whisperd.routes import Json, services, task_of
from whisperd.routes.call import Answer, Call, Header
from whisperd.routes.errors import Refusal
from whisperd.routes.hiding import Redacted, is_hidden
from whisperd.routes.streamed import Streamed
from whisperd.sniff import media_type
from whisperd.task import MOST_PEAKS, Task

# One range: players ask for no more. What is not one is passed over, as RFC 9110 (14.2) has it.
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))\Z")


class Kept(NamedTuple):
    size: int
    media_type: str


class Listened(Struct, frozen=True, kw_only=True):
    redacted: Redacted | None = None


async def audio(request: Request, query: Listened) -> Response:
    """The audio as it was sent, while it is kept; or a part of it, for a player that seeks.

    Redacted it is a WAV file, in which what rules want out is silent; the first time that it is asked for it
    is made, which may take a while.
    """
    here, task = services(request), await task_of(request)
    if is_hidden(request, task, query.redacted):
        return await _muted(request, task)
    path = here.spool.audio(task.id)
    kept = await asyncio.to_thread(_look_at, path)
    if kept is None:
        return await _from_elsewhere(request, task)
    # Of what it says, not of the file: a player may go on at another host.
    return _sent(request, path, kept, task.audio.name, task.audio.sha256[:32])


async def _muted(request: Request, task: Task) -> Response:
    here = services(request)
    silent = await here.redacting.silent(task)
    path = await here.muting.recording(replace(task, id=await here.audio_id(task)), silent)
    kept = await asyncio.to_thread(_look_at, path)
    if kept is None:
        raise _gone()
    # Not that of the file: one that is made again is the same for a player that goes on.
    return _sent(request, path, kept, f"{PurePath(task.audio.name).stem}.wav", path.stem)


def _sent(request: Request, path: Path, kept: Kept, name: str, tag: str) -> Response:
    if _part(request, kept.size) is None:
        request.scope["headers"] = [header for header in request.scope["headers"] if header[0] != b"range"]
    headers = {"ETag": f'"{tag}"'}
    return FileResponse(path, media_type=kept.media_type, filename=name, headers=headers)


async def _from_elsewhere(request: Request, task: Task) -> Response:
    """As the host answers that has it."""
    elsewhere = services(request).audio_elsewhere
    found = await elsewhere.find(task) if elsewhere else None
    if found is None:
        raise _gone()
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": _disposition(task.audio.name),
        "Last-Modified": formatdate(found.written_at, usegmt=True),
        "ETag": f'"{found.tag}"',
    }
    part, status = _part(request, found.size), 200
    if part is None or request.headers.get("if-range") not in (None, *_stamps(headers)):
        part = range(found.size)
    else:
        status, headers["Content-Range"] = 206, f"bytes {part.start}-{part.stop - 1}/{found.size}"
    headers["Content-Length"] = str(len(part))
    return Streamed(found.pieces(part.start, part.stop), status, media_type(found.head), headers)


def _stamps(headers: Mapping[str, str]) -> tuple[str, str]:
    return headers["ETag"], headers["Last-Modified"]


def _disposition(name: str) -> str:
    """As Starlette has it of a file."""
    return FileResponse("", filename=name).headers["content-disposition"]


def _look_at(path: Path) -> Kept | None:
    try:
        with open(path, "rb") as file:
            return Kept(os.fstat(file.fileno()).st_size, media_type(file.read(64)))
    except FileNotFoundError:
        return None


def _gone() -> Refusal:
    return Refusal(404, "not_found", "the audio of this task is not kept any more")


def _part(request: Request, size: int) -> range | None:
    """The bytes that the request is for; None: all. Raises Refusal where they lie behind the end."""
    found = _RANGE.match(request.headers.get("range", ""))
    if found is None:
        return None
    first, last, suffix = found.groups()
    if first is not None and last and int(last) < int(first):
        return None
    if int(first or 0) >= size or (suffix is not None and not int(suffix)):
        message = f"the audio has {size} bytes: ask for some of them"
        raise Refusal(416, "range_not_satisfiable", message, "Range", {"Content-Range": f"bytes */{size}"})
    if suffix is not None:
        return range(max(0, size - int(suffix)), size)
    return range(int(first), min(size, int(last) + 1) if last else size)


class Resolution(Struct, frozen=True, kw_only=True):
    buckets: Annotated[int, Meta(ge=1, le=MOST_PEAKS, description="How many numbers.")] = 800


class PeaksView(Struct, frozen=True, kw_only=True):
    """A waveform: how loud it gets in each of equal stretches of the audio, from 0 to 1 (full scale)."""

    duration: float  # seconds, of all of them
    peaks: list[float]


async def peaks(request: Request, query: Resolution) -> Response:
    """The waveform of the audio, once it is decoded; also when the audio is not kept any more."""
    task = await task_of(request)
    kept = await services(request).queue.peaks(task.id)
    if kept is None:
        raise Refusal(
            404, "no_peaks", "there is no waveform of this task, or not yet: it comes with its plan"
        )
    view = PeaksView(duration=round(task.audio.duration or 0.0, 3), peaks=_spread(kept, query.buckets))
    return Json(view)


def _spread(kept: bytes, buckets: int) -> list[float]:
    """The kept peaks in so many buckets: the highest of each. Where there are fewer, they are repeated."""
    edges = [bucket * len(kept) // buckets for bucket in range(buckets + 1)]
    return [round(max(kept[start : max(end, start + 1)]) / 255, 3) for start, end in pairwise(edges)]


_AUDIO = ("audio/*", "video/*", "application/octet-stream")

calls = [
    Call(
        method="GET",
        path="/tasks/{task_id}/audio",
        handler=audio,
        right="read",
        query=Listened,
        headers={
            "Range": Header(about="One range of bytes; anything else is passed over.", example="bytes=0-1023")
        },
        answers={
            200: Answer(about="The audio.", media_types=_AUDIO, headers={"Accept-Ranges": "bytes"}),
            206: Answer(about="The part.", media_types=_AUDIO, headers={"Content-Range": "of all of it"}),
        },
        refusals=(409, 416, 503, 507),
    ),
    Call(
        method="GET",
        path="/tasks/{task_id}/peaks",
        handler=peaks,
        right="read",
        query=Resolution,
        answers={200: Answer(about="The waveform.", body=PeaksView)},
    ),
]
