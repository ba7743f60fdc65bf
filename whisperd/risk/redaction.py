"""Takes what was found out of segments, and leaves their times as they are; and says when it is heard."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from msgspec.structs import replace

from whisperd.risk.detection import Place, Redact, stand_in
from whisperd.task import SAMPLE_RATE, Piece, Segment, Word

MARGIN = 0.3  # seconds on both sides of what is muted: the times of words are not exact, see docs/risk.md


def redacted(segments: Sequence[Segment], places: Iterable[Place], way: Redact) -> list[Segment]:
    """The segments with [CARD] or **** in these places, which a report has, in texts and in words.

    A word that stands for several has their time. The tokens of a changed segment go: they are its text, too.
    """
    changed = list(segments)
    if way != "none":
        for segment, inside in groupby(sorted(places), key=lambda place: place.segment):
            changed[segment] = _without(segments[segment], list(_merged(inside)), way)
    return changed


def silent(segments: Sequence[Segment], places: Iterable[Place]) -> list[Piece]:
    """What is to be muted for nothing of these places to be heard, in order and apart.

    Words are muted whole. Where it is not known when words are said, the whole segment is.
    """
    times = sorted(_heard(segments[place.segment], place) for place in places)
    pieces: list[Piece] = []
    for start, end in times:
        first = max(0, math.floor((start - MARGIN) * SAMPLE_RATE))
        past = math.ceil((end + MARGIN) * SAMPLE_RATE)
        if pieces and first <= pieces[-1].end:
            pieces[-1] = replace(pieces[-1], end=max(past, pieces[-1].end))
        else:
            pieces.append(Piece(first, past))
    return pieces


def _heard(segment: Segment, place: Place) -> tuple[float, float]:
    """Seconds."""
    words = [
        word
        for word, (begin, past) in zip(segment.words, _spans(segment) or (), strict=False)
        if begin < place.past and place.begin < past
    ]
    if not words:
        return segment.start, segment.end
    return min(word.start for word in words), max(word.end for word in words)


def _merged(places: Iterable[Place]) -> Iterator[Place]:
    """One for those that overlap, with the tag of the first; in order."""
    last: Place | None = None
    for place in places:
        if last and place.begin < last.past:
            last = last._replace(past=max(last.past, place.past))
        else:
            if last:
                yield last
            last = place
    if last:
        yield last


def _without(segment: Segment, places: Sequence[Place], way: Redact) -> Segment:
    text = _written(segment.text, (0, len(segment.text)), places, way)
    return replace(segment, text=text, tokens=(), words=tuple(_words(segment, places, way)))


def _written(text: str, span: tuple[int, int], places: Iterable[Place], way: Redact) -> str:
    """The characters of a span of the text, with something else in these places."""
    parts, (at, past) = [], span
    for place in places:
        parts += [text[at : place.begin], stand_in(place.tag, way)]
        at = place.past
    return "".join([*parts, text[at:past]])


def _words(segment: Segment, places: Sequence[Place], way: Redact) -> Iterator[Word]:
    """The words that are left, and one for those that a place touches, with what of them is not in it.

    None where the words are not those of the text.
    """
    spans = _spans(segment) or []
    for numbers, touched in _together(spans, places):
        words = segment.words[numbers.start : numbers.stop]
        if touched:
            span = spans[numbers.start][0], spans[numbers.stop - 1][1]
            space = words[0].word[: len(words[0].word) - len(words[0].word.lstrip())]
            yield replace(
                words[0],
                word=space + _written(segment.text, span, touched, way),
                end=max(word.end for word in words),
                probability=min(word.probability for word in words),
            )
        else:
            yield from words


def _together(spans: Sequence[tuple[int, int]], places: Sequence[Place]) -> list[tuple[range, list[Place]]]:
    """Each word by itself, or with those that a place goes over, too; and the places in them."""
    groups: list[tuple[range, list[Place]]] = []
    for number, (begin, past) in enumerate(spans):
        here = [place for place in places if place.begin < past and begin < place.past]
        if groups and here and here[0] in groups[-1][1]:
            words, before = groups[-1]
            groups[-1] = (range(words.start, number + 1), [*before, *here[1:]])
        else:
            groups.append((range(number, number + 1), here))
    return groups


def _spans(segment: Segment) -> list[tuple[int, int]] | None:
    """The characters of the text that each word is; None where it is not made of the words."""
    letters = [at for at, char in enumerate(segment.text) if not char.isspace()]
    sizes = [len("".join(word.word.split())) for word in segment.words]
    written = "".join("".join(word.word.split()) for word in segment.words)
    if written != "".join(segment.text.split()) or 0 in sizes:
        return None
    spans, seen = [], 0
    for size in sizes:
        spans.append((letters[seen], letters[seen + size - 1] + 1))
        seen += size
    return spans
