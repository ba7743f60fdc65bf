"""Who rests when memory is short, and for how long."""

import pytest

from tests.conftest import Clock
from whisperd.restraint import Restraint


@pytest.fixture
def restraint(clock):
    return Restraint(600.0, clock)


def resting(restraint):
    return [slot for slot in (1, 2, 3) if restraint.rests(slot)]


def test_one_slot_works_again_after_each_calm_spell_the_longest_resting_first(restraint, clock):
    restraint.rest(2, "a")
    restraint.rest(1, "b")
    seen = [resting(restraint)]
    for seconds in (599, 1, 599, 1):
        clock.now += seconds
        seen.append(resting(restraint))

    assert seen == [[1, 2], [1, 2], [1], [1], []]


def test_after_a_long_calm_spell_all_work_again(restraint, clock):
    restraint.rest(1, "a")
    restraint.rest(2, "a")
    clock.now += 3600

    assert resting(restraint) == []


def test_memory_that_runs_out_again_starts_the_spell_anew(restraint, clock):
    restraint.rest(1, "a")
    clock.now += 599
    restraint.suspect("b")
    clock.now += 599

    assert resting(restraint) == [1]
    assert restraint.seconds_left() == 1


def test_how_often_memory_ran_out_is_counted_by_chunk(restraint):
    assert [restraint.suspect(chunk) for chunk in "abaaa"] == [1, 1, 2, 3, 4]


def test_a_chunk_that_went_well_is_suspected_no_more(restraint):
    restraint.suspect("a")
    restraint.acquit("a")

    assert restraint.suspect("a") == 1


def test_nobody_rests_for_a_chunk_that_was_at_fault_itself(restraint):
    for slot, chunk in ((1, "a"), (2, "b"), (3, "a")):
        restraint.rest(slot, chunk)
    restraint.convict("a")

    assert resting(restraint) == [2]


def test_a_slot_that_rests_already_rests_for_what_it_first_did(restraint):
    restraint.rest(1, "a")
    restraint.rest(1, None)
    restraint.convict("a")

    assert resting(restraint) == []


def test_the_thousand_chunks_that_ran_out_of_memory_last_are_remembered():
    restraint = Restraint(600.0, Clock())
    for number in (*range(1000), 0, 1000):
        restraint.suspect(number)

    assert [restraint.suspect(number) for number in (0, 1000, 1)] == [3, 2, 1]
