"""Reading a rule pack: TOML or YAML -> Pack, or all that is wrong with it, each with its line and its key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple, Protocol

import msgspec

from whisperd.risk import yaml_form
from whisperd.risk.patterns import compiled
from whisperd.risk.phrases import Phrase
from whisperd.risk.rules import DEEPEST, MOST_BYTES, MOST_NODES, MOST_RULES, Match, Pack, Rule

YAML = (".yaml", ".yml")  # ends of the names of files; others are TOML
MOST_TOLD = 100  # of what is wrong: each is looked for in the file
MOST_DOTS = 100  # of a line: for a key a.a.a… of n parts tomllib takes time that grows with n²

_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.+)`")
_RULE = re.compile(r"rule\[(\d+)\]\.?")
_HEADER = re.compile(r"\s*\[\[\s*rule\s*\]\]")
_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")

REQUEST = "request"  # the pack of rules that were sent with what they look through

NOT_ALONE = "not belongs into all, near or sequence"


class Problem(NamedTuple):
    """What is wrong with a pack, and where."""

    file: str
    line: int
    key: str  # "rule[2].match.regex"; empty for the file as a whole
    message: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.file}:{self.line}: {key}{self.message}"


class BadRules(ValueError):
    """Rules that cannot be used, with all that is wrong with them, a line each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class ReadPack(NamedTuple):
    """A pack, and where it was read."""

    pack: Pack
    file: str
    sha256: str
    lines: tuple[int, ...]  # in which its rules begin
    source: bytes


def read(source: bytes, file: str) -> ReadPack:
    """The pack that the bytes of a file called so hold. Raises BadRules."""
    document, lines = _document(source, file)
    pack = _checked(document, lambda key, message: Problem(file, lines.of(key), key, message))
    if pack.name == REQUEST:
        message = f"{REQUEST} is the name of rules that are sent with a request"
        raise BadRules([Problem(file, lines.of("name"), "name", message)])
    begins = tuple(lines.of(f"rule[{number}]") for number in range(len(pack.rule)))
    return ReadPack(pack, file, sha256(source).hexdigest(), begins, source)


def read_rules(source: bytes) -> ReadPack:
    """A JSON array of rules, each as in a pack, as a pack called REQUEST. Raises BadRules, without lines."""
    rules = msgspec.json.decode(source)
    document = {"name": REQUEST, "version": 1, "title": "The rules that were sent", "rule": rules}
    pack = _checked(document, lambda key, message: Problem("rules", 1, key, message))
    return ReadPack(pack, "rules", sha256(source).hexdigest(), (1,) * len(pack.rule), source)


def _checked(document: Mapping[str, Any], problem: Callable[[str, str], Problem]) -> Pack:
    for faults in (_misshapen, _of_types):
        if told := list(islice(faults(document), MOST_TOLD)):
            raise BadRules([problem(key, message) for key, message in told])
    return msgspec.convert(document, Pack)


