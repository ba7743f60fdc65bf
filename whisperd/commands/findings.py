"""How `whisperd show` prints what risk detection found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from whisperd.terminal import clock, complain, show_fields, show_table

if TYPE_CHECKING:
    from whisperd.client import Finding, Findings, Missing


def show_findings(found: Findings) -> None:
    """The score, and a line each; what should have been said comes last."""
    many = len(found.findings) + len(found.missing)
    level = f"{found.risk.level} ({found.risk.score:.2f})" if found.risk.level else "nothing found"
    show_fields([("risk", level), ("findings", many or None)])
    if many:
        show_table(("AT", "SEVERITY", "CATEGORY", "SPEAKER", "WHAT"), list(_rows(found)), "WHAT")
    for error in found.rules_errors:
        complain(f"not everything was looked for: {error}")


def _rows(found: Findings) -> Iterator[Sequence[str]]:
    for one in found.findings:
        yield clock(one.start), one.severity, one.category, one.speaker or "-", _what(one)
    for missing in found.missing:
        yield "-", missing.severity, missing.category, "-", _missing(missing)


def _what(one: Finding) -> str:
    return f"{one.title or one.rule_id}: “{one.text}”"


def _missing(one: Missing) -> str:
    start, end = one.window.get("start"), one.window.get("end")
    return f"{one.title or one.rule_id}: not said from {clock(start)} to {clock(end)}"
