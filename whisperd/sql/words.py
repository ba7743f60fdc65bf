"""What a user types into a search box, as an expression of FTS5 (https://sqlite.org/fts5.html, 3).

Pure. Whatever is typed is words and phrases: nothing of it is an operator, a column or a syntax error.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from whisperd.task import TooManyWords

SHORTEST_START = 2  # letters: half of all words begin with one of a few
MOST_WORDS = 16  # of one text. Each is walked through by itself: "the the the …" costs seconds
MOST_OF_A_PHRASE = 8

# Marks after a letter that the tokenizer passes over, and letters that it does not know: they end a word.
_MARKS = frozenset(
    "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u0309\u030a\u030b\u030c\u030f\u0311\u031b"
) | {chr(code) for code in (*range(0x323, 0x329), 0x32D, 0x32E, 0x330, 0x331)}
_NO_LETTERS = frozenset(map(chr, (*range(0x19B0, 0x19CA), 0x1CF2)))
_PARTS = re.compile(r'"([^"]*)(?:"|\Z)|([^\s"]+)')


def expression(text: str, words_from: Callable[[str], Sequence[str]] = lambda start: ()) -> str | None:
    """All words and "phrases" of a text; None if there is none.

    The last word may be the start of one: of those that `words_from` knows, in small letters without accents.
    Raises TooManyWords; to leave some out would find, and cancel in bulk, what was not meant.
    """
    text = "".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in text)
    found = list(_PARTS.finditer(text))
    parts = [_quoted(part) for match in found if _says_something(part := match[1] or match[2] or "")]
    if not parts:
        return None
    _check(parts)
    if (last := found[-1])[2] and last.end() == len(text):
        parts[-1] = _open_ended(last[2], words_from) or parts[-1]
    return " AND ".join(parts)


def tenant_word(tenant: str) -> str:
    """A word that stands for a tenant, and for no other, whatever its name is made of."""
    return f"t{tenant.encode().hex()}"


def _check(parts: Sequence[str]) -> None:
    words = [count_words(part) for part in parts]
    if max(words) > MOST_OF_A_PHRASE:
        raise TooManyWords(f"a phrase has at most {MOST_OF_A_PHRASE} words, not {max(words)}")
    if sum(words) > MOST_WORDS:
        raise TooManyWords(f"at most {MOST_WORDS} words are looked for at once, not {sum(words)}")


def count_words(text: str) -> int:
    """As many as the tokenizer makes of it: "talk.mp3" is two."""
    kept = (char for char in text if char not in _MARKS)
    return len("".join(char if _is_of_a_word(char) else " " for char in kept).split())


def _open_ended(word: str, words_from: Callable[[str], Sequence[str]]) -> str | None:
    """The word as it is, or with an end to its last part; None if there is none, or too little to go by."""
    start = next((at for at in range(len(word), 0, -1) if not _is_of_a_word(word[at - 1])), 0)
    if len(word) - start < SHORTEST_START:
        return None
    ends = words_from(_plain(word[start:]))[
        : MOST_WORDS // count_words(word)
    ]  # each is a phrase of all its parts
    ways = [word, *(word[:start] + end for end in ends)]
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
    category = unicodedata.category(char)
    return (category[0] in "LN" or category == "Co") and char not in _NO_LETTERS