def _of_types(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with a document whose keys and types are right."""
    return _faults(msgspec.convert(document, Pack))


class Lines(Protocol):
    """Where keys stand in a file."""

    def of(self, key: str) -> int: ...


def _document(source: bytes, file: str) -> tuple[Mapping[str, Any], Lines]:
    try:
        if len(source) > MOST_BYTES:
            raise ValueError(f"a pack of {len(source):,} bytes, more than {MOST_BYTES:,}")
        text = source.decode()
        if file.endswith(YAML):
            return yaml_form.read(text)
        if max((line.count(".") for line in text.splitlines()), default=0) > MOST_DOTS:
            raise ValueError(f"a line with more than {MOST_DOTS} dots: use several")
        return tomllib.loads(text), _Lines(text)
    except UnicodeDecodeError as error:
        line, said = source[: error.start].count(b"\n") + 1, "no UTF-8"
    except yaml_form.BadYaml as error:
        line, said = error.line, f"no YAML: {error}"
    except tomllib.TOMLDecodeError as error:
        found = _AT_LINE.search(str(error))
        line = int(found[1]) if found and found[1] else text.count("\n") + 1
        said = f"no TOML: {_AT_LINE.sub('', str(error)).lower()}"
    except RecursionError:
        line, said = 1, "tables within tables, too deep"
    except ValueError as error:
        line, said = 1, str(error)
    raise BadRules([Problem(file, line, "", said)])


def _misshapen(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys and types, of each rule apart: one that is wrong hides no other."""
    rules = document.get("rule")
    wrong = False
    if isinstance(rules, list) and len(rules) <= MOST_RULES:
        for number, rule in enumerate(rules):
            if fault := _fault(rule, Rule):
                wrong = True
                key = f"rule[{number}]"
                yield _below(key, fault[0]) if fault[0] else key, fault[1]
    if not wrong and (fault := _fault(document, Pack)):
        yield fault


def _fault(value: Any, kind: type) -> tuple[str, str] | None:
    """The key that is wrong, and how; None where all is well."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        found = _PLACE.search(str(error))
        key, said = found[1] if found else "", _PLACE.sub("", str(error))
        if field := _FIELD.fullmatch(said):
            name, is_known = field[2], field[1] == "missing required"
            return (key, f"{name} is missing") if is_known else (_below(key, name), "there is no such key")
        return key, said.replace("`", "").lower()
    except RecursionError:
        return "", "operators within operators, too deep"
    return None


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _faults(pack: Pack) -> Iterator[tuple[str, str]]:
    """What types do not say."""
    for name, phrases in pack.lists.items():
        yield from _said_nothing(phrases, f"lists.{name}")
    seen: set[str] = set()
    nodes = sum(map(len, pack.lists.values()))
    for number, rule in enumerate(pack.rule):
        key = f"rule[{number}]"
        if rule.id in seen:
            yield f"{key}.id", f"{rule.id} is there twice"
        seen.add(rule.id)
        if isinstance(rule.match, Match) and rule.match.not_ is not None:
            yield f"{key}.match", NOT_ALONE
        for place, match in _nodes(rule.match, f"{key}.match", 1):
            nodes += 1
            if fault := _wrong(match, place, rule.fuzzy) or _no_list(match, pack):
                yield place, fault
        yield from _said_nothing(rule.context.words if rule.context else (), f"{key}.context.words")
    if nodes > MOST_NODES:
        yield "", f"{nodes:,} phrases and operators, more than {MOST_NODES:,}"


def _said_nothing(phrases: Sequence[str], key: str) -> Iterator[tuple[str, str]]:
    for at, phrase in enumerate(phrases):
        if fault := _no_phrase(phrase):
            yield f"{key}[{at}]", fault


def _no_list(match: Match | str, pack: Pack) -> str | None:
    if isinstance(match, str) or match.list is None or match.list in pack.lists:
        return None
    return f"there is no list {match.list}"


def _nodes(match: Match | str, key: str, depth: int) -> Iterator[tuple[str, Match | str]]:
    yield key, match
    if not isinstance(match, str) and depth <= DEEPEST:
        for below, part in match.parts:
            yield from _nodes(part, f"{key}.{below}", depth + 1)


def _wrong(match: Match | str, key: str, fuzzy: bool) -> str | None:
    if isinstance(match, str):
        return _no_phrase(match)
    if len(match.operators) != 1:
        given = ", ".join(match.operators).replace("not_", "not") or "none"
        return f"one operator is needed, here are: {given}"
    if match.phrase is not None:
        return _no_phrase(match.phrase)
    if match.regex is not None:
        return _no_regex(match.regex)
    if depth_of(match) > DEEPEST:
        return f"operators within operators, more than {DEEPEST} deep"
    return _misplaced(match)


def depth_of(match: Match | str) -> int:
    """Operators within operators, itself counted; no further than is allowed."""
    return _depth(match, DEEPEST + 1)


def _depth(match: Match | str, most: int) -> int:
    if isinstance(match, str) or most == 1:
        return 1
    return 1 + max((_depth(part, most - 1) for _, part in match.parts), default=0)


def _misplaced(match: Match) -> str | None:
    """Absence is no place: `not` says something only beside what is there."""
    negative = [not isinstance(part, str) and part.not_ is not None for _, part in match.parts]
    if any(negative) and (match.any is not None or match.count is not None or match.not_ is not None):
        return NOT_ALONE
    if negative and all(negative):
        return "something must be there, beside what must not"
    return None


def _no_phrase(text: str) -> str | None:
    try:
        Phrase(text)
    except ValueError as error:
        return str(error)
    return None


def _no_regex(regex: str) -> str | None:
    try:
        compiled(regex)
    except ValueError as error:
        return str(error)
    return None


class _Lines:
    """Where keys stand in TOML, which is gone through once, however many rules it has."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines() or [""]
        self._heads = [number for number, line in enumerate(self._lines) if _HEADER.match(line)]

    def of(self, key: str) -> int:
        """The line of a key such as rule[2].match.any[0], as near as the file shows it; from 1."""
        begin, past = 0, len(self._lines)
        if found := _RULE.match(key):
            begin, past = self._rule(int(found[1]))
            key = key[found.end() :]
        parts = [part.partition("[")[0] for part in key.split(".") if part]
        for length in range(len(parts), 0, -1):
            for number in range(begin, past):
                if _is_about(self._lines[number], parts[:length]):
                    return self._inner(number, past, parts[length:]) + 1
        return min(begin, len(self._lines) - 1) + 1

    def _rule(self, number: int) -> tuple[int, int]:
        """The lines of a rule; past the end where it has no header, being written in another form."""
        end = len(self._lines)
        begin, past = [*self._heads[number : number + 2], end, end][:2]
        return begin, past

    def _inner(self, number: int, past: int, parts: Sequence[str]) -> int:
        """The line of what is left of a key, where this line is the header of its table."""
        is_header = self._lines[number].lstrip().startswith("[")
        below = range(number + 1, past) if is_header else ()
        return next((at for at in below if _is_about(self._lines[at], parts)), number)


def _is_about(line: str, parts: Sequence[str]) -> bool:
    """Whether a line begins with this key, or with the table of it."""
    return (
        bool(parts) and re.match(rf"\s*(\[\s*rule\.)?{re.escape('.'.join(parts))}\s*[\].=]", line) is not None
    )
