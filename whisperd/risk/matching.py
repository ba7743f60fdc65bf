"""The operators of a rule: from a match to a function that finds its places in a stream.

What a search costs is counted in steps, and one that costs too much ends with TooMuch: however rules and text
are made, no search takes for ever, and the same one always ends at the same place.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

from whisperd.risk import patterns, pii
from whisperd.risk.phrases import Known, Phrase
from whisperd.risk.rules import PASSAGE, Match, Pack, Stretch
from whisperd.risk.words import Span, Stream

# Of one transcript; 30,000 words by all shipped packs and 2,000 phrases take some 100,000.
MOST_STEPS = 5_000_000
MOST_PLACES = 1000  # of one rule in one stream: the first ones

Finder = Callable[["Search"], Sequence[Span]]  # places in order of their beginning


class TooMuch(Exception):
    """The rules have cost more than a transcript is worth."""


class Budget:
    """The steps that are left to a transcript."""

    def __init__(self, steps: int = MOST_STEPS) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise TooMuch("the rules look at more than they may: fewer, or with rarer words")


class Search:
    """One stream, what was found in it, and what it may cost."""

    def __init__(self, stream: Stream, finders: Mapping[str, Finder], budget: Budget) -> None:
        self.stream = stream
        self.spend = budget.spend
        self._finders = finders
        self._known: Known = {}
        self._found: dict[tuple[str, Hashable], Sequence[Span]] = {}
        self._is_cut_short = False  # what is being looked for
        self.cut_short: set[str] = set()  # rules that may have more places, since a regex has

    def rule(self, id: str) -> Sequence[Span]:
        """The places of a rule, wherever in the call they are."""
        before, self._is_cut_short = self._is_cut_short, id in self.cut_short
        found = self._once(("rule", id), lambda: self._finders[id](self))
        if self._is_cut_short:
            self.cut_short.add(id)
        self._is_cut_short |= before  # of the rule that is made of this one
        return found

    def cut(self) -> None:
        """There are more places than are looked at."""
        self._is_cut_short = True

    def once(self, find: Finder) -> Sequence[Span]:
        """What it finds, looked for once."""
        return self._once(("finder", find), lambda: find(self))

    def pii(self, kind: str) -> Sequence[Span]:
        self.spend(len(self.stream.tokens))
        return self._once(("pii", kind), lambda: pii.spans(kind, self.stream))

    def phrase(self, phrase: Phrase) -> Sequence[Span]:
        found = self._found.get(phrase.key)  # not by _once: there are thousands of phrases
        if found is None:
            found = self._found[phrase.key] = phrase.spans(self.stream, self._known, self.spend)
        return found

    def _once(self, key: tuple[str, Hashable], find: Callable[[], Sequence[Span]]) -> Sequence[Span]:
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]


class Making(NamedTuple):
    """What all operators of a rule have in common."""

    fuzzy: bool = False
    lists: Mapping[str, Finder] = {}


PLAIN = Making()


def finder(match: Match | str, making: Making = PLAIN) -> Finder:
    """Finds what a match of a pack that was read means. Safe to use again, and at once."""
    if isinstance(match, str):
        return _phrase(match, making)
    (operator,) = match.operators
    return _MAKERS[operator](match, making)


def lists(pack: Pack) -> Mapping[str, Finder]:
    """The lists of a pack by name; each is looked for once in a stream, however many rules have it."""
    return {name: _list(phrases) for name, phrases in pack.lists.items()}


def apart(spans: Iterable[Span]) -> list[Span]:
    """Places that do not overlap, the longest of those that do, in order."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
        elif span[1] - span[0] > kept[-1][1] - kept[-1][0]:
            kept[-1] = span
    return kept


def covered(spans: Iterable[Span]) -> list[Span]:
    """The stretches that places cover, in order: those that overlap are one."""
    stretches: list[Span] = []
    for begin, past in sorted(spans):
        if stretches and begin < stretches[-1][1]:
            stretches[-1] = (stretches[-1][0], max(past, stretches[-1][1]))
        else:
            stretches.append((begin, past))
    return stretches


def _list(phrases: tuple[str, ...]) -> Finder:
    find = finder(Match(any=phrases))
    return lambda search: search.once(find)


def _phrase(text: str, making: Making) -> Finder:
    phrase = Phrase(text, making.fuzzy)
    return lambda search: search.phrase(phrase)


def _any(match: Match, making: Making) -> Finder:
    parts = [finder(part, making) for part in match.any or ()]

    def find(search: Search) -> Sequence[Span]:
        spans = [span for part in parts for span in part(search)]
        search.spend(len(parts) + len(spans))
        return sorted(set(spans))

    return find


