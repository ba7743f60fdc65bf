"""From segments and rules to a report: what was found, how sure, how bad, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate, groupby
from pathlib import PurePath
from typing import Any, Literal, NamedTuple, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from whisperd.risk.call import Call, Hit, Out
from whisperd.risk.matching import TooMuch
from whisperd.risk.reading import ReadPack
from whisperd.risk.rulebook import Rulebook
from whisperd.risk.rules import Category, Rule, Severity
from whisperd.risk.words import Spoken, believed
from whisperd.task import Segment

WORDS_AROUND = 8  # of a finding's context, on each side
FRAME = 400  # characters that a finding has beside what it says
MOST_TOLD = 8 * 2**20  # characters of all findings: each is in an answer, a database, and somebody's browser
MOST_OUT = 200_000  # words that are redacted, counted for each rule
MASK = "****"

Redact = Literal["none", "tag", "mask"]

_SEVERITIES = list(Severity)
_AROUND_A_WORD = ".,;:!?\"'\u2026\u201c\u201d"


class Wanted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which findings are asked for, and whether they may say what was said.

    What is redacted depends on the packs alone: who wants to know of the worst has no less to hide.
    """

    packs: frozenset[str] = frozenset()  # none: all
    categories: frozenset[Category] = frozenset()  # none: all
    min_score: float = 0.0
    min_severity: Severity = Severity.INFO
    redact: Redact = "none"  # tag: [CARD] in place of a card's number; mask: ****


EVERYTHING = Wanted()


class Finding(Struct, frozen=True, kw_only=True):
    """A place where a rule is met. Characters are those of the segments' texts with a space between them."""

    id: str
    rule_id: str
    title: str
    category: Category
    severity: Severity
    score: float
    text: str
    context: str
    char_start: int
    char_end: int
    segment_ids: tuple[int, ...]
    start: float | None  # seconds; None where times are not known
    end: float | None
    speaker: str | None
    asr_confidence: float | None  # 0 to 1: of its least certain word
    why: dict[str, Any]  # base, context, asr_penalty: they make the score


class Missing(Struct, frozen=True, kw_only=True):
    """What should have been said, and was not: the rule, and the seconds in which it was looked for."""

    rule_id: str
    title: str
    category: Category
    severity: Severity
    score: float
    window: dict[str, float]


class Place(NamedTuple):
    """Characters [begin, past) of a segment's text, and what may stand in their place."""

    segment: int
    begin: int
    past: int
    tag: str


class Report(Struct, frozen=True, kw_only=True):
    packs: tuple[dict[str, Any], ...]
    risk: dict[str, Any]  # score, level
    summary: dict[str, dict[str, Any]]
    findings: tuple[Finding, ...]
    missing: tuple[Missing, ...]
    rules_errors: tuple[str, ...]
    places: tuple[Place, ...] = ()  # what the rules want redacted; for `redaction`, and nobody else


AnyReport = TypeVar("AnyReport", bound=Report)


def detect(
    segments: Sequence[Segment],
    rulebook: Rulebook,
    wanted: Wanted = EVERYTHING,
    *,
    timed: bool = True,
    so_far: bool = False,
) -> Report:
    """What the rules find in segments, which come in order of time. The same for the same input, always.

    With `timed` off the times of segments mean nothing: rules for a part of the call are passed over.
    Rules that cost too much leave what was found before them, and a line in `rules_errors`. To redact that is
    not enough: then findings quote nothing. `so_far`: the call goes on, and what is said next may change what
    is found near its end, so that is left out; so is all that depends on where the end is.
    """
    packs = [each for name, each in rulebook.packs.items() if not wanted.packs or name in wanted.packs]
    rules = [rule for each in packs for rule in each.pack.rule]
    call = Call(segments, rulebook, timed, so_far=so_far)
    asked = [rule for rule in rules if _is_wanted(rule, wanted)]
    hits, missing, errors = _search(call, asked, wanted.min_score)
    errors += _left_out(rulebook, wanted.packs)
    out, doubts = _redactions([call, *_unsaid(segments, rulebook, timed)], rules)
    quotes = _Quotes(segments, out, wanted.redact, timed)
    findings, untold = _told(quotes, hits)
    places = {place for one in out for place in _places(one)}
    report = _report(packs, findings, missing, [*errors, *untold, *doubts], places)
    return silenced(report) if report.rules_errors and wanted.redact != "none" else report


