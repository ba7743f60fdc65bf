import asyncio
import gc
import sys
import weakref
from contextlib import ExitStack

import pytest
from msgspec.structs import replace

from whisperd.events import BACKLOG, FEW, Event, Events, tells_an_end
from whisperd.task import Audio, Kind, Options, State, Task


def about(task_id, number=0):
    """A hint; `number` tells it from others."""
    task = Task(
        seq=1,
        id=task_id,
        kind=Kind.TRANSCRIPTION,
        state=State.QUEUED,
        priority=0,
        tenant="default",
        model="tiny.en",
        options=Options(),
        audio=Audio(name="a.wav", size=1, sha256=""),
        attempt=1,
        max_retries=3,
        timeout_seconds=None,
        created_at=0.0,
        run_at=None,
        started_at=None,
        finished_at=None,
        progress=0.0,
        language=None,
        language_probability=None,
        warnings=(),
        error=None,
        metadata={},
        callback_url=None,
        result_url=None,
    )
    return Event("task", task, number)


async def heard(subscription):
    """The numbers of all that is there, without waiting; None for the end."""
    found = []
    try:
        while True:
            event = await subscription.next(0)
            found.append(event and event.number)
    except TimeoutError:
        return found


def running(test):
    """Run an async test with fresh events."""

    def run():
        asyncio.run(test(Events()))

    run.__name__ = test.__name__
    return run


def nobody_is_left(events):
    return not events._all and not events._by_task


@running
async def test_every_listener_hears_everything_in_order(events):
    with events.subscribe() as one, events.subscribe() as other:
        for number in range(3):
            events.publish(about("a", number))

        assert await heard(one) == await heard(other) == [0, 1, 2]


@running
async def test_a_listener_to_one_task_hears_of_no_other(events):
    with events.subscribe("a") as of_a, events.subscribe("b") as of_b, events.subscribe() as of_all:
        events.publish(about("a", 1))
        events.publish(about("b", 2))
        events.publish(about("c", 3))

        assert await heard(of_a) == [1]
        assert await heard(of_b) == [2]
        assert await heard(of_all) == [1, 2, 3]


@running
async def test_nothing_is_heard_from_before_or_after_the_subscription(events):
    events.publish(about("a", 1))
    with events.subscribe("a") as subscription:
        events.publish(about("a", 2))
    events.publish(about("a", 3))

    assert await heard(subscription) == [2]


@pytest.mark.parametrize("task_id", [None, "a"])
def test_a_slow_listener_gets_its_backlog_and_then_the_end_while_others_go_on(task_id):
    async def test(events):
        with events.subscribe(task_id) as slow, events.subscribe(task_id) as quick:
            seen = []
            for number in range(BACKLOG + 5):
                events.publish(about("a", number))
                seen += await heard(quick)

            assert seen == list(range(BACKLOG + 5))
            assert [event.number async for event in slow] == list(range(BACKLOG))
            assert (slow.fell_behind, quick.fell_behind) == (True, False)

    running(test)()


@running
async def test_a_listener_that_was_dropped_keeps_no_more_than_its_backlog(events):
    with events.subscribe("a") as slow:
        for number in range(10 * BACKLOG):
            events.publish(about("a", number))

        assert await heard(slow) == [*range(BACKLOG), None]
        assert nobody_is_left(events)


@running
async def test_a_busy_task_does_not_cost_the_listeners_of_another_their_backlog(events):
    with events.subscribe("b") as quiet:
        for number in range(2 * BACKLOG):
            events.publish(about("a", number))
        events.publish(about("b", 7))

        assert await heard(quiet) == [7]
        assert not quiet.fell_behind


@running
async def test_a_listener_to_one_task_costs_a_publication_on_another_nothing(events):
    asked = []

    def count(frame, event, arg):
        if event == "call" and frame.f_code.co_name == "offer":
            asked.append(frame)

    with ExitStack() as listening:
        for number in range(100):
            listening.enter_context(events.subscribe(f"other {number}"))
        listening.enter_context(events.subscribe("a"))
        sys.setprofile(count)
        events.publish(about("a"))
        sys.setprofile(None)

    assert len(asked) == 1


@running
async def test_who_named_a_few_tasks_costs_a_publication_on_another_nothing(events):
    asked = []

    def asks(event):
        asked.append(event.number)
        return True

    with ExitStack() as listening:
        for number in range(100):
            events.narrow(listening.enter_context(events.subscribe(wants=asks)), {f"other {number}"})
        events.publish(about("a", 1))
        events.publish(about("other 7", 2))

        assert asked == [2]
    assert nobody_is_left(events)


