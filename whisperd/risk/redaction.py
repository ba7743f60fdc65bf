"""Takes what was found out of segments, and leaves their times as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from msgspec.structs import replace

from whisperd.risk.detection import Place, Redact, stand_in
from whisperd.task import Segment, Word


def redacted(segments: Sequence[Segment], places: Iterable[Place], way: Redact) -> list[Segment]:
    """The segments with [CARD] or **** in these places, which a report has, in texts and in words.

    A word that stands for several has their time. The tokens of a changed segment go: they are its text, too.
    """
    changed = list(segments)
    if way != "none":
        for segment, inside in groupby(sorted(places), key=lambda place: place.segment):
            changed[segment] = _without(segments[segment], list(_merged(inside)), way)
    return changed


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
    text = segment.text
    for place in reversed(places):
        text = text[: place.begin] + stand_in(place.tag, way) + text[place.past :]
    return replace(segment, text=text, tokens=(), words=tuple(_words(segment, places, way)))


def _words(segment: Segment, places: Sequence[Place], way: Redact) -> Iterator[Word]:
    """The words that are left, and one for each place. None where the words are not those of the text."""
    spans = _spans(segment)
    if spans is None:
        return
    left = list(places)
    inside: Place | None = None
    made: Word | None = None
    for word, (begin, past) in zip(segment.words, spans, strict=True):
        while left and left[0].past <= begin:
            left.pop(0)
        if not left or past <= left[0].begin:
            inside = None
            if made:
                yield made
            made = None
            yield word
        elif left[0] is inside and made:
            made = replace(made, end=word.end, probability=min(made.probability, word.probability))
        else:
            if made:
                yield made
            inside = left[0]
            space = word.word[: len(word.word) - len(word.word.lstrip())]
            made = replace(word, word=space + stand_in(inside.tag, way))
    if made:
        yield made


def _spans(segment: Segment) -> list[tuple[int, int]] | None:
    """The characters of the text that each word is; None where they are not found in it in order."""
    spans, at = [], 0
    for word in segment.words:
        begin = segment.text.find(word.word.strip(), at)
        if begin < 0:
            return None
        at = begin + len(word.word.strip())
        spans.append((begin, at))
    return spans
