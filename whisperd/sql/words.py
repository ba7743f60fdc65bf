"""What a user types into a search box, as an expression of FTS5 (https://sqlite.org/fts5.html, 3).

Pure. Whatever is typed is words and phrases: nothing of it is an operator, a column or a syntax error.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

SHORTEST_START = 2  # letters: half of all words begin with one of a few

_PARTS = re.compile(r'"([^"]*)(?:"|\Z)|([^\s"]+)')


def expression(text: str, words_from: Callable[[str], Sequence[str]] = lambda start: ()) -> str | None:
    """All words and "phrases" of a text; None if there is none.

    The last word may be the start of one: of those that `words_from` knows, in small letters without accents.
    """
    text = "".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in text)
    found = list(_PARTS.finditer(text))
    parts = [_quoted(part) for match in found if _says_something(part := match[1] or match[2] or "")]
    if not parts:
        return None
    if (last := found[-1])[2] and last.end() == len(text):
        parts[-1] = _open_ended(last[2], words_from) or parts[-1]
    return " AND ".join(parts)


def tenant_word(tenant: str) -> str:
    """A word that stands for a tenant, and for no other, whatever its name is made of."""
    return f"t{tenant.encode().hex()}"


def _open_ended(word: str, words_from: Callable[[str], Sequence[str]]) -> str | None:
    """The word as it is, or with an end to its last part; None if there is none, or too little to go by."""
    start = next((at for at in range(len(word), 0, -1) if not _is_of_a_word(word[at - 1])), 0)
    if len(word) - start < SHORTEST_START:
        return None
    ways = [word, *(word[:start] + end for end in words_from(_plain(word[start:])))]
    return f"({' OR '.join(map(_quoted, ways))})"


def _quoted(part: str) -> str:
    return f'"{part}"'


def _plain(word: str) -> str:
    """As the tokenizer writes it, or nearly so: what it does otherwise is found by whole words only."""
    apart = unicodedata.normalize("NFD", word.lower())
    return "".join(char for char in apart if not unicodedata.combining(char))


def _says_something(part: str) -> bool:
    return any(map(_is_of_a_word, part))


def _is_of_a_word(char: str) -> bool:
    """As the tokenizer unicode61 has it: letters and digits of every script, and what is private."""
    return unicodedata.category(char)[0] in "LN" or unicodedata.category(char) == "Co"
