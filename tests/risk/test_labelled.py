"""What the shipped packs find of ordinary speech. `python -m benchmarks.risk` prints it by category."""

import pytest

from tests.risk import labelled
from tests.risk.labelled import PARTS, utterances
from whisperd.rulebooks import Rulebooks


@pytest.fixture(scope="module")
def rulebook():
    books = Rulebooks(None)
    assert books.reload() == []
    return books.rulebook


def test_there_are_enough_utterances_and_none_twice():
    texts = [utterance.text for part in PARTS for utterance in utterances(part)]

    assert len(texts) >= 300
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("part", ["tuned", "held_out", "blind"])
def test_nine_of_ten_findings_are_right_and_six_of_seven_are_found(rulebook, part):
    score = labelled.score(rulebook, utterances(part))

    assert score.precision() >= 0.90
    assert score.recall() >= 0.85


def test_so_it_is_over_all_that_is_labelled(rulebook):
    every = [utterance for part in PARTS for utterance in utterances(part)]
    score = labelled.score(rulebook, every)

    assert score.precision() >= 0.90
    assert score.recall() >= 0.85


@pytest.mark.parametrize("part", ["unseen", "apart"])
def test_of_what_no_rule_was_made_for_findings_are_right_and_personal_data_is_found(rulebook, part):
    """What else is said in other words is missed as often as not: see docs/risk.md."""
    score = labelled.score(rulebook, utterances(part))

    assert score.precision() >= 0.90
    assert score.recall("pii") >= 0.85
