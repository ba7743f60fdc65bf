"""What is written down of a search: the report, and the text without what the rules want out of it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import asdict, replace

from whisperd.risk.detection import MASK, Redact, Report, silenced
from whisperd.risk.redaction import redacted
from whisperd.task import Segment


class Document(Report, frozen=True, kw_only=True):
    redacted_text: str | None = None  # where redaction was asked for


def document(report: Report, segments: Sequence[Segment], way: Redact) -> Document:
    """No text where rules could not look everywhere: it is not known what is to be redacted."""
    text = None
    if way != "none" and not report.rules_errors:
        text = " ".join(segment.text for segment in redacted(segments, report.places, way))
    return Document(**asdict(report), redacted_text=text)


def unquoted(document: Document) -> Document:
    """Without what rules want out, where redaction was not asked for when it was written.

    Its segments are not at hand: of those in which anything is to be redacted nothing is quoted, and of none
    where rules could not look everywhere.
    """
    if document.rules_errors:
        return silenced(document)
    hidden = {place.segment for place in document.places}
    findings = tuple(
        replace(one, context="", text=MASK if hidden.intersection(one.segment_ids) else one.text)
        for one in document.findings
    )
    return replace(document, findings=findings)
