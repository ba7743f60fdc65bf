"""What is written down of a search: the report, and the text without what the rules want out of it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import asdict, replace

from whisperd.risk.detection import MASK, Redact, Report
from whisperd.risk.redaction import redacted
from whisperd.task import Segment


class Document(Report, frozen=True, kw_only=True):
    redacted_text: str | None = None  # where redaction was asked for


def document(report: Report, segments: Sequence[Segment], way: Redact) -> Document:
    text = None
    if way != "none":
        text = " ".join(segment.text for segment in redacted(segments, report.places, way))
    return Document(**asdict(report), redacted_text=text)


def silenced(report: Report) -> Report:
    """Without a word of what was said."""
    return replace(report, findings=tuple(replace(one, text=MASK, context="") for one in report.findings))


def unquoted(document: Document) -> Document:
    """Without what rules want out, where redaction was not asked for when it was written.

    Its segments are not at hand: of those in which anything is to be redacted nothing is quoted.
    """
    hidden = {place.segment for place in document.places}
    findings = tuple(
        replace(one, context="", text=MASK if hidden.intersection(one.segment_ids) else one.text)
        for one in document.findings
    )
    return replace(document, findings=findings)
