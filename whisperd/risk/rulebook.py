"""Packs made ready to search with: made once, for any number of transcripts, from several threads at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from whisperd.risk.matching import Finder, Making, finder, lists
from whisperd.risk.phrases import Phrase
from whisperd.risk.reading import BadRules, Problem, ReadPack
from whisperd.risk.rules import Match, Pack, Rule

MOST_NODES = 20_000  # phrases and operators of all packs


class Rulebook:
    """Raises BadRules where packs do not fit together, as `conflicts` tells."""

    def __init__(self, packs: Sequence[ReadPack], left_out: Sequence[str] = ()) -> None:
        """`left_out`: names of files whose packs ought to be among them, and are broken."""
        self.left_out = left_out
        self.packs = {each.pack.name: each for each in packs}
        if problems := conflicts(packs):
            raise BadRules(problems)
        self.rules: Mapping[str, Rule] = {rule.id: rule for each in packs for rule in each.pack.rule}
        self.finders: Mapping[str, Finder] = dict(pair for each in packs for pair in _finders(each.pack))
        self.contexts: Mapping[str, Sequence[Phrase]] = {
            rule.id: [Phrase(words) for words in rule.context.words]
            for rule in self.rules.values()
            if rule.context
        }


def conflicts(packs: Sequence[ReadPack]) -> Sequence[Problem]:
    """Why packs cannot be used together: an id twice, a rule that is not there, a circle, too much."""
    homes = [_Home(each, number, rule) for each in packs for number, rule in enumerate(each.pack.rule)]
    return list(_conflicts(packs, homes))


def _finders(pack: Pack) -> Iterator[tuple[str, Finder]]:
    known = lists(pack)
    for rule in pack.rule:
        yield rule.id, finder(rule.match, Making(rule.fuzzy, known))


class _Home(NamedTuple):
    """A rule, and where it stands."""

    read: ReadPack
    number: int
    rule: Rule

    def problem(self, key: str, message: str) -> Problem:
        return Problem(self.read.file, self.read.lines[self.number], f"rule[{self.number}].{key}", message)


def _conflicts(packs: Sequence[ReadPack], homes: Sequence[_Home]) -> Iterator[Problem]:
    home: dict[str, _Home] = {}
    for each in homes:
        if each is not (first := home.setdefault(each.rule.id, each)):
            yield each.problem("id", f"{each.rule.id} is a rule of {first.read.pack.name}, too")
    needs = {each.rule.id: set(_named(each.rule.match)) for each in homes}
    for id, named in needs.items():
        for missing in sorted(named - needs.keys()):
            yield home[id].problem("match", f"there is no rule {missing}")
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        circle = error.args[1]
        yield home[circle[0]].problem("match", f"rules in a circle: {' -> '.join(circle)}")
    nodes = sum(_nodes(each.rule.match) for each in homes)
    nodes += sum(len(phrases) for each in packs for phrases in each.pack.lists.values())
    if nodes > MOST_NODES:
        yield homes[-1].problem(
            "match", f"{nodes:,} phrases and operators in all packs, more than {MOST_NODES:,}"
        )


def _named(match: Match | str) -> Iterator[str]:
    if not isinstance(match, str):
        if match.rule is not None:
            yield match.rule
        for _, part in match.parts:
            yield from _named(part)


def _nodes(match: Match | str) -> int:
    return 1 if isinstance(match, str) else 1 + sum(_nodes(part) for _, part in match.parts)
