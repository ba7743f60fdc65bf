"""Segments -> what is searched: each speaker's words as one stream, normalised, with the way back to audio.

Matching runs over the whole stream, since models cut in mid-sentence. Normalised is: NFKC, case folded, no
punctuation, short forms written out ("don't": "do not", "gonna": "going to"), numbers as digits. What no one
said is left out: segments that the voice detection heard no speech in, and the third and later of equal ones,
which are a model going round in circles.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

from whisperd.risk.numerals import folded
from whisperd.task import Segment

Span = tuple[int, int]  # tokens of a stream: [first, past)

NO_SPEECH = 0.8  # `no_speech_prob` above which a segment counts as made up
SAID_TWICE = 2  # equal segments in a row that are believed

_WORD = re.compile(r"\S+")
_PIECE = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_AROUND = '.,;:!?"()'  # a word, and no part of it
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'"})
_WITH_IS = {"it", "that", "there", "he", "she", "what", "who", "here", "where", "how", "someone", "somebody"}
_SHORT = {
    "can't": "can not",
    "cannot": "can not",
    "won't": "will not",
    "shan't": "shall not",
    "let's": "let us",
    "gonna": "going to",
    "wanna": "want to",
    "gotta": "got to",
    **{f"{word}'s": f"{word} is" for word in _WITH_IS},
}
_ENDINGS = {"n't": " not", "'re": " are", "'ve": " have", "'ll": " will", "'m": " am"}


class Spoken(NamedTuple):
    """A word as it was written, and where. Times in seconds from the start of the audio."""

    text: str
    segment: int
    begin: int  # characters of the segment's text: [begin, past)
    past: int
    start: float
    end: float
    probability: float | None


class Token(NamedTuple):
    """A word of the normalised text, made of the spoken words [first, past)."""

    text: str
    first: int
    past: int


class Stream:
    """All that one speaker said; of a mixed recording all that was said."""

    def __init__(self, speaker: str | None, spoken: Sequence[Spoken]) -> None:
        self.speaker = speaker
        self.spoken = spoken
        self.tokens = list(_tokens(spoken))
        self._of_lengths: dict[range, list[str]] = {}

    @cached_property
    def text(self) -> str:
        return " ".join(self.words)

    @cached_property
    def words(self) -> list[str]:
        return [token.text for token in self.tokens]

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """Where each word stands, in order."""
        places: dict[str, list[int]] = {}
        for number, token in enumerate(self.tokens):
            places.setdefault(token.text, []).append(number)
        return places

    @cached_property
    def numbers(self) -> list[Span]:
        """Stretches of nothing but digits, in order."""
        stretches: list[Span] = []
        for at, word in enumerate(self.words):
            if word.isdigit() and word.isascii():
                begin = stretches.pop()[0] if stretches and stretches[-1][1] == at else at
                stretches.append((begin, at + 1))
        return stretches

    def beginning(self, letters: str) -> Sequence[str]:
        """The words of the vocabulary that begin so."""
        return _beginning(self._vocabulary, letters)

    def ending(self, letters: str) -> Iterable[str]:
        return (word[::-1] for word in _beginning(self._backwards, letters[::-1]))

    @cached_property
    def _vocabulary(self) -> list[str]:
        return sorted(self.places)

    @cached_property
    def _backwards(self) -> list[str]:
        return sorted(word[::-1] for word in self.places)

    @cached_property
    def signed(self) -> list[int]:
        """The numbers of the words as written in which signs stand that addresses have."""
        return [number for number, word in enumerate(self.spoken) if _is_signed(word.text)]

    @cached_property
    def _by_length(self) -> dict[int, list[str]]:
        """The vocabulary by its number of letters."""
        by_length: dict[int, list[str]] = {}
        for word in self._vocabulary:
            by_length.setdefault(len(word), []).append(word)
        return by_length

    def words_of(self, lengths: range) -> list[str]:
        """The vocabulary with so many letters; each range is put together once."""
        if lengths not in self._of_lengths:
            self._of_lengths[lengths] = [word for n in lengths for word in self._by_length.get(n, ())]
        return self._of_lengths[lengths]

    @cached_property
    def _offsets(self) -> list[int]:
        offsets, at = [], 0
        for token in self.tokens:
            offsets.append(at)
            at += len(token.text) + 1
        return offsets

    def around(self, begin: int, past: int) -> Span:
        """The tokens that the characters [begin, past) of `text` touch."""
        first = bisect_right(self._offsets, begin) - 1
        last = bisect_right(self._offsets, max(begin, past - 1)) - 1
        return first, last + 1

    def said(self, span: Span) -> Sequence[Spoken]:
        """The words as they were written that a span is made of."""
        return self.spoken[self.tokens[span[0]].first : self.tokens[span[1] - 1].past]

    def begins(self, span: Span) -> float:
        """Seconds."""
        return self.spoken[self.tokens[span[0]].first].start

    def ends(self, span: Span) -> float:
        return self.spoken[self.tokens[span[1] - 1].past - 1].end


def _beginning(words: Sequence[str], letters: str) -> Sequence[str]:
    """Of words in order."""
    return words[bisect_left(words, letters) : bisect_left(words, letters + "\U0010ffff")]


def _is_signed(word: str) -> bool:
    return "@" in word or ":" in word or word.count(".") >= 3


def streams(segments: Sequence[Segment], *, doubted: bool = False) -> list[Stream]:
    """One for each speaker, by name; segments in order of time. `doubted`: also of what no one said."""
    by_speaker: dict[str | None, list[Spoken]] = {}
    for number, segment in enumerate(segments) if doubted else believed(segments):
        by_speaker.setdefault(segment.speaker, []).extend(_spoken(number, segment))
    return [
        Stream(speaker, by_speaker[speaker]) for speaker in sorted(by_speaker, key=lambda name: name or "")
    ]


def normal(text: str) -> list[str]:
    """A phrase of a rule in the words that a stream has."""
    return [word.text for word in folded([piece for word in text.split() for piece in _pieces(word)])]


def believed(segments: Sequence[Segment]) -> Iterator[tuple[int, Segment]]:
    """Those that somebody said, with their numbers."""
    before: dict[str | None, tuple[str, int]] = {}
    for number, segment in enumerate(segments):
        text, times = before.get(segment.speaker, ("", 0))
        times = times + 1 if segment.text == text else 1
        before[segment.speaker] = (segment.text, times)
        if segment.no_speech_prob <= NO_SPEECH and times <= SAID_TWICE:
            yield number, segment


def _spoken(number: int, segment: Segment) -> Iterator[Spoken]:
    timed = _timed(segment)
    probability = math.exp(segment.avg_logprob) if segment.avg_logprob < 0 else None
    length = max(1, len(segment.text))
    seen = 0  # characters that are no spaces
    for found in _WORD.finditer(segment.text):
        begin, past = found.span()
        if timed:
            heard = timed[seen : seen + past - begin]
            seen += past - begin
            chance: float | None = min(segment.words[index].probability for index in heard)
            start, end = segment.words[heard[0]].start, segment.words[heard[-1]].end
        else:
            chance, share = probability, (segment.end - segment.start) / length
            start, end = segment.start + begin * share, segment.start + past * share
        yield Spoken(found.group(), number, begin, past, start, end, chance)


def _timed(segment: Segment) -> list[int]:
    """Of each character that is no space: the word it is in. Empty where words and text differ."""
    letters = [
        (char, index) for index, word in enumerate(segment.words) for char in word.word if not char.isspace()
    ]
    if "".join(char for char, _ in letters) != "".join(segment.text.split()):
        return []
    return [index for _, index in letters]


def _tokens(spoken: Sequence[Spoken]) -> Iterator[Token]:
    pieces = [(piece, number) for number, word in enumerate(spoken) for piece in _pieces(word.text)]
    for word in folded([piece for piece, _ in pieces]):
        yield Token(word.text, pieces[word.first][1], pieces[word.past - 1][1] + 1)


@lru_cache(1 << 14)  # a call has some thousands of different words
def _pieces(word: str) -> tuple[str, ...]:
    bare = word.strip(_AROUND)
    if bare.isascii() and bare.isalpha():  # nearly all
        lower = bare.lower()
        return tuple(_SHORT[lower].split()) if lower in _SHORT else (lower,)
    plain = unicodedata.normalize("NFKC", word).casefold().translate(_APOSTROPHES)
    return tuple(part for piece in _PIECE.findall(_THOUSANDS.sub("", plain)) for part in _long(piece).split())


def _long(piece: str) -> str:
    if piece in _SHORT:
        return _SHORT[piece]
    for ending, long in _ENDINGS.items():
        if piece.endswith(ending):
            return piece.removesuffix(ending) + long
    return piece.replace("'", "")
