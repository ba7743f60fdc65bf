"""Transcripts and rules to try them on, in few words."""

from whisperd.risk.detection import EVERYTHING, detect
from whisperd.risk.reading import read
from whisperd.risk.rulebook import Rulebook
from whisperd.risk.words import streams
from whisperd.task import Segment, Word

HEAD = 'name = "mine"\nversion = 1\ntitle = "Mine"\n'
RULE = """
[[rule]]
id = "{id}"
title = "A rule"
category = "custom"
severity = "{severity}"
score = 0.5
{rest}
"""


def heard(*texts, seconds=5.0, **fields):
    """Segments one behind the other; a text may be (speaker, text)."""
    said = [text if isinstance(text, tuple) else (None, text) for text in texts]
    return [
        Segment(start=n * seconds, end=(n + 1) * seconds, text=text, speaker=speaker, **fields)
        for n, (speaker, text) in enumerate(said)
    ]


def with_words(text, probability=0.9, start=10.0):
    """A segment whose words last half a second each."""
    words = [
        Word(start=start + n / 2, end=start + n / 2 + 0.5, word=f" {word}", probability=probability)
        for n, word in enumerate(text.split())
    ]
    return Segment(start=start, end=words[-1].end, text=text, tokens=(1, 2), words=tuple(words))


def stream(text):
    return streams(heard(text))[0]


def said(stream, spans):
    return [" ".join(word.text for word in stream.said(span)) for span in spans]


def rule(rest, id="it", severity="medium"):
    return RULE.format(id=id, severity=severity, rest=rest)


def rulebook(*rules):
    """Of rules, or of what a rule says behind its head."""
    texts = [text if text.startswith("\n[[rule]]") else rule(text) for text in rules]
    return Rulebook([read((HEAD + "".join(texts)).encode(), "mine.toml")])


def report(segments, *rules, wanted=EVERYTHING, **how):
    segments = heard(segments) if isinstance(segments, str) else segments
    return detect(segments, rulebook(*rules), wanted, **how)


def found(text, *rules):
    """What the rules find in a text, in order."""
    return [finding.text for finding in report(text, *rules).findings]
