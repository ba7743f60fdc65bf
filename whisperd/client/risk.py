"""What risk detection is asked for, and what it found, as frozen objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from msgspec import Struct


class RiskOptions(TypedDict, total=False):
    """What risk detection looks for, beside the options of every task; what is None is left to the daemon."""

    packs: Sequence[str] | None  # only these
    rules: Sequence[Mapping[str, Any]] | None  # more of them, each as in a pack
    categories: Sequence[str] | None
    min_score: float | None
    min_severity: Literal["info", "low", "medium", "high", "critical"] | None
    redact: Literal["none", "tag", "mask"] | None
    alert_url: str | None
    alert_severity: Literal["info", "low", "medium", "high", "critical"] | None
    priority: int | None
    plan: Literal["FREE", "PRO", "PAYG"] | None
    tenant: str | None
    max_retries: int | None
    callback_url: str | None
    metadata: dict[str, Any] | None
    model: str | None  # this and the following: of audio
    language: str | None
    channels: Literal["mix", "split"] | None
    word_timestamps: bool | None


class Risk(Struct, frozen=True, kw_only=True):
    score: float = 0.0  # 0 to 1, over all rules
    level: str | None = None  # the worst severity; None where nothing was found


class Finding(Struct, frozen=True, kw_only=True):
    """A place where a rule is met. Characters are those of the segments' texts with a space between them."""

    id: str
    rule_id: str
    title: str
    category: str
    severity: str
    score: float
    text: str
    context: str
    char_start: int
    char_end: int
    segment_ids: tuple[int, ...] = ()
    start: float | None = None  # seconds; None of a text
    end: float | None = None
    speaker: str | None = None
    asr_confidence: float | None = None
    why: dict[str, Any] = {}  # what the score is made of


class Missing(Struct, frozen=True, kw_only=True):
    """What should have been said, and was not, within these seconds."""

    rule_id: str
    title: str
    category: str
    severity: str
    score: float
    window: dict[str, float]


class Rescan(Struct, frozen=True, kw_only=True):
    """The tasks that look; with `next_cursor` older transcripts are looked through, if there are any."""

    task_ids: tuple[str, ...]
    next_cursor: str | None = None


class Findings(Struct, frozen=True, kw_only=True):
    task_id: str
    transcript_task_id: str | None = None
    risk: Risk
    findings: tuple[Finding, ...] = ()
    missing: tuple[Missing, ...] = ()
    redacted_text: str | None = None  # with `redact`
    rules_errors: tuple[str, ...] = ()  # why the search ended early
    redactable: bool | None = None  # of a transcription: whether `redacted` can be answered now
