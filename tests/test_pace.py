"""How often a tenant may submit."""

import pytest

from whisperd.pace import Pace
from whisperd.task import RateLimited


@pytest.fixture
def pace(clock):
    return Pace(clock, most=10)


def test_a_minutes_worth_may_come_at_once_and_then_one_after_the_other(pace, clock):
    for _ in range(6):
        pace.take("a", 6)
    with pytest.raises(RateLimited):
        pace.take("a", 6)
    clock.now += 10

    pace.take("a", 6)
    with pytest.raises(RateLimited):
        pace.take("a", 6)


def test_who_waits_as_long_as_he_is_told_is_let_in(pace, clock):
    for _ in range(7):
        pace.take("a", 7)
    for _ in range(50):
        with pytest.raises(RateLimited) as refused:
            pace.take("a", 7)
        clock.now += refused.value.retry_after
        pace.take("a", 7)
        clock.now -= refused.value.retry_after - 60 / 7  # what was too much of it


def test_what_is_refused_costs_nothing(pace, clock):
    pace.take("a", 1)
    for _ in range(100):
        with pytest.raises(RateLimited):
            pace.take("a", 1)
    clock.now += 60

    pace.take("a", 1)


def test_tenants_do_not_count_for_each_other_and_no_limit_is_none(pace):
    pace.take("a", 1)
    pace.take("b", 1)
    for _ in range(100):
        pace.take("a", 0)


def test_no_more_tenants_are_remembered_than_there_is_room_for_the_busiest_longest(pace):
    for _ in range(5):
        pace.take("busy", 5)
    for n in range(1000):
        pace.take(f"passing {n}", 5)

    assert len(pace._full_at) <= 10
    with pytest.raises(RateLimited):
        pace.take("busy", 5)


def test_those_whose_minute_is_full_again_are_forgotten(clock):
    pace = Pace(clock, most=2)
    for n in range(2):
        pace.take(f"gone {n}", 5)
    clock.now += 60
    pace.take("here", 5)

    assert list(pace._full_at) == ["here"]
