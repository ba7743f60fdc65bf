"""Tells from its first bytes what is certainly not audio or video, before it is queued.

Only the certain cases: whatever else is wrong with a file the decoder finds, in its own process. Signatures:
https://en.wikipedia.org/wiki/List_of_file_signatures
"""

from __future__ import annotations

import unicodedata

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x7fELF": "a program",
    b"SQLite format 3\x00": "a database",
}


def not_media(head: bytes) -> str | None:
    """What a file is, in words, if its first 4 KiB show that it cannot be media; None if it may be."""
    if not head:
        return "an empty file"
    for signature, what in _SIGNATURES.items():
        if head.startswith(signature):
            return what
    return "a text" if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    """Whether all of it is printable UTF-8: playlists, scripts, JSON, HTML. No media format is."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data" or error.start < 4:  # a character that the end cuts off
            return False
        text = head[: error.start].decode()
    return all(char in "\t\r\n\f" or unicodedata.category(char) != "Cc" for char in text)
