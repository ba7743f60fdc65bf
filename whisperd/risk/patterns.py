"""Regular expressions of users: RE2, whose time grows with the text alone, and of a bounded size."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Pattern = Any  # re2 ships no types

MOST_MEMORY = 1 << 20  # bytes that one may take
LARGEST = 1000  # instructions: half a second for 30,000 words, where RE2 falls back to its slowest way


@lru_cache(maxsize=4096)
def compiled(regex: str) -> Pattern:
    """Raises ValueError, which says what is wrong with it."""
    import re2

    options = re2.Options()
    options.max_mem = MOST_MEMORY
    options.log_errors = False
    try:
        pattern = re2.compile(regex, options)
    except re2.error as error:
        raise ValueError(f"no regex: {_told(error)}") from error
    if pattern.search("") is not None:
        raise ValueError("a regex that matches nothing at all matches everywhere")
    if size(pattern) > LARGEST:
        raise ValueError(f"a regex of {size(pattern)} instructions, more than {LARGEST}: repeat less in it")
    return pattern


def size(pattern: Pattern) -> int:
    """Instructions of its program; what it costs to look for grows with it."""
    return int(pattern.programsize)


def _told(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)
