"""What is written down of a search: the report, and the text without what the rules want out of it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import asdict

from whisperd.risk.detection import Redact, Report
from whisperd.risk.redaction import redacted
from whisperd.task import Segment


class Document(Report, frozen=True, kw_only=True):
    redacted_text: str | None = None  # where redaction was asked for


def document(report: Report, segments: Sequence[Segment], way: Redact) -> Document:
    text = None
    if way != "none":
        text = " ".join(segment.text for segment in redacted(segments, report.places, way))
    return Document(**asdict(report), redacted_text=text)
