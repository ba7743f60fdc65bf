"""Reading a multipart form as it comes: fields are gathered, the one file goes straight to the spool."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from whisperd.routes.errors import Refusal
from whisperd.spool import Incoming

MAX_FIELDS = 64
MAX_FIELD_BYTES = 64 * 1024


class Form(NamedTuple):
    fields: list[tuple[str, str]]  # name and value, in the order in which they came
    file_name: str  # "": there is no file


async def read_form(
    incoming: Incoming,
    boundary: bytes,
    body: AsyncIterator[bytes],
    takes: Callable[[str], bool] | None = None,
    file: str = "file",
) -> Form:
    """The fields; the file, which is the field of that name, is written to `incoming`. Raises Refusal.

    With `takes` only the fields that it says yes to are kept, and may be repeated; others are passed over,
    however long. Without it all are kept, and none may stand twice.
    """
    try:
        return await _Form(incoming, boundary, takes, file).read(body)
    except FormParserError:
        raise Refusal(400, "malformed_multipart", "the multipart body cannot be read") from None


class _Form:
    """A multipart form on its way in: fields are gathered, the one file goes to `incoming`.

    The parser's callbacks only note what they find, since they cannot wait; `_take` works it off after
    each piece of the body.
    """

    def __init__(
        self, incoming: Incoming, boundary: bytes, takes: Callable[[str], bool] | None, file: str
    ) -> None:
        self._incoming = incoming
        self._file = file
        self._takes = takes
        self._found: list[tuple[str, bytes]] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": lambda: self._found.append(("part", b"")),
                "on_part_data": self._noting("data"),
                "on_header_field": self._noting("header_field"),
                "on_header_value": self._noting("header_value"),
                "on_header_end": lambda: self._found.append(("header_end", b"")),
                "on_headers_finished": lambda: self._found.append(("headers", b"")),
                "on_part_end": lambda: self._found.append(("part_end", b"")),
                "on_end": lambda: self._found.append(("end", b"")),
            },
        )
        self._header_name = self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._value: bytearray | None = None  # of the field at hand; None in the file, or in one passed over
        self._in_file = False
        self._names: Counter[str] = Counter()
        self._fields: list[tuple[str, str]] = []
        self._file_name: str | None = None
        self._ended = False

    async def read(self, stream: AsyncIterator[bytes]) -> Form:
        """Raises Refusal, FormParserError."""
        async for data in stream:
            self._parser.write(data)
            for what, piece in self._found:
                await self._take(what, piece)
            self._found.clear()
        if not self._ended:
            raise Refusal(400, "malformed_multipart", "the multipart body ends too early")
        return Form(self._fields, self._file_name or "")

    def _noting(self, what: str) -> Any:
        return lambda data, start, end: self._found.append((what, data[start:end]))

    async def _take(self, what: str, piece: bytes) -> None:
        match what:
            case "data" if self._in_file:
                await self._incoming.write(piece)
            case "data":
                self._gather(piece)
            case "part":
                self._disposition = b""
            case "header_field":
                self._header_name += piece
            case "header_value":
                self._header_value += piece
            case "header_end":
                self._end_header()
            case "headers":
                self._begin()
            case "part_end":
                self._end_part()
            case "end":
                self._ended = True

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _begin(self) -> None:
        _, parameters = parse_options_header(self._disposition)
        self._name = parameters.get(b"name", b"").decode(errors="replace")
        self._in_file = self._name == self._file
        self._value = None
        self._names[self._name] += 1
        if self._in_file:
            if self._file_name is not None:
                raise Refusal(422, "duplicate_field", "send one file a request", self._file)
            self._file_name = file_name(_encoded_name(self._disposition) or parameters.get(b"filename", b""))
        elif self._takes is None or self._takes(self._name):
            self._value = bytearray()
        if (self._takes is None and self._names[self._name] > 1) or self._names.total() > MAX_FIELDS:
            raise Refusal(422, "duplicate_field", "a field stands twice, or there are too many", self._name)

    def _gather(self, piece: bytes) -> None:
        if self._value is None:
            return
        self._value += piece
        if len(self._value) > MAX_FIELD_BYTES:
            raise Refusal(422, "field_too_long", f"at most {MAX_FIELD_BYTES} bytes", self._name)

    def _end_part(self) -> None:
        if self._value is None:
            return
        try:
            self._fields.append((self._name, self._value.decode()))
        except UnicodeDecodeError:
            raise Refusal(422, "invalid_field", "must be UTF-8", self._name) from None


def _encoded_name(disposition: bytes) -> bytes | None:
    """The name in `filename*=UTF-8''na%C3%AFve.wav` (RFC 8187), which says more than the plain one beside it.

    RFC 7578 wants none in a form, so the parser ignores it; some programs send it and nothing else.
    """
    unquoted = re.sub(rb'"(?:[^"\\]|\\.)*"', b'""', disposition)  # a plain name may look like it
    found = re.search(rb";\s*filename\*\s*=\s*utf-8'[^']*'([^;\s]*)", unquoted, re.IGNORECASE)
    return found and unquote_to_bytes(found[1])


def file_name(raw: bytes) -> str:
    """The sender's file name, as data to show: the last part of its path, no control characters, short."""
    name = re.split(r"[/\\]", raw.decode(errors="replace"))[-1]
    name = "".join(char for char in name if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
    return name.strip()[:255] or "audio"
