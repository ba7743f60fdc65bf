"""Pages that come with the package: the files of one folder of web/, answered without a network or a key.

A name is looked up among the files that there are and never made a path, so none leads out of the folder.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from whisperd.routes.call import STILL, Answer
from whisperd.routes.errors import Refusal
from whisperd.routes.reading import has_already

MEDIA_TYPES = {  # of what a page is made of; anything else in the folder, such as a licence, is no part of it
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
VERSION = b"{version}"  # in an HTML file: stands for the version of the whole folder,
MODULES = b"{modules}"  # and this for links to all modules, so that a browser does not find them one by one
_PRELOAD = b'    <link rel="modulepreload" href="ui/{version}/%s">'
_VERSIONED = re.compile(r"[0-9a-f]{12}/")
_PACKED = {".png", ".woff2"}  # already
_TAKES_GZIP = re.compile(r"(^|[,\s])gzip(?!\s*;\s*q=0(\.0*)?\s*(,|$))")
_FOR_EVER = "public, max-age=31536000, immutable"
# What any page of ours may do; more strictly than its policy, in case a browser does not know that.
_HEADERS = {
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept-Encoding",
}


PAGE = {200: Answer(about="The page.", media_types=(MEDIA_TYPES[".html"],)), 304: STILL}
PART = {200: Answer(about="The part.", media_types=tuple(MEDIA_TYPES.values())), 304: STILL}


class File(Struct, frozen=True):
    media_type: str
    content: bytes
    packed: bytes | None  # by gzip, where that makes it smaller
    tag: str


class Folder:
    """The files of web/NAME, read once, when the first of them is asked for: a page costs what is seen."""

    def __init__(self, name: str, policy: str) -> None:
        self._name = name
        self._headers = {**_HEADERS, "Content-Security-Policy": policy}
        self._files: Mapping[str, File] = {}
        self._version = ""

    async def answer(self, request: Request, name: str) -> Response:
        """The file. One that is asked for below the version of the folder stays with the browser.

        So do the modules that it names: theirs are paths beside its own. Below another version there is the
        same file. Raises Refusal where there is none of this name.
        """
        if not self._files:
            self._files, self._version = await asyncio.to_thread(_read, self._name)
        part = _VERSIONED.sub("", name, count=1) if _VERSIONED.match(name) else name
        if part not in self._files:
            raise Refusal(404, "not_found", "the page has no such part")
        file = self._files[part]
        stays = name == f"{self._version}/{part}"
        headers = {**self._headers, "ETag": file.tag, "Cache-Control": _FOR_EVER if stays else "no-cache"}
        if has_already(request, file.tag):
            return Response(status_code=304, headers=headers)
        content = file.content
        if file.packed is not None and _TAKES_GZIP.search(request.headers.get("accept-encoding", "")):
            content, headers["Content-Encoding"] = file.packed, "gzip"
        return Response(content, media_type=file.media_type, headers=headers)


def _read(name: str) -> tuple[Mapping[str, File], str]:
    """The files, and their version: another one as soon as any of them is another."""
    found = dict(_parts(resources.files("whisperd") / "web" / name))
    digests = (f"{part} {_digest(found[part])}\n" for part in sorted(found))
    version = _digest("".join(digests).encode())[:12]
    for part in found:
        if part.endswith(".html"):
            found[part] = _page(found[part], found, version)
    return {part: _file(part, content) for part, content in found.items()}, version


def _page(content: bytes, parts: Iterable[str], version: str) -> bytes:
    """Modules are what no script of the page is itself."""
    modules = [part.encode() for part in sorted(parts) if part.endswith(".js")]
    links = b"\n".join(_PRELOAD % module for module in modules if b'/%s"' % module not in content)
    return content.replace(MODULES, links).replace(VERSION, version.encode())


def _parts(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _parts(entry, f"{prefix}{entry.name}/")
        elif PurePosixPath(entry.name).suffix in MEDIA_TYPES:
            yield prefix + entry.name, entry.read_bytes()


def _file(name: str, content: bytes) -> File:
    suffix = PurePosixPath(name).suffix
    packed = content if suffix in _PACKED else gzip.compress(content, mtime=0)
    return File(
        media_type=MEDIA_TYPES[suffix],
        content=content,
        packed=packed if len(packed) < len(content) else None,
        tag=f'W/"{_digest(content)[:32]}"',  # weak: it is that of both, packed or not
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
