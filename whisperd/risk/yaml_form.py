"""The YAML form of a rule pack: a text -> what its TOML would hold, and the line of each key.

Only what JSON has is no text where it stands without quotes: numbers, true, false and null. So `no` and `on`
are words here, as they are in a rule. Aliases are refused, by which a short file becomes a large one, and so
are keys that stand twice, of which YAML would take the last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

DEEPEST = 100  # levels; a match of the deepest allowed has a third of them
LONGEST_KEY = 64  # characters

_CONSTANTS = {"true": True, "false": False, "null": None, "~": None, "": None}
_NUMBER = re.compile(r"[-+]?(?:0|[1-9]\d{0,18})(\.\d{1,18})?")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")  # of a key: rule[2].match


class BadYaml(ValueError):
    """It is not YAML, or more of it than a pack needs."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class Marked(NamedTuple):
    """The line of a value, from 1, and those of the values in it, by key or place."""

    line: int
    parts: Mapping[str | int, Marked]

    def of(self, key: str) -> int:
        """The line of a key such as rule[2].match.any[0], or of the nearest one around it."""
        mark = self
        for name, place in _STEP.findall(key):
            if (part := mark.parts.get(name or int(place))) is None:
                break
            mark = part
        return mark.line


def read(text: str) -> tuple[dict[str, Any], Marked]:
    """Raises BadYaml."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a tenth of the time, where there is LibYAML
    try:
        return _Reader(yaml.parse(text, Loader=loader)).pack()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        raise BadYaml(str(said), mark.line + 1 if mark else 1) from None


class _Reader:
    """Goes over events: nothing is made of what is refused, however much there is of it."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events

    def pack(self) -> tuple[dict[str, Any], Marked]:
        first = self._next("StreamStart", "DocumentStart")
        if _kind(first) == "StreamEnd":
            raise BadYaml("there is nothing in it", 1)
        value, mark = self._value(next(self._events), 1)
        self._next("DocumentEnd")
        if _kind(last := next(self._events)) != "StreamEnd":
            raise BadYaml("a second document: a file holds one pack", _line(last))
        if not isinstance(value, dict):
            raise BadYaml("a pack is made of keys and values", mark.line)
        return value, mark

    def _next(self, *passed: str) -> Any:
        """The last of the events that are passed over; sooner the end of all."""
        for _ in passed:
            event = next(self._events)
            if _kind(event) == "StreamEnd":
                break
        return event

    def _value(self, event: Any, depth: int) -> tuple[Any, Marked]:
        line = _line(event)
        if depth > DEEPEST:
            raise BadYaml("values within values, too deep", line)
        if _kind(event) == "Alias":
            raise BadYaml("no aliases: write it out, or make it a list of the pack", line)
        if event.tag is not None:
            raise BadYaml(f"no tags such as {event.tag[:LONGEST_KEY]}", line)
        return _MAKERS[_kind(event)](self, event, depth)

    def _scalar(self, event: Any, depth: int) -> tuple[Any, Marked]:
        mark = Marked(_line(event), {})
        return _plain(event.value) if event.implicit[0] else event.value, mark

    def _sequence(self, event: Any, depth: int) -> tuple[list[Any], Marked]:
        values: list[Any] = []
        parts: dict[str | int, Marked] = {}
        while _kind(item := next(self._events)) != "SequenceEnd":
            value, parts[len(values)] = self._value(item, depth + 1)
            values.append(value)
        return values, Marked(_line(event), parts)

    def _mapping(self, event: Any, depth: int) -> tuple[dict[str, Any], Marked]:
        values: dict[str, Any] = {}
        parts: dict[str | int, Marked] = {}
        while _kind(key := next(self._events)) != "MappingEnd":
            name = _name(key)
            if name in values:
                raise BadYaml(f"{name} is there twice", _line(key))
            values[name], mark = self._value(next(self._events), depth + 1)
            parts[name] = mark._replace(line=_line(key))
        return values, Marked(_line(event), parts)


_MAKERS: Mapping[str, Callable[[_Reader, Any, int], tuple[Any, Marked]]] = {
    "Scalar": _Reader._scalar,
    "SequenceStart": _Reader._sequence,
    "MappingStart": _Reader._mapping,
}


def _name(key: Any) -> str:
    if _kind(key) != "Scalar" or len(key.value) > LONGEST_KEY:
        raise BadYaml(f"a key is a text of {LONGEST_KEY} characters at most", _line(key))
    return str(key.value)


def _plain(text: str) -> object:
    """What stands without quotes."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if found := _NUMBER.fullmatch(text):
        return float(text) if found[1] else int(text)
    return text


def _kind(event: Any) -> str:
    return type(event).__name__.removesuffix("Event")


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
