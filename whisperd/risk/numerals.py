"""Numbers as they are spoken -> digits, since models write them now so, now so. English only.

"double four one" and "4 4 1" are both "441"; "twenty five" is "25", "five hundred and one" is "501". Only
single digits join: "twenty nineteen" stays "20 19", which `pii` joins where it looks for long numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

_UNITS = dict(
    zip(("one", "two", "three", "four", "five", "six", "seven", "eight", "nine"), "123456789", strict=True)
)
_ZEROS = {"zero": "0", "nought": "0", "oh": "0", "o": "0"}
_BELOW_20 = {
    **{word: int(digit) for word, digit in _UNITS.items()},
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "thirteen": 13,
    "fourteen": 14,
    "fifteen": 15,
    "sixteen": 16,
    "seventeen": 17,
    "eighteen": 18,
    "nineteen": 19,
}
_TENS = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
_SCALES = {"thousand": 1000, "million": 1_000_000}
_LARGEST = 1_000_000_000
_TIMES = {"double": 2, "triple": 3, "treble": 3}
_BEGINNINGS = frozenset((*_BELOW_20, *_ZEROS, *_TENS, *_TIMES, "hundred"))
_MAY_BE_OH = frozenset(("oh", "o"))  # words, too: zeros only among digits
_FEWEST_AMONG = 3  # digits that a run with an "oh" must have


class Folded(NamedTuple):
    """A word of the normalised text, made of the words [first, past) of what was read."""

    text: str
    first: int
    past: int


class _Part(NamedTuple):
    text: str
    first: int
    past: int
    single: bool  # digits said one by one, which join with their neighbours


def folded(words: Sequence[str]) -> Iterator[Folded]:
    """The words, lower case, with numbers as digits."""
    run: list[_Part] = []  # digits said one by one, which join
    at = 0
    while at < len(words):
        word = words[at]
        part = _number(words, at) if word in _BEGINNINGS or word.isdigit() else None  # hardly ever
        if part and part.single:
            run.append(part)
        else:
            if run:
                yield from _joined(words, run)
                run = []
            yield Folded(part.text, at, part.past) if part else Folded(word, at, at + 1)
        at = part.past if part else at + 1
    yield from _joined(words, run)


def _number(words: Sequence[str], at: int) -> _Part | None:
    return _repeated(words, at) or _composed(words, at) or _single(words, at)


def _joined(words: Sequence[str], run: Sequence[_Part]) -> Iterator[Folded]:
    if run and _is_number(words, run):
        yield Folded("".join(part.text for part in run), run[0].first, run[-1].past)
    else:
        yield from _apart(words, run)


def _is_number(words: Sequence[str], run: Sequence[_Part]) -> bool:
    digits = sum(len(part.text) for part in run)
    return digits >= _FEWEST_AMONG or not any(words[part.first] in _MAY_BE_OH for part in run)


def _apart(words: Sequence[str], run: Sequence[_Part]) -> Iterator[Folded]:
    for part in run:
        text = words[part.first] if words[part.first] in _MAY_BE_OH else part.text
        yield Folded(text, part.first, part.past)


def _single(words: Sequence[str], at: int) -> _Part | None:
    digit = _digit(words, at)
    return _Part(digit, at, at + 1, True) if digit else None


def _digit(words: Sequence[str], at: int) -> str | None:
    if at >= len(words):
        return None
    word = words[at]
    if len(word) == 1 and word in "0123456789":
        return word
    return _UNITS.get(word) or _ZEROS.get(word)


def _repeated(words: Sequence[str], at: int) -> _Part | None:
    """ "double four": "44"."""
    times = _TIMES.get(words[at])
    digit = _digit(words, at + 1) if times else None
    return _Part(digit * times, at, at + 2, True) if times and digit else None


def _composed(words: Sequence[str], at: int) -> _Part | None:
    """ "five hundred and one", "twenty five", "2 thousand"; None for a single digit, or none."""
    total, past, scale = 0, at, _LARGEST
    while found := _below_1000(words, past):
        value, end = found
        this = _SCALES.get(words[end], 1) if end < len(words) else 1
        if this >= scale or (past > at and value < 10 and _digit(words, end)):
            break  # "one thousand two thousand"; "five thousand one two three", where digits begin
        total, past, scale = total + value * this, end + (this > 1), this
        if scale == 1:
            break
        past += words[past : past + 1] == ["and"] and _below_1000(words, past + 1) is not None
    is_digit = past == at + 1 and _digit(words, at) is not None
    return None if past == at or is_digit else _Part(str(total), at, past, False)


def _below_1000(words: Sequence[str], at: int) -> tuple[int, int] | None:
    """The value, and where it ends."""
    if (small := _below_100(words, at)) is None:
        return (100, at + 1) if words[at : at + 1] == ["hundred"] else None
    value, end = small
    if words[end : end + 1] != ["hundred"] or value > 99:
        return small
    end += 1
    has_and = words[end : end + 1] == ["and"]
    rest = _below_100(words, end + has_and)
    if rest is None or (not has_and and rest[0] < 10 and _digit(words, rest[1])):
        return value * 100, end  # "nine hundred one two three" goes on in digits
    return value * 100 + rest[0], rest[1]


def _below_100(words: Sequence[str], at: int) -> tuple[int, int] | None:
    if at >= len(words):
        return None
    word = words[at]
    if word in _TENS:
        unit = _UNITS.get(words[at + 1]) if at + 1 < len(words) else None
        return (_TENS[word] + int(unit), at + 2) if unit else (_TENS[word], at + 1)
    if word in _BELOW_20:
        return _BELOW_20[word], at + 1
    if word.isascii() and word.isdigit() and len(word) <= 3 and _scaled(words, at + 1):
        return int(word), at + 1
    return None


def _scaled(words: Sequence[str], at: int) -> bool:
    return at < len(words) and (words[at] == "hundred" or words[at] in _SCALES)