@pytest.mark.parametrize("many", [2, FEW, FEW + 1])
def test_who_named_some_tasks_hears_of_each_once_and_of_what_looks_through_it(many):
    async def test(events):
        named = {f"t{number}" for number in range(many)}
        look = about("look", 3)
        look = Event("task", replace(look.task, transcript="t1"), 3)
        both = Event("task", replace(look.task, id="t0"), 4)  # found by either name
        with events.subscribe(wants=lambda event: {event.task.id, event.task.transcript} & named) as choosy:
            events.narrow(choosy, {"t0"})
            events.narrow(choosy, named)
            for event in (about("t0", 1), about("t1", 2), look, both, about("another", 5)):
                events.publish(event)

            assert await heard(choosy) == [1, 2, 3, 4]
        assert nobody_is_left(events)

    running(test)()


@running
async def test_who_fell_behind_and_then_names_tasks_hears_no_more(events):
    with events.subscribe() as slow:
        for number in range(BACKLOG + 1):
            events.publish(about("a", number))
        events.narrow(slow, {"a"})

        assert nobody_is_left(events)


@running
async def test_what_a_listener_does_not_want_neither_wakes_it_nor_costs_its_backlog(events):
    with events.subscribe(wants=lambda event: event.task.id == "mine") as choosy:
        for number in range(3 * BACKLOG):
            events.publish(about("another", number))
        events.publish(about("mine", 7))

        assert await heard(choosy) == [7]
        assert not choosy.fell_behind


@running
async def test_who_waits_for_ends_is_woken_once_for_each(events):
    """All that is told with the last chunk has the task as it is then: its files were removed three times."""
    running_task, ended = (replace(about("a").task, state=state) for state in ("processing", "completed"))
    with events.subscribe(wants=tells_an_end) as of_ends:
        for kind, task in [
            ("task", running_task), ("segment", ended), ("progress", ended), ("task", ended), ("left", ended),
        ]:  # fmt: skip
            events.publish(Event(kind, task))
        events.close()

        assert [(event.kind, event.task) async for event in of_ends] == [("task", ended)]


@running
async def test_publishing_needs_no_listener_and_waits_for_none(events):
    events.publish(about("a"))
    with events.subscribe() as subscription:
        events.publish(about("a", 1))  # returns although nobody reads

        assert await heard(subscription) == [1]


@running
async def test_a_close_ends_every_stream_after_what_it_had(events):
    with events.subscribe() as of_all, events.subscribe("a") as of_a:
        events.publish(about("a", 1))
        events.close()

        assert [event.number async for event in of_all] == [1]
        assert [event.number async for event in of_a] == [1]
        assert not of_all.fell_behind


@running
async def test_a_close_wakes_a_listener_that_waits(events):
    async def listen():
        return [event.number async for event in subscription]

    with events.subscribe() as subscription:
        listening = asyncio.create_task(listen())
        await asyncio.sleep(0)
        events.close()

        async with asyncio.timeout(1):
            assert await listening == []


@pytest.mark.parametrize("task_id", [None, "a"])
def test_a_stream_opened_after_the_close_ends_at_once(task_id):
    async def test(events):
        events.close()
        with events.subscribe(task_id) as subscription:
            events.publish(about("a", 1))

            assert events.closed
            assert [event async for event in subscription] == []

    running(test)()


@running
async def test_a_wait_for_the_next_event_ends_when_its_seconds_are_over(events):
    with events.subscribe() as subscription:
        with pytest.raises(TimeoutError):
            await subscription.next(0.01)
        events.publish(about("a", 1))

        assert (await subscription.next(0.01)).number == 1


@running
async def test_listeners_leave_nothing_behind_however_they_go(events):
    def subscribe_and_fail():
        with events.subscribe("a"):
            raise KeyError

    for _ in range(3):
        with events.subscribe("a"), events.subscribe("a"), events.subscribe("b"), events.subscribe():
            events.publish(about("a"))
        with pytest.raises(KeyError):
            subscribe_and_fail()

    assert nobody_is_left(events)


@running
async def test_one_listener_leaving_does_not_take_others_of_its_task_along(events):
    with events.subscribe("a") as stays:
        with events.subscribe("a"):
            pass
        events.publish(about("a", 1))

        assert await heard(stays) == [1]


@running
async def test_a_listener_that_has_gone_is_not_kept_in_memory(events):
    with events.subscribe("a") as subscription:
        events.publish(about("a"))
    gone = weakref.ref(subscription)
    del subscription
    async with asyncio.timeout(10):
        while gone() is not None:  # a thread of another test may collect just now
            gc.collect()
            await asyncio.sleep(0.01)


@running
async def test_a_listener_may_leave_or_come_while_an_event_is_published(events):
    """What a publication does to a slow listener must not disturb the round it is in."""
    with events.subscribe() as slow, events.subscribe() as quick:
        for number in range(BACKLOG):
            events.publish(about("a", number))
            await heard(quick)
        events.publish(about("a", BACKLOG))  # drops the slow one

        assert await heard(quick) == [BACKLOG]
        assert slow.fell_behind