def _regex(match: Match, making: Making) -> Finder:
    pattern = patterns.compiled(match.regex or "")
    size = patterns.size(pattern)

    def find(search: Search) -> Sequence[Span]:
        text = search.stream.text
        search.spend(len(text) * size // 1000)
        found: list[Span] = []
        for number, hit in enumerate(pattern.finditer(text)):
            begin, past = hit.span()
            if number == MOST_PLACES:  # the next may cost as much as all before it, an empty one, too
                search.cut()
                break
            if past > begin:
                found.append(search.stream.around(begin, past))
        return found

    return find


def _pii(match: Match, making: Making) -> Finder:
    kind = str(match.pii)
    return lambda search: search.pii(kind)


def _rule(match: Match, making: Making) -> Finder:
    id = str(match.rule)
    return lambda search: search.rule(id)


def _count(match: Match, making: Making) -> Finder:
    assert match.count is not None
    least, within = match.count.min, match.count.within_words
    part = finder(match.count.of, making)

    def find(search: Search) -> Sequence[Span]:
        spans = part(search)
        search.spend(len(spans))
        spans = apart(spans)
        if within is None:
            return spans[least - 1 : least]  # where there were enough
        windows = [(spans[n][0], spans[n + least - 1][1]) for n in range(len(spans) - least + 1)]
        return [window for window in windows if window[1] - window[0] <= within]

    return find


def _all(match: Match, making: Making) -> Finder:
    return _together(Stretch(words=match.all or (), within_words=PASSAGE), making, _in_any_order)


def _near(match: Match, making: Making) -> Finder:
    assert match.near is not None
    return _together(match.near, making, _in_any_order)


def _sequence(match: Match, making: Making) -> Finder:
    assert match.sequence is not None
    return _together(match.sequence, making, _in_order)


Lists = Sequence[Sequence[Span]]


def _together(stretch: Stretch, making: Making, windows: Callable[[Lists, int], Iterable[Span]]) -> Finder:
    """Windows that hold all that must be there, and nothing near them of what must not."""
    wanted, unwanted = [], []
    for part in stretch.words:
        if not isinstance(part, str) and part.not_ is not None:
            unwanted.append(finder(part.not_, making))
        else:
            wanted.append(finder(part, making))
    within = stretch.within_words

    def find(search: Search) -> Sequence[Span]:
        lists = []
        for part in wanted:
            lists.append(part(search))
            if not lists[-1]:
                return []
        near = _about(lists, within)
        search.spend(sum(map(len, near)) * len(near) ** 2)  # as _soonest goes over them
        found = list(windows(near, within))
        for part in unwanted if found else ():
            found = _far_from(found, part(search), within)
        return found

    return find


def _about(lists: Lists, within: int) -> Lists:
    """Of each list what is near a place of the shortest one: no other can be in a window with all of them."""
    rarest = min(lists, key=len)
    return [spans if spans is rarest else _around(rarest, spans, within) for spans in lists]


def _around(rarest: Sequence[Span], spans: Sequence[Span], within: int) -> Sequence[Span]:
    near: list[Span] = []
    past = 0  # those before are taken, or too far
    for begin, end in rarest:
        first = bisect_left(spans, begin - within, lo=past, key=itemgetter(0))
        past = bisect_left(spans, end + within, lo=first, key=itemgetter(0))
        near += spans[first:past]
    return near


def _in_any_order(lists: Lists, within: int) -> Iterable[Span]:
    for number, spans in enumerate(lists):
        others = [*lists[:number], *lists[number + 1 :]]
        for first in spans:
            if (past := _soonest(others, first[1], first[0] + within)) is not None:
                yield first[0], past


def _soonest(lists: Lists, past: int, limit: int) -> int | None:
    """Where the last of them ends, each behind the other and taken as it comes; None beyond the limit."""
    left = list(lists)
    while left:
        nexts = [(span[1], number) for number, spans in enumerate(left) if (span := _next(spans, past))]
        if len(nexts) < len(left) or min(nexts)[0] > limit:
            return None
        past, number = min(nexts)
        del left[number]
    return past if past <= limit else None


def _in_order(lists: Lists, within: int) -> Iterable[Span]:
    for begin, past in lists[0]:
        for spans in lists[1:]:
            if (span := _next(spans, past)) is None:
                return  # nor behind any later one
            past = span[1]
        if past <= begin + within:
            yield begin, past


def _next(spans: Sequence[Span], place: int) -> Span | None:
    """The first that begins there or later."""
    index = bisect_left(spans, place, key=itemgetter(0))
    return spans[index] if index < len(spans) else None


def _far_from(found: Iterable[Span], unwanted: Sequence[Span], within: int) -> list[Span]:
    """Those with none of the unwanted in them or within so many words."""
    return [span for span in found if not _touched(span[0] - within, span[1] + within, unwanted)]


def _touched(begin: int, past: int, spans: Sequence[Span]) -> bool:
    hit = _next(spans, begin)
    return hit is not None and hit[0] < past


_MAKERS: Mapping[str, Callable[[Match, Making], Finder]] = {
    "phrase": lambda match, making: _phrase(match.phrase or "", making),
    "any": _any,
    "all": _all,
    "near": _near,
    "sequence": _sequence,
    "count": _count,
    "regex": _regex,
    "pii": _pii,
    "rule": _rule,
    "list": lambda match, making: making.lists[match.list or ""],
}