def _told(quotes: _Quotes, hits: Sequence[Hit]) -> tuple[list[Finding], list[str]]:
    """As many as there is room for, and why there are no more."""
    findings: list[Finding] = []
    left = MOST_TOLD
    for number, hit in enumerate(hits, 1):
        one = quotes.finding(number, hit)
        left -= FRAME + len(one.title) + len(one.text) + len(one.context)
        if left < 0:
            return findings, [
                f"there are {len(hits)} findings: no more than the first {len(findings)} are told"
            ]
        findings.append(one)
    return findings, []


def silenced(report: AnyReport) -> AnyReport:
    """Without a word of what was said."""
    return replace(report, findings=tuple(replace(one, text=MASK, context="") for one in report.findings))


def _left_out(rulebook: Rulebook, packs: Collection[str]) -> list[str]:
    """What is broken might have found more; of packs that are asked for, where its file has their name."""
    broken = [file for file in rulebook.left_out if not packs or PurePath(file).stem in packs]
    return [f"{file}: it is broken, so its rules were not looked for" for file in broken]


def _search(call: Call, rules: Iterable[Rule], least: float) -> tuple[list[Hit], list[Missing], list[str]]:
    """Places in order and absences, and why there may be more of them."""
    hits: list[Hit] = []
    missing: list[Missing] = []
    errors: list[str] = []
    for rule in rules:
        try:
            found = call.hits(rule)
        except TooMuch as error:
            errors.append(f"{rule.id}: {error}")
            break
        if rule.negate:
            missing += _missing(call, rule) if not found and rule.score >= least else ()
        else:
            hits += [hit for hit in found if hit.score >= least]
    return sorted(hits, key=call.order), missing, errors


def _missing(call: Call, rule: Rule) -> Iterator[Missing]:
    """Absence of what was found nowhere."""
    if not call.may_miss(rule):
        return
    begin, past = call.window(rule.where)
    yield Missing(
        rule_id=rule.id,
        title=rule.title,
        category=rule.category,
        severity=rule.severity,
        score=rule.score,
        window={"start": round(begin, 2), "end": round(past, 2)},
    )


def _redactions(calls: Iterable[Call], rules: Iterable[Rule]) -> tuple[list[Out], list[str]]:
    """What is to be redacted, whatever findings are asked for, and why there may be more of it."""
    out: list[Out] = []
    words = 0
    for call in calls:
        for rule in rules:
            try:
                found = call.out(rule)
            except TooMuch as error:
                return out, [f"{rule.id}: {error}"]
            words += sum(len(one.said) for one in found)
            if words > MOST_OUT:
                return out, [f"there are more than {MOST_OUT:,} words to be redacted"]
            out += found
    return out, []


def _unsaid(segments: Sequence[Segment], rulebook: Rulebook, timed: bool) -> Iterator[Call]:
    """All of it, where some text was passed over: what is no finding is read all the same."""
    if len(list(believed(segments))) < len(segments):
        yield Call(segments, rulebook, timed, doubted=True)


def _report(
    packs: Iterable[ReadPack],
    findings: Sequence[Finding],
    missing: Sequence[Missing],
    errors: Sequence[str],
    places: Iterable[Place],
) -> Report:
    found: list[Finding | Missing] = [*findings, *missing]
    return Report(
        packs=tuple(
            {"name": each.pack.name, "version": each.pack.version, "sha256": each.sha256} for each in packs
        ),
        risk=_risk(found),
        summary=_summary(found),
        findings=tuple(findings),
        missing=tuple(missing),
        rules_errors=tuple(errors),
        places=tuple(sorted(places)),
    )


_At = tuple[int, int]  # a word: its segment, and where it begins there


