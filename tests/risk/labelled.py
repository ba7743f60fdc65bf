"""The labelled utterances of tests/data/risk, and how rules do on them."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from whisperd.risk.detection import detect
from whisperd.task import Segment

FOLDER = Path(__file__).parents[1] / "data" / "risk"
PARTS = ("tuned", "held_out", "unseen", "blind", "apart")


class Utterance(NamedTuple):
    text: str
    must: frozenset[str]  # categories
    may: frozenset[str]  # found or not, both are right


class Score(NamedTuple):
    """Of (utterance, category)."""

    right: Counter
    wrong: Counter  # found, and not there
    missed: Counter

    def precision(self, category=None):
        right, wrong = self._of(self.right, category), self._of(self.wrong, category)
        return right / (right + wrong) if right + wrong else 1.0

    def recall(self, category=None):
        right, missed = self._of(self.right, category), self._of(self.missed, category)
        return right / (right + missed) if right + missed else 1.0

    def _of(self, counts, category):
        return counts[category] if category else counts.total()


def utterances(part):
    return [utterance(line) for line in (FOLDER / f"{part}.txt").read_text().splitlines()]


def utterance(line):
    labels, _, text = line.partition(" | ")
    names = [label for label in labels.split() if label != "-"]
    may = frozenset(name.rstrip("?") for name in names)
    return Utterance(text, frozenset(name for name in names if not name.endswith("?")), may)


def score(rulebook, said, texts=None):
    """How the rules do on utterances, or on what was heard of them."""
    result = Score(Counter(), Counter(), Counter())
    for utterance, text in zip(said, texts or [each.text for each in said], strict=True):
        found = categories(rulebook, text)
        result.right.update(utterance.must & found)
        result.missed.update(utterance.must - found)
        result.wrong.update(found - utterance.must - utterance.may)
    return result


def categories(rulebook, text):
    report = detect([Segment(start=0.0, end=0.0, text=text)], rulebook, timed=False)
    return {str(finding.category) for finding in report.findings}
