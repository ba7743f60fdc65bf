"""The keys that were struck, by their names, and a terminal that gives them one by one."""

from __future__ import annotations

import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

# What xterm and those that follow it send (ECMA-48 and DEC VT220), without the escape.
_NAMES = {
    "[A": "up",
    "[B": "down",
    "OA": "up",
    "OB": "down",
    "[5~": "page up",
    "[6~": "page down",
    "[H": "home",
    "[F": "end",
    "OH": "home",
    "OF": "end",
    "[1~": "home",
    "[4~": "end",
    "\r": "enter",
    "\n": "enter",
}
_FINAL = range(0x40, 0x7F)  # what ends a control sequence


@contextmanager
def unbuffered(descriptor: int) -> Iterator[None]:
    """Each key comes at once and is not shown; as it was before, afterwards."""
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSADRAIN)  # keys struck before are not lost
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def struck(descriptor: int) -> list[str]:
    """The keys in what can be read now, at least one; "gone" when the terminal is."""
    try:
        block = os.read(descriptor, 1024)
    except OSError:
        block = b""
    return list(_named(block.decode(errors="replace"))) if block else ["gone"]


def _named(text: str) -> Iterator[str]:
    """A terminal writes the sequence of a key at once, so that an escape alone is the key."""
    while text:
        length = _length(text)
        key, text = text[:length], text[length:]
        if key == "\x1b":
            yield "escape"
        else:
            yield _NAMES.get(key.removeprefix("\x1b"), key)


def _length(text: str) -> int:
    """Of the first key."""
    if not text.startswith(("\x1b[", "\x1bO")):
        return 1
    for end in range(2, len(text)):
        if ord(text[end]) in _FINAL:
            return end + 1
    return len(text)