class _Quotes:
    """What findings say of a transcript, with something else in place of what is to be out."""

    def __init__(self, segments: Sequence[Segment], out: Iterable[Out], way: Redact, timed: bool) -> None:
        self._timed = timed
        self._offsets = list(accumulate((len(segment.text) + 1 for segment in segments), initial=0))
        # Of a word that is hidden: the first one of its stretch, and what stands there.
        self._hidden: dict[_At, tuple[_At, str]] = {}
        if way != "none":
            self._hide(out, way)

    def finding(self, number: int, hit: Hit) -> Finding:
        rule, stream, span = hit.rule, hit.stream, hit.span
        said = stream.said(span)
        begin, past = _trimmed(said)
        first, last = said[0], said[-1]
        at = stream.tokens[span[0]].first
        around = stream.spoken[max(0, at - WORDS_AROUND) : at + len(said) + WORDS_AROUND]
        return Finding(
            id=f"f{number}",
            rule_id=rule.id,
            title=rule.title,
            category=rule.category,
            severity=rule.severity,
            score=hit.score,
            text=self._written(said).strip(_AROUND_A_WORD),
            context=self._written(around),
            char_start=self._offsets[first.segment] + begin,
            char_end=self._offsets[last.segment] + past,
            segment_ids=tuple(dict.fromkeys(word.segment for word in said)),
            start=round(first.start, 2) if self._timed else None,
            end=round(last.end, 2) if self._timed else None,
            speaker=stream.speaker,
            asr_confidence=None if hit.confidence is None else round(hit.confidence, 3),
            why=hit.why,
        )

    def _hide(self, out: Iterable[Out], way: Redact) -> None:
        hidden = [(stand_in(tag, way), [(word.segment, word.begin) for word in said]) for tag, said in out]
        for shown, words in sorted(hidden, key=lambda pair: pair[1]):
            stretch = self._hidden.get(words[0], (words[0], shown))  # the one before, where they overlap
            self._hidden.update(dict.fromkeys(words, stretch))

    def _written(self, words: Sequence[Spoken]) -> str:
        if not self._hidden:
            return " ".join([word.text for word in words])
        shown: list[str] = []
        for hidden, these in groupby(words, lambda word: self._hidden.get((word.segment, word.begin))):
            shown += [hidden[1]] if hidden else [word.text for word in these]
        return " ".join(shown)


def stand_in(tag: str, way: Redact) -> str:
    """What is shown in place of what was said."""
    return f"[{tag}]" if way == "tag" else MASK


def _is_wanted(rule: Rule, wanted: Wanted) -> bool:
    fits = not wanted.categories or rule.category in wanted.categories
    return fits and _SEVERITIES.index(rule.severity) >= _SEVERITIES.index(wanted.min_severity)


def _risk(found: Sequence[Finding | Missing]) -> dict[str, Any]:
    """One score over distinct rules, 1 - (1 - a)(1 - b)…; and the worst severity."""
    best: dict[str, float] = {}
    for one in found:
        best[one.rule_id] = max(best.get(one.rule_id, 0.0), one.score)
    score = 1.0 - math.prod(1 - value for value in best.values())
    return {"score": round(score, 3), "level": _worst(found) if found else None}


def _summary(found: Sequence[Finding | Missing]) -> dict[str, dict[str, Any]]:
    summary = {}
    for category in sorted({one.category for one in found}):
        these = [one for one in found if one.category == category]
        summary[str(category)] = {
            "count": len(these),
            "max_score": max(one.score for one in these),
            "max_severity": _worst(these),
        }
    return summary


def _worst(found: Sequence[Finding | Missing]) -> Severity:
    return max((one.severity for one in found), key=_SEVERITIES.index)


def _places(out: Out) -> Iterator[Place]:
    """The characters in each segment that it touches, without the punctuation around it."""
    tag, said = out
    begin, past = _trimmed(said)
    for segment in dict.fromkeys(word.segment for word in said):
        inside = [word for word in said if word.segment == segment]
        first = begin if segment == said[0].segment else inside[0].begin
        last = past if segment == said[-1].segment else inside[-1].past
        yield Place(segment, first, last, tag)


def _trimmed(said: Sequence[Spoken]) -> tuple[int, int]:
    """Where the first word begins and the last one ends, without the punctuation around them."""
    first, last = said[0], said[-1]
    begin = first.begin + len(first.text) - len(first.text.lstrip(_AROUND_A_WORD))
    return begin, last.past - (len(last.text) - len(last.text.rstrip(_AROUND_A_WORD)))
