"""The vote about the language: who is asked, what their answers make, when it ends."""

from itertools import count

import numpy as np
import pytest

from whisperd.engine.language import FEWEST, MOST, SURE, vote, voters
from whisperd.task import Cut, Piece


def cuts(*seconds, speech=1.0):
    """Cuts of these lengths, one behind the other."""
    starts = np.cumsum([0, *seconds])
    return [
        Cut(pieces=(Piece(int(start) * 16_000, int(start + length) * 16_000),), speech=speech)
        for start, length in zip(starts, seconds, strict=False)
    ]


def starts(some):
    return [cut.pieces[0].start // 16_000 for cut in some]


def answers(*each):
    """An `ask` that gives these, one after another, and counts how often it was asked."""
    asked = []

    def ask(cut):
        asked.append(cut)
        return np.array(each[len(asked) - 1], np.float32)

    return ask, asked


def test_the_mean_decides_and_not_the_loudest_voice():
    ask, asked = answers([0.9, 0.1], [0.2, 0.8], [0.2, 0.8], [0.2, 0.8], [0.2, 0.8])

    assert vote(cuts(*[10] * 9), ask) == (1, 0.66)
    assert len(asked) == MOST


def test_one_window_of_another_language_does_not_carry_the_file():
    ask, _ = answers([0.0, 1.0], *[[0.7, 0.3]] * 4)

    assert vote(cuts(*[10] * 5), ask) == (0, 0.56)


def test_a_sure_answer_is_asked_for_a_second_time_and_no_more():
    ask, asked = answers(*[[SURE, 1 - SURE]] * MOST)

    assert vote(cuts(*[10] * 9), ask) == (0, SURE)
    assert len(asked) == FEWEST


def test_a_lone_window_decides_alone():
    ask, asked = answers([0.4, 0.6])

    assert (vote(cuts(10), ask), len(asked)) == ((1, 0.6), 1)


def test_of_equals_the_first_wins():
    ask, _ = answers([0.5, 0.5])

    assert vote(cuts(10), ask) == (0, 0.5)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 100])
def test_no_window_is_asked_twice_and_their_order_begins_in_the_middle(number):
    some = cuts(*[10] * number)
    asked = starts(voters(some))

    assert len(set(asked)) == len(asked) == min(MOST, number)
    middle = some[-1].pieces[0].start / 16_000 / 2
    assert abs(asked[0] - middle) == min(abs(start - middle) for start in asked)


def test_the_windows_are_spread_over_the_file():
    parts = {start // 200 for start in starts(voters(cuts(*[10] * 100)))}

    assert parts == {0, 1, 2, 3, 4}


def test_of_its_part_the_window_with_the_most_speech_is_asked():
    some = cuts(*[10, 20, 5] * 4, 28)
    some[-1] = Cut(pieces=some[-1].pieces, speech=0.1)

    assert sorted(starts(voters(some))) == [10, 45, 70, 80, 115]


def test_the_same_cuts_always_elect_the_same():
    some, numbers = cuts(*range(1, 20)), count()
    random = np.random.default_rng(3)
    table = random.dirichlet(np.ones(99), len(some)).astype(np.float32)

    def ask(cut):
        next(numbers)
        return table[some.index(cut)]

    assert len({vote(some, ask) for _ in range(5)}) == 1
    assert next(numbers) == 5 * MOST
