"""What is written down of a search: the report, and the text without what the rules want out of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import asdict, replace

from whisperd.risk.detection import MASK, Place, Redact, Report, silenced
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


def unquoted(document: Document, others: Iterable[Place] = ()) -> Document:
    """Without what rules want out of it, here or, as `others` have found, there.

    What it has taken out itself when it was written is out. Its segments are not at hand: of those in which
    anything else is to be redacted nothing is quoted, and of none where rules could not look everywhere.
    """
    if document.rules_errors:
        return wordless(document)
    own = set(document.places)
    more = set(others) - own
    if document.redacted_text is not None and not more:
        return document
    hidden = {place.segment for place in (more if document.redacted_text is not None else more | own)}
    findings = tuple(
        replace(one, context="", text=MASK if hidden.intersection(one.segment_ids) else one.text)
        for one in document.findings
    )
    return replace(document, findings=findings, redacted_text=None)


def wordless(document: Document) -> Document:
    """Without a word of what was said."""
    return replace(silenced(document), redacted_text=None)
