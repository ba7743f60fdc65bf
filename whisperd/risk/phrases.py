"""Phrases: words in a row; `*` is what may stand between, or an ending; long words may be misspelt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from whisperd.risk.words import Span, Stream, Token, normal

MOST_BETWEEN = 3  # words that a `*` stands for
MOST_GAPS = 4  # of a phrase
LETTERS_PER_EDIT = 5  # and no word with fewer is taken for another

Part = tuple[str, bool]  # a word; whether it may go on
Others = Sequence[tuple[int, frozenset[str]]]  # of a row: how far from its first word, and what stands there
Known = dict[tuple[str, bool, bool], frozenset[str]]  # what the words of phrases stand for in one stream


class Phrase:
    """A phrase of a rule, ready to be looked for. Raises ValueError where it says nothing to look for."""

    def __init__(self, text: str, fuzzy: bool = False) -> None:
        self.text = text
        self.fuzzy = fuzzy
        self.rows = _rows(text)
        self.key = ("fuzzy" if fuzzy else "phrase", text)  # of what it finds in a stream
        self._plain = [word for row in self.rows for word, open_ended in row if not open_ended]
        self._needed = frozenset() if fuzzy else frozenset(self._plain)
        self._is_plain = not fuzzy and len(self.rows) == 1 and len(self._plain) == len(self.rows[0])

    def spans(
        self, stream: Stream, known: Known, spend: Callable[[int], None] = lambda steps: None
    ) -> list[Span]:
        """Where it stands, by its first word; the shortest from each. `spend` is told what it costs."""
        if not self._needed <= stream.places.keys():
            return []  # nearly always
        if self._is_plain:
            return _in_a_row(self._plain, stream, spend)
        rows = [[self._words(part, stream, known) for part in row] for row in self.rows]
        if not all(words for row in rows for words in row):
            return []
        ends: dict[int, int] = {}  # where the rest of the phrase begins: where it ends
        for row in reversed(rows):
            ends = _joined_on(_starts(row, stream, spend), len(row), ends if row is not rows[-1] else None)
        return sorted(ends.items())

    def _words(self, part: Part, stream: Stream, known: Known) -> frozenset[str]:
        """The words of the stream that this one stands for."""
        key = (*part, self.fuzzy)
        if key not in known:
            known[key] = _alike(part, self.fuzzy, stream)
        return known[key]


def _rows(text: str) -> list[list[Part]]:
    """The rows of words between the `*` that stand alone."""
    words: list[list[str]] = [[]]
    for word in text.split():
        if word == "*":
            words.append([])
        else:
            words[-1].append(word)
    rows = [_parts(row) for row in words]
    if not all(rows):
        raise ValueError(f"{text!a} has no word where one is needed: * stands between words, or ends one")
    if len(rows) - 1 > MOST_GAPS:
        raise ValueError(f"{text!a} has more than {MOST_GAPS} * between its words")
    return rows


def _parts(words: Sequence[str]) -> list[Part]:
    """Numbers go over words, as in what is searched; not where one of them may go on."""
    if not any(word.endswith("*") for word in words):
        return [(word, False) for word in normal(" ".join(words))]
    parts: list[Part] = []
    for word in words:
        these = [(part, False) for part in normal(word.rstrip("*"))]
        if word.endswith("*") and these:
            these[-1] = (these[-1][0], True)
        parts += these
    return parts


def _alike(part: Part, fuzzy: bool, stream: Stream) -> frozenset[str]:
    word, open_ended = part
    if open_ended:
        return frozenset(stream.beginning(word))
    exact = frozenset((word,) if word in stream.places else ())
    if not fuzzy or len(word) < LETTERS_PER_EDIT or word.isdigit():
        return exact
    return exact | _misspelt(word, stream)


def _misspelt(word: str, stream: Stream) -> frozenset[str]:
    from rapidfuzz import process
    from rapidfuzz.distance import Levenshtein

    edits = len(word) // LETTERS_PER_EDIT
    others = _candidates(word, edits, stream)
    found = process.extract(word, others, scorer=Levenshtein.distance, score_cutoff=edits, limit=None)
    return frozenset(other for other, _, _ in found)


def _candidates(word: str, edits: int, stream: Stream) -> list[str]:
    """All that may be so near, and few others: after one edit one half of a word is as it was, at its end."""
    if edits > 1:
        lengths = range(max(LETTERS_PER_EDIT, len(word) - edits), len(word) + edits + 1)
        return stream.words_of(lengths)
    half = len(word) // 2
    near = {*stream.beginning(word[:half]), *stream.ending(word[half:])}
    return [other for other in near if len(other) >= LETTERS_PER_EDIT]


def _in_a_row(words: Sequence[str], stream: Stream, spend: Callable[[int], None]) -> list[Span]:
    """The same for words that stand for themselves alone, as most do."""
    counts = [len(stream.places[word]) for word in words]
    rarest = counts.index(min(counts))
    spend(1 + counts[rarest] * len(words))
    texts, last = stream.words, len(stream.words) - len(words)
    starts = [place - rarest for place in stream.places[words[rarest]] if rarest <= place <= last + rarest]
    for offset, word in enumerate(words):
        if offset != rarest:
            starts = [at for at in starts if texts[at + offset] == word]
    return [(at, at + len(words)) for at in starts]


def _starts(row: Sequence[frozenset[str]], stream: Stream, spend: Callable[[int], None]) -> list[int]:
    """Where the row stands, found by the rarest of its words."""
    counts = [sum(len(stream.places[word]) for word in words) for words in row]
    rarest = counts.index(min(counts))
    spend(1 + counts[rarest] * len(row))
    places = [place - rarest for word in row[rarest] for place in stream.places[word]]
    others = [(offset, words) for offset, words in enumerate(row) if offset != rarest]
    return [at for at in places if _stands(others, stream.tokens, at, at + len(row))] if others else places


def _stands(others: Others, tokens: Sequence[Token], at: int, past: int) -> bool:
    if at < 0 or past > len(tokens):
        return False
    for offset, words in others:  # noqa: SIM110  # all() makes a generator, which costs more than this
        if tokens[at + offset].text not in words:
            return False
    return True


def _joined_on(starts: Iterable[int], length: int, ends: Mapping[int, int] | None) -> dict[int, int]:
    """The places where the rest follows, at most MOST_BETWEEN words behind; all where there is no rest."""
    if ends is None:
        return {at: at + length for at in starts}
    joined = {}
    for at in starts:
        rest = range(at + length, at + length + MOST_BETWEEN + 1)
        if (begin := next((place for place in rest if place in ends), None)) is not None:
            joined[at] = ends[begin]
    return joined
