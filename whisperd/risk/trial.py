"""Tries rules on their own examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from whisperd.risk.matching import Budget, Search
from whisperd.risk.rulebook import Rulebook
from whisperd.risk.rules import Rule
from whisperd.risk.words import streams
from whisperd.task import Segment


class Failure(Struct, frozen=True, kw_only=True):
    """An example that a rule does not do right."""

    rule_id: str
    expected: Literal["hit", "miss"]
    text: str


def failures(rulebook: Rulebook, rule: Rule) -> Iterator[Failure]:
    """Of one rule, in the order of its examples.

    What its match finds counts, wherever in a call it looks; of a rule with `negate`, too: a hit is what it
    wants to hear.
    """
    for text in rule.tests.hit:
        if not _is_found(rulebook, rule, text):
            yield Failure(rule_id=rule.id, expected="hit", text=text)
    for text in rule.tests.miss:
        if _is_found(rulebook, rule, text):
            yield Failure(rule_id=rule.id, expected="miss", text=text)


def _is_found(rulebook: Rulebook, rule: Rule, text: str) -> bool:
    heard = streams([Segment(start=0.0, end=0.0, text=text)])
    return any(Search(stream, rulebook.finders, Budget()).rule(rule.id) for stream in heard)
