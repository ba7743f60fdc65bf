"""Tells from the first bytes of a file what is certainly not audio or video, and what to call what may be.

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

# Where a signature begins, and the media type that players know it by: never one that is shown as a page.
_MEDIA = [
    (8, b"WAVE", "audio/wav"),
    (8, b"AVI ", "video/x-msvideo"),
    (8, b"AIFF", "audio/aiff"),
    (8, b"AIFC", "audio/aiff"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xf1", "audio/aac"),
    (0, b"\xff\xf9", "audio/aac"),
    *((0, bytes([0xFF, second]), "audio/mpeg") for second in (0xE2, 0xE3, 0xF2, 0xF3, 0xFA, 0xFB)),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftyp", "video/mp4"),
    (0, b"#!AMR", "audio/amr"),
    (0, b"caff", "audio/x-caf"),
    (0, b".snd", "audio/basic"),
    (0, b"wvpk", "audio/x-wavpack"),
    (0, b"FLV", "video/x-flv"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video/x-ms-asf"),
]
_EBML = b"\x1a\x45\xdf\xa3"  # WebM and Matroska: the document type stands a little further on


def media_type(head: bytes) -> str:
    """What to call a file that was taken as media, by its first 64 bytes or more."""
    if head.startswith(_EBML):
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    found = (kind for at, signature, kind in _MEDIA if head.startswith(signature, at))
    return next(found, "application/octet-stream")


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
