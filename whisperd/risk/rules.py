"""What a rule pack may say: what TOML and JSON are read into, and the JSON Schema is made of.

Size, count and depth are limited, so that no file can take the machine with it; `reading` holds it to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

MOST_BYTES = 1 << 19  # of a file
MOST_RULES = 1000  # of a pack
MOST_LISTS = 200  # of a pack
MOST_NODES = 5000  # phrases and operators of a pack
DEEPEST = 8  # operators within operators
PASSAGE = 50  # words: the stretch in which `all` looks

Id = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Text = Annotated[str, Meta(min_length=1, max_length=500)]
Phrases = Annotated[tuple[Text, ...], Meta(min_length=1)]
Words = Annotated[int, Meta(ge=1, le=1000)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Category(StrEnum):
    FRAUD = "fraud"
    PII = "pii"
    THREAT = "threat"
    SELF_HARM = "self_harm"
    COMPLIANCE = "compliance"
    PROFANITY = "profanity"
    CUSTOM = "custom"


class Severity(StrEnum):
    """From the least to the worst."""

    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class _Said(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What stands in a file: a key that is not known is an error, and a default need not be shown."""


class Stretch(_Said, frozen=True):
    """All of `words` in a stretch of at most `within_words` words."""

    words: Annotated[tuple[Match | Text, ...], Meta(min_length=1, max_length=32)]
    within_words: Words = 12


class Count(_Said, frozen=True):
    """`of` at least `min` times: in all that a speaker says, or in a stretch of `within_words` words."""

    of: Match | Text
    min: Annotated[int, Meta(ge=2, le=1000)]
    within_words: Words | None = None


class Match(_Said, frozen=True, rename={"not_": "not"}):
    """One operator. A text in place of a match is a phrase."""

    phrase: Text | None = None  # words in a row; * is up to three between, and an ending
    any: Annotated[tuple[Match | Text, ...], Meta(min_length=1)] | None = None
    all: Annotated[tuple[Match | Text, ...], Meta(min_length=1, max_length=32)] | None = None  # PASSAGE words
    not_: Match | Text | None = None  # in `all`, `near` and `sequence`: what must not be there
    near: Stretch | None = None  # in any order
    sequence: Stretch | None = None  # in this order
    count: Count | None = None
    regex: Text | None = None  # RE2, over the normalised words
    pii: Literal["card", "misheard_card", "iban", "email", "phone", "ssn", "ip"] | None = None
    rule: Id | None = None  # what another rule finds
    list: Id | None = None  # one of the phrases of a list of the pack

    @property
    def operators(self) -> Sequence[str]:
        """Those that are given; in a pack that was read it is one."""
        return [field for field in self.__struct_fields__ if getattr(self, field) is not None]

    @property
    def parts(self) -> Sequence[tuple[str, Match | str]]:
        """The matches within, each with its key below this one."""
        if self.not_ is not None:
            return [("not", self.not_)]
        if self.count is not None:
            return [("count.of", self.count.of)]
        for key, parts in (("any", self.any), ("all", self.all)):
            if parts is not None:
                return [(f"{key}[{number}]", part) for number, part in enumerate(parts)]
        for key, stretch in (("near", self.near), ("sequence", self.sequence)):
            if stretch is not None:
                return [(f"{key}.words[{number}]", part) for number, part in enumerate(stretch.words)]
        return []


class Context(_Said, frozen=True):
    """Words near a finding that make it more likely: `boost` is added to its score if one is there."""

    words: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=200)]
    boost: Annotated[float, Meta(ge=-1, le=1)]
    within_seconds: Seconds = 30.0


class Where(_Said, frozen=True):
    """The part of a call in which a rule looks."""

    speaker: Annotated[str, Meta(min_length=1, max_length=50)] | None = None
    channel: Annotated[int, Meta(ge=0, le=25)] | None = None  # 0 is speaker A
    first_seconds: Seconds | None = None
    last_seconds: Seconds | None = None


class Examples(_Said, frozen=True):
    """What the rule must find, and what it must not: `whisperd rules test` tries them."""

    hit: tuple[Text, ...] = ()
    miss: tuple[Text, ...] = ()


class Rule(_Said, frozen=True):
    id: Id
    title: Text
    category: Category
    severity: Severity
    score: Share
    match: Match | Text
    fuzzy: bool = False  # phrases also where a long word is misspelt
    context: Context | None = None
    where: Where | None = None
    negate: bool = False  # that it is missing is what is found
    redact: Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9_]{0,31}$")] | None = (
        None  # what stands in its place: [CARD]
    )
    tests: Examples = Examples()


class Pack(_Said, frozen=True):
    name: Id
    version: Annotated[int, Meta(ge=1)]
    title: Text
    rule: Annotated[tuple[Rule, ...], Meta(min_length=1, max_length=MOST_RULES)]
    lists: Annotated[Mapping[Id, Phrases], Meta(max_length=MOST_LISTS)] = {}  # what its rules have in common
    language: Annotated[str, Meta(pattern="^[a-z]{2,3}$")] = "en"
