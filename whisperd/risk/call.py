"""A call that rules look through: where each is met, how sure that is, and what it wants out.

Knows nothing of what is asked for, nor of how it is told: that is of `detection`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from string import ascii_uppercase
from typing import Any, NamedTuple

from whisperd.risk.matching import MOST_PLACES, Budget, Search, TooMuch, apart, covered
from whisperd.risk.phrases import Phrase
from whisperd.risk.rulebook import Rulebook
from whisperd.risk.rules import PASSAGE, Rule, Where
from whisperd.risk.words import Span, Spoken, Stream, streams
from whisperd.task import Segment

WORDS_A_SECOND = 2.5  # of speech whose times are not known
_LETTERS = frozenset(ascii_uppercase)  # of channels, in their order
DOUBT = 0.4  # what a score loses where the model is not sure of the words at all


class Hit(NamedTuple):
    rule: Rule
    stream: Stream
    span: Span
    score: float
    why: dict[str, Any]
    confidence: float | None


class Out(NamedTuple):
    """Words that a rule wants out, and what may stand in their place."""

    tag: str
    said: Sequence[Spoken]


class Call:
    """A transcript that is looked through by one rule after the other."""

    def __init__(
        self,
        segments: Sequence[Segment],
        rulebook: Rulebook,
        timed: bool,
        *,
        doubted: bool = False,
        so_far: bool = False,
    ) -> None:
        """`doubted`: what no one said is looked through, too. `so_far`: the call goes on."""
        budget = Budget()
        heard = streams(segments, doubted=doubted)
        self._searches = [Search(stream, rulebook.finders, budget) for stream in heard]
        self._rulebook = rulebook
        self._timed = timed
        self._so_far = so_far
        self._duration = max((segment.end for segment in segments), default=0.0)
        self._clocked: dict[tuple[Search, str], Sequence[float]] = {}

    def hits(self, rule: Rule) -> list[Hit]:
        """Its places, stream by stream; the first MOST_PLACES."""
        places = (
            self._hit(rule, search, span) for search in self._heard(rule) for span in self._met(rule, search)
        )
        return list(islice(places, MOST_PLACES))

    def _met(self, rule: Rule, search: Search) -> Iterator[Span]:
        for span in apart(search.rule(rule.id)):
            search.spend(span[1] - span[0])  # words that are gone over, at least once
            if self._is_within(rule.where, search.stream, span) and self._is_certain(search.stream, span):
                yield span

    def out(self, rule: Rule) -> list[Out]:
        """All that it wants redacted, of places that overlap each. Raises TooMuch where there may be more."""
        if rule.redact is None or rule.negate:
            return []
        out: list[Out] = []
        for search in self._heard(rule):
            stream = search.stream
            spans = [span for span in search.rule(rule.id) if self._is_within(rule.where, stream, span)]
            search.spend(sum(past - begin for begin, past in spans))
            if rule.id in search.cut_short:
                raise TooMuch(f"a regex of it is met at more than {MOST_PLACES} places")
            out += [Out(rule.redact, stream.said(span)) for span in covered(spans)]
        if len(out) > MOST_PLACES:
            raise TooMuch(f"there are more than {MOST_PLACES} places")
        return out

    def order(self, hit: Hit) -> tuple[float, Span, str]:
        """By time."""
        return (hit.stream.begins(hit.span) if self._timed else 0.0, hit.span, hit.rule.id)

    def may_miss(self, rule: Rule) -> bool:
        """Whether it means anything that it is met nowhere: not where the rule has nowhere to look.

        Who is silent all through a call has said nothing, and is there: before B comes A, as the channels do.
        """
        there = {str(search.stream.speaker) for search in self._searches}
        absent = _speakers(rule) - there
        silent = {chr(letter) for letter in range(ord("A"), ord(max(there & _LETTERS, default="A")))}
        return not self._so_far and self._can_look(rule) and bool(there) and absent <= silent

    def window(self, where: Where | None) -> tuple[float, float]:
        """Seconds [begin, past) in which it looks."""
        begin, past = 0.0, self._duration
        if where and where.first_seconds:
            past = min(past, where.first_seconds)
        if where and where.last_seconds:
            begin = max(begin, self._duration - where.last_seconds)
        return begin, past

    def _heard(self, rule: Rule) -> list[Search]:
        """The streams in which it looks; none where it looks by what is not known."""
        if not self._can_look(rule):
            return []
        return [search for search in self._searches if _speakers(rule) <= {search.stream.speaker}]

    def _can_look(self, rule: Rule) -> bool:
        where = rule.where or Where()
        by_time = where.first_seconds or where.last_seconds
        return (self._timed or not by_time) and not (self._so_far and where.last_seconds)

    def _is_within(self, where: Where | None, stream: Stream, span: Span) -> bool:
        if where is None or not (where.first_seconds or where.last_seconds):
            return True
        begin, past = self.window(where)
        return begin <= stream.begins(span) <= past

    def _is_certain(self, stream: Stream, span: Span) -> bool:
        """Whether what is said next cannot make it another one, or none: `not` looks behind it, too."""
        return not self._so_far or span[1] + PASSAGE <= len(stream.tokens)

    def _hit(self, rule: Rule, search: Search, span: Span) -> Hit:
        heard = [word.probability for word in search.stream.said(span) if word.probability is not None]
        confidence = min(heard) if heard else None
        penalty = 0.0 if confidence is None else round(DOUBT * (1 - confidence), 3)
        context = list(self._context(rule, search, span))
        boost = rule.context.boost if rule.context and context else 0.0
        score = round(min(1.0, max(0.0, rule.score + boost - penalty)), 3)
        why = {"base": rule.score, "context": context, "asr_penalty": -penalty if penalty else 0.0}
        return Hit(rule, search.stream, span, score, why, confidence)

    def _context(self, rule: Rule, search: Search, span: Span) -> Iterator[str]:
        """The words that make it more likely, by whoever they are said, with their time: "bank@58.1s"."""
        if rule.context is None:
            return
        within = rule.context.within_seconds
        for phrase in self._rulebook.contexts[rule.id]:
            for other in self._searches if self._timed else [search]:
                near = self._nearest(other, phrase, search.stream, span, within)
                if near is not None:
                    yield f"{phrase.text}@{near:.1f}s" if self._timed else phrase.text
                    break

    def _nearest(
        self, other: Search, phrase: Phrase, stream: Stream, span: Span, within: float
    ) -> float | None:
        """When the nearest place of a phrase begins; None when it is too far. Not in the finding itself."""
        place, spans = self._clock(stream)(span), other.phrase(phrase)
        times = self._times(other, phrase)
        near = range(bisect_left(times, place - within), bisect_right(times, place + within))
        other.spend(1 + len(near))
        apart = [n for n in near if other.stream is not stream or not _overlap(spans[n], span)]
        return min((times[n] for n in apart), key=lambda time: abs(time - place), default=None)

    def _times(self, search: Search, phrase: Phrase) -> Sequence[float]:
        key = (search, phrase.text)
        if key not in self._clocked:
            clock = self._clock(search.stream)
            self._clocked[key] = [clock(span) for span in search.phrase(phrase)]
        return self._clocked[key]

    def _clock(self, stream: Stream) -> Callable[[Span], float]:
        return stream.begins if self._timed else lambda span: span[0] / WORDS_A_SECOND


def _speakers(rule: Rule) -> set[str]:
    """Of whom it is; none: of everybody."""
    where = rule.where or Where()
    channel = None if where.channel is None else chr(ord("A") + where.channel)
    return {speaker for speaker in (where.speaker, channel) if speaker is not None}


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]
