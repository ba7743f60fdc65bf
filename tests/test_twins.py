"""Duplicate work: tasks that must get the same transcript are decoded once, and each is a task of its own."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.conftest import a_task
from whisperd.sql import claims, twins
from whisperd.task import (
    FINAL,
    PLAN,
    Change,
    Cut,
    Limits,
    Options,
    Piece,
    Plan,
    Problem,
    QueueFull,
    Rules,
    Segment,
    State,
    WrongState,
)

HOUR = 3600.0
BOOM = Problem("worker_crashed", "boom")
MODEL = "m"


def a_twin(**fields):
    return a_task(**{"model_sha256": MODEL, **fields})


def a_plan(chunks=2, model=MODEL):
    cuts = tuple(Cut(pieces=(Piece(n * 16_000, (n + 1) * 16_000),)) for n in range(chunks))
    return Plan(
        fingerprint=f"{model}{chunks}",
        cuts=cuts,
        duration=float(chunks),
        language="de",
        warnings=("partial_audio",),
        model_sha256=model,
    )


def said(text):
    return [Segment(start=0, end=1, text=text)]


@pytest.fixture
def with_twins(with_queue):
    def run(body, **rules):
        with_queue(body, **{"cache_seconds": HOUR, **rules})

    return run


async def submitted(queue, **fields):
    task, created = await queue.submit(a_twin(**fields))
    assert created
    return task


async def planned(queue, chunks=2, **fields):
    task = await submitted(queue, **fields)
    await queue.plan(await queue.claim(), a_plan(chunks))
    return task


async def completed(queue, text="hello", **fields):
    await planned(queue, 1, **fields)
    return await queue.finish(await queue.claim(), said(text))


async def text_of(queue, task):
    return " ".join(segment.text for _, segment in await queue.segments(task.id))


async def nothing_to_claim(queue):
    return isinstance(await queue._claim_now(), float)


# --- one that is completed ---


def test_a_twin_of_a_completed_task_is_completed_at_once_with_its_transcript(with_twins, clock):
    async def body(queue):
        first = await completed(queue, "hello")
        clock.now += HOUR - 1
        twin = await submitted(queue, name="other.wav", metadata={"mine": 1}, priority=7)

        assert twin == await queue.get(twin.id)
        assert (twin.state, twin.progress, twin.error) == (State.COMPLETED, 1.0, None)
        assert (twin.started_at, twin.finished_at) == (clock.now, clock.now)
        assert (twin.language, twin.warnings, twin.audio.duration) == (first.language, first.warnings, 1.0)
        assert (twin.audio.name, twin.metadata, twin.priority) == ("other.wav", {"mine": 1}, 7)
        assert list(await queue.segments(twin.id)) == list(await queue.segments(first.id))
        assert await nothing_to_claim(queue)

    with_twins(body)


def test_a_twin_has_the_waveform_of_the_one_it_is_a_copy_of(with_twins):
    async def body(queue):
        first = await submitted(queue)
        follower = await submitted(queue)
        await queue.plan(await queue.claim(), replace(a_plan(1), peaks=b"\x00\xff"))
        await queue.finish(await queue.claim(), said("hello"))
        twin = await submitted(queue)

        for task in (first, follower, twin):
            assert await queue.peaks(task.id) == b"\x00\xff"

    with_twins(body)


def test_a_transcript_serves_no_twin_once_it_is_too_old_however_often_it_was_copied(with_twins, clock):
    async def body(queue):
        await completed(queue)
        clock.now += HOUR / 2
        assert (await submitted(queue)).state == State.COMPLETED
        clock.now += HOUR / 2

        assert (await submitted(queue)).state == State.QUEUED

    with_twins(body)


OTHERS = [
    {"tenant": "other"},
    {"model_sha256": "replaced since"},
    {"model_sha256": None},
    {"audio": replace(a_task().audio, sha256="1" * 64)},
    {"options": Options(language="de")},
    {"options": Options(translate=True)},
    {"options": Options(prompt="Hum")},
    {"options": Options(temperature=0.2)},
    {"options": Options(beam_size=1)},
    {"options": Options(word_timestamps=True)},
    {"options": Options(vad=False)},
    {"options": Options(channels="split")},
    {"options": Options(detect_only=True)},
]


by_what = pytest.mark.parametrize("other", OTHERS, ids=lambda other: " ".join(map(str, other.values()))[-40:])


@by_what
def test_a_task_that_is_no_twin_of_a_completed_one_is_decoded(with_twins, other):
    async def body(queue):
        await completed(queue)
        different = await submitted(queue, **other)

        assert (await queue.claim()).task.id == different.id

    with_twins(body)


@by_what
def test_tasks_that_are_no_twins_are_decoded_beside_each_other(with_twins, other):
    async def body(queue):
        tasks = [await submitted(queue), await submitted(queue, **other)]

        assert {(await queue.claim()).task.id for _ in range(2)} == {task.id for task in tasks}

    with_twins(body)


def test_no_option_is_left_out_of_what_is_compared():
    options = [other["options"] for other in OTHERS if "options" in other]
    changed = {
        name
        for o in options
        for name in Options.__struct_fields__
        if getattr(o, name) != getattr(Options(), name)
    }

    assert changed == set(Options.__struct_fields__)


def test_who_is_served_by_a_twin_is_served_by_a_full_queue_too(with_twins):
    async def body(queue):
        await completed(queue)
        await queue.submit(a_task())

        assert (await submitted(queue)).state == State.COMPLETED
        with pytest.raises(QueueFull):
            await queue.submit(a_twin(tenant="other"))

    with_twins(body, max_queued=1)


def test_an_idempotency_key_goes_first(with_twins):
    async def body(queue):
        first = await submitted(queue, idempotency_key="k", body_sha256="x")
        again, created = await queue.submit(a_twin(idempotency_key="k", body_sha256="x"))

        assert (again.id, created) == (first.id, False)

    with_twins(body)


def test_nothing_is_shared_where_it_is_switched_off(with_twins):
    async def body(queue):
        await completed(queue)
        await submitted(queue)
        await submitted(queue)

        assert len({(await queue.claim()).task.id for _ in range(2)}) == 2

    with_twins(body, cache_seconds=None)


def test_without_a_lifetime_only_what_is_not_over_is_shared(with_twins):
    async def body(queue):
        await completed(queue)
        await submitted(queue)
        await submitted(queue)

        await queue.claim()
        assert await nothing_to_claim(queue)

    with_twins(body, cache_seconds=0.0)


def test_what_was_switched_off_meanwhile_is_not_taken_up_again_by_a_retry(with_twins):
    async def body(queue):
        first = await submitted(queue)
        await queue.cancel(first.id)
        await submitted(queue)
        queue.reload(Rules(cache_seconds=None))
        await queue.retry(first.id)

        assert len({(await queue.claim()).task.id for _ in range(2)}) == 2

    with_twins(body)


# --- one that is not over ---


def test_twins_are_decoded_once_and_completed_together(with_twins, clock):
    async def body(queue):
        first = await submitted(queue)
        twins = [await submitted(queue, name=f"{n}.wav") for n in range(3)]
        await queue.plan(await queue.claim(), a_plan(1))
        chunk = await queue.claim()
        assert await nothing_to_claim(queue)
        clock.now += 5
        done = await queue.finish(chunk, said("once"))

        assert (done.id, done.state) == (first.id, State.COMPLETED)
        for twin in [await queue.get(twin.id) for twin in twins]:
            assert (twin.state, twin.progress, twin.finished_at) == (State.COMPLETED, 1.0, clock.now)
            assert await text_of(queue, twin) == "once"
        assert await nothing_to_claim(queue)

    with_twins(body)


def test_a_task_is_followed_by_so_many_and_the_others_are_decoded_by_themselves(with_twins, monkeypatch):
    monkeypatch.setattr(twins, "MOST_FOLLOWERS", 2)

    async def body(queue):
        first, *followers, other = [await planned(queue, 1), *[await submitted(queue) for _ in range(3)]]
        later = await submitted(queue, run_at=1_000_001.0)
        await queue.change(later.id, Change(run_at=0.0))
        claimed = {(chunk := await queue.claim()).task.id: chunk for _ in range(3)}
        await queue.finish(claimed[first.id], said("once"))
        states = [(await queue.get(task.id)).state for task in [first, *followers, other, later]]

        assert claimed.keys() == {first.id, other.id, later.id}
        assert states == [State.COMPLETED] * 3 + [State.PROCESSING] * 2

    with_twins(body)


def test_only_what_was_decoded_counts_as_speed(with_twins):
    async def body(queue):
        await planned(queue, 1)
        await submitted(queue)
        await queue.finish(await queue.claim(), said("once"))
        await submitted(queue)
        finished = (await queue.stats()).finished

        assert sorted(seconds for _, seconds in finished) == [0, 0, 1.0]

    with_twins(body)


def test_a_transcript_so_far_of_a_twin_is_settled_as_far_as_that_of_the_one_it_follows(with_twins):
    async def body(queue):
        first = await planned(queue)
        twin = await submitted(queue)
        await queue.finish(await queue.claim(), said("hello"))

        assert await queue.settled(first.id) == await queue.settled(twin.id) == 1.0

    with_twins(body)


def test_a_task_without_speech_completes_its_twins_too(with_twins):
    async def body(queue):
        await submitted(queue)
        twin = await submitted(queue)
        await queue.plan(await queue.claim(), a_plan(0))

        assert (await queue.get(twin.id)).state == State.COMPLETED

    with_twins(body)


def test_whoever_follows_a_twin_hears_its_segments_and_its_own_end(with_twins):
    async def body(queue):
        await planned(queue)
        twin = await submitted(queue)
        with queue._events.subscribe(twin.id) as told:
            for text in ("one", "two"):
                await queue.finish(await queue.claim(), said(text))
                assert (await text_of(queue, twin)).endswith(text)  # also before it is over
            heard = [await told.next(1) for _ in range(5)]

        kinds = [event.kind for event in heard]
        assert kinds == ["segment", "progress", "segment", "progress", "task"]
        assert [event.task.progress for event in heard] == [0.5, 0.5, 1.0, 1.0, 1.0]
        assert heard[-1].task.state == State.COMPLETED

    with_twins(body)


@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_a_twin_stands_in_line_for_the_one_it_follows(with_twins, order):
    """Else an urgent task would wait behind all that its twin waits behind."""

    async def body(queue):
        first = await submitted(queue, priority=-5)
        other, _ = await queue.submit(a_task())
        twin = await submitted(queue, priority=3)
        assert await queue.positions([twin, other, first]) == [1, 2, 3]

        assert (await queue.claim()).task.id == first.id
        assert await queue.positions([twin, other]) == [None, 1]  # nothing of it waits any more

    with_twins(body, order=order)


def test_of_the_same_priority_the_newest_twin_brings_the_oldest_to_the_front(with_twins):
    async def body(queue):
        first = await submitted(queue)
        for _ in range(3):
            await queue.submit(a_task())
        twin = await submitted(queue)

        assert (await queue.claim()).task.id == first.id
        assert (await queue.get(twin.id)).state == State.QUEUED

    with_twins(body)


def test_a_twin_can_be_made_more_urgent_while_it_follows(with_twins):
    async def body(queue):
        first = await submitted(queue)
        twin = await submitted(queue)
        other, _ = await queue.submit(a_task(priority=5))
        await queue.change(twin.id, Change(priority=6))

        assert (await queue.claim()).task.id == first.id
        assert (await queue.claim()).task.id == other.id
        assert (await queue.get(first.id)).priority == 0

    with_twins(body)


def test_a_twin_takes_none_of_its_tenants_slots(with_twins):
    async def body(queue):
        await planned(queue)
        await submitted(queue)
        await queue.claim()

        assert (await queue.stats()).by_state["processing"] == 1
        assert not await nothing_to_claim(queue)  # the second chunk of the first

    with_twins(body, limits=lambda tenant, plan: Limits(concurrent=1))


def test_a_tenant_whose_twins_wait_for_their_leader_goes_on_with_its_other_tasks(with_twins):
    async def body(queue):
        await queue.submit(a_task(tenant="blocked"))
        await queue.claim()
        await queue.submit(a_task(tenant="blocked", priority=9))
        await submitted(queue, tenant="free", priority=5)
        await submitted(queue, tenant="free", priority=7)
        await queue.claim()
        other, _ = await queue.submit(a_task(tenant="free"))

        assert (await queue.claim()).task.id == other.id

    with_twins(body, limits=lambda tenant, plan: Limits(concurrent=int(tenant == "blocked")))


# --- when the one that leads ends otherwise ---


async def failed_for_good(queue, task, chunk):
    return await queue.fail(chunk, BOOM, final=True)


async def cancelled(queue, task, chunk):
    return await queue.cancel(task.id)


async def delayed(queue, task, chunk):
    await queue.release(chunk)
    return await queue.change(task.id, Change(run_at=2_000_000.0))


@pytest.mark.parametrize("ends", [failed_for_good, cancelled, delayed])
def test_a_twin_goes_on_where_the_one_it_followed_stopped(with_twins, ends):
    async def body(queue):
        first = await planned(queue, 3)
        heir = await submitted(queue, max_retries=9)
        third = await submitted(queue)
        await queue.finish(await queue.claim(), said("one"))
        gone = await ends(queue, first, await queue.claim())
        assert (await text_of(queue, heir), await text_of(queue, third)) == ("one", "one")

        plan = await queue.claim()
        assert (plan.task.id, plan.number) == (heir.id, PLAN)  # its own audio is decoded
        await queue.plan(plan, a_plan(3))
        for number in (2, 3):
            chunk = await queue.claim()
            assert (chunk.task.id, chunk.number, chunk.failures) == (heir.id, number, 0)
            await queue.finish(chunk, said(str(number)))
        for task in (heir, third):
            assert (await queue.get(task.id)).state == State.COMPLETED
            assert await text_of(queue, task) == "one 2 3"
        assert (await queue.get(first.id)).state == gone.state

    with_twins(body)


def test_a_twin_that_is_cancelled_disturbs_no_other(with_twins):
    async def body(queue):
        first, twin, third = [await submitted(queue) for _ in range(3)]
        assert (await queue.cancel(twin.id)).state == State.CANCELLED
        await queue.plan(await queue.claim(), a_plan(0))

        states = [(await queue.get(task.id)).state for task in (first, twin, third)]
        assert states == [State.COMPLETED, State.CANCELLED, State.COMPLETED]
        with pytest.raises(WrongState):
            await queue.cancel(first.id)
        assert (await queue.retry(twin.id)).state == State.COMPLETED  # as the twin it is

    with_twins(body)


def test_a_cancelled_task_that_runs_again_follows_its_heir(with_twins):
    async def body(queue):
        first = await submitted(queue)
        heir = await submitted(queue)
        await queue.cancel(first.id)
        assert (await queue.retry(first.id)).state == State.QUEUED

        assert (await queue.claim()).task.id == heir.id
        assert await nothing_to_claim(queue)

    with_twins(body)


def test_twins_wait_with_the_one_they_follow_for_its_next_attempt(with_twins, clock):
    async def body(queue):
        first = await submitted(queue)
        twin = await submitted(queue)
        await queue.fail(await queue.claim(), BOOM)
        assert await nothing_to_claim(queue)
        assert (await queue.get(twin.id)).run_at is None
        clock.now += 100

        assert (await queue.claim()).task.id == first.id

    with_twins(body, retry_delay_seconds=10.0)


def test_a_twin_with_a_start_of_its_own_waits_for_it_alone(with_twins, clock):
    async def body(queue):
        later = await submitted(queue, run_at=clock.now + 50)
        first = await submitted(queue)
        also_later = await submitted(queue)
        await queue.change(also_later.id, Change(run_at=clock.now + 20))
        await queue.plan(await queue.claim(), a_plan(0))
        states = [(await queue.get(task.id)).state for task in (later, first, also_later)]
        assert states == [State.QUEUED, State.COMPLETED, State.QUEUED]
        with queue._events.subscribe() as told:
            clock.now += 60
            assert await nothing_to_claim(queue)  # but both have come into line

            heard = [(await told.next(1)).task for _ in range(2)]
        assert [task.id for task in heard] == [also_later.id, later.id]
        assert {task.state for task in heard} == {State.COMPLETED}

    with_twins(body)


def test_twins_that_are_due_at_one_moment_are_decoded_once(with_twins, clock):
    async def body(queue):
        twins = [await submitted(queue, run_at=clock.now + 50) for _ in range(3)]
        clock.now += 50
        await queue.plan(await queue.claim(), a_plan(0))

        assert {(await queue.get(twin.id)).state for twin in twins} == {State.COMPLETED}

    with_twins(body)


def test_tasks_that_are_due_at_one_moment_come_into_line_some_at_a_time_and_then_run_in_order(
    with_twins, clock, monkeypatch
):
    monkeypatch.setattr(claims, "MOST_DUE", 2)

    async def body(queue):
        sounds = [replace(a_task().audio, sha256=str(n) * 64) for n in range(5)]
        tasks = [
            await submitted(queue, audio=sound, run_at=clock() + 5, priority=n)
            for n, sound in enumerate(sounds)
        ]
        clock.now += 5
        claimed = [(await queue.claim()).task.id for _ in tasks]

        assert claimed == [task.id for task in reversed(tasks)]
        assert await nothing_to_claim(queue)

    with_twins(body)


def test_tasks_that_are_due_and_the_twins_of_none_come_into_line_some_at_a_time_too(
    with_queue, clock, monkeypatch
):
    monkeypatch.setattr(claims, "MOST_DUE", 2)

    async def body(queue):
        for _ in range(5):
            await queue.submit(a_task(run_at=clock() + 5))
        clock.now += 5
        found, _ = await queue._db.write(claims.take, Rules(), clock())

        assert found == 0.0  # there is more
        assert (await queue.stats()).delayed == 3

    with_queue(body)


def test_a_delayed_twin_that_is_called_into_line_is_served_at_once(with_twins, clock):
    async def body(queue):
        later = await submitted(queue, run_at=clock.now + 50)
        await completed(queue)

        assert (await queue.change(later.id, Change(run_at=clock.now))).state == State.COMPLETED

    with_twins(body)


# --- the model file is replaced ---


def test_the_model_file_is_looked_at_with_each_submission(with_twins):
    async def body(queue):
        sha256 = {"tiny.en": MODEL}

        async def look(name):
            return sha256.get(name)

        queue._model_sha256 = look
        states = []
        for _ in range(2):
            states.append((await queue.submit(a_task()))[0].state)
            if states[-1] == State.QUEUED:
                await queue.plan(await queue.claim(), a_plan(0))
        sha256["tiny.en"] = "replaced"
        states.append((await queue.submit(a_task()))[0].state)
        sha256.clear()  # and it is not known what by
        states.append((await queue.submit(a_task()))[0].state)

        assert states == [State.QUEUED, State.COMPLETED, State.QUEUED, State.QUEUED]
        assert len({(await queue.claim()).task.id for _ in range(2)}) == 2

    with_twins(body)


def test_the_transcript_of_a_model_that_came_since_is_no_twins_to_come(with_twins):
    async def body(queue):
        first = await submitted(queue)
        twin = await submitted(queue)
        await queue.plan(await queue.claim(), a_plan(1, model="new"))
        new_one = await submitted(queue)  # for the model as it was: it may be back
        assert (await queue.claim()).task.id == new_one.id
        await queue.finish(await queue.claim(), said("by the new model"))
        assert (await queue.get(first.id)).state == State.COMPLETED
        assert await text_of(queue, twin) == "by the new model"  # as it would have been alone

        assert (await submitted(queue)).state == State.QUEUED

    with_twins(body)


def test_heirs_of_two_leaders_find_each_other(with_twins):
    async def body(queue):
        first, second = [await submitted(queue) for _ in range(2)]
        await queue.plan(await queue.claim(), a_plan(1, model="new"))
        third, fourth = [await submitted(queue) for _ in range(2)]
        await queue.cancel(first.id)  # the second follows it, but the third leads already
        await queue.plan(await queue.claim(), a_plan(0))

        states = [(await queue.get(task.id)).state for task in (second, third, fourth)]
        assert set(states) == {State.COMPLETED}

    with_twins(body)


# --- crashes, leases, retention ---


def test_nobody_strands_when_the_daemon_dies_over_and_over(with_twins):
    """The file takes the daemon down each time; each task has its own attempts, and all of them end."""
    ids = []

    async def begin(queue):
        ids.extend([(await submitted(queue, max_retries=1)).id for _ in range(3)])
        await queue.claim()

    async def come_back(queue):
        await queue.recover()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await queue.claim()

    async def look(queue):
        assert [(await queue.get(task_id)).state for task_id in ids] == [State.FAILED] * 3
        assert {(await queue.get(task_id)).error.code for task_id in ids} == {"interrupted"}

    with_twins(begin)
    for _ in range(6):
        with_twins(come_back)
    with_twins(look)


def test_what_was_led_by_a_dead_worker_is_taken_over_after_its_lease(with_twins, clock):
    async def body(queue):
        first = await submitted(queue, max_retries=0)
        heir = await submitted(queue)
        await queue.claim()
        clock.now += 100
        await queue.sweep(clock.now)
        assert (await queue.get(first.id)).state == State.FAILED

        assert (await queue.claim()).task.id == heir.id

    with_twins(body)


def test_an_orderly_stop_leaves_leader_and_twins_in_line(with_twins):
    async def stop(queue):
        await planned(queue, 2)
        await submitted(queue)
        await queue.finish(await queue.claim(), said("one"))
        await queue.claim()
        await queue.release_all()

    async def go_on(queue):
        await queue.recover()
        await queue.finish(await queue.claim(), said("two"))
        states = (await queue.stats()).by_state
        assert (states["completed"], sum(states.values())) == (2, 2)

    with_twins(stop)
    with_twins(go_on)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.test_twins import a_plan, planned, said, submitted
from whisperd.db import Database
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.sql import line
from whisperd.task import Rules

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with Database(Path(sys.argv[1])) as db:
        queue = SqliteQueue(db, Events(), Rules(cache_seconds=1e9))
        first = await planned(queue, 1)
        for _ in range(2):
            await submitted(queue)
        chunk = await queue.claim()
        setattr(line, sys.argv[2], die)
        await (queue.finish(chunk, said("hello")) if sys.argv[2] == "copy" else queue.cancel(first.id))

asyncio.run(main())
"""


@pytest.mark.parametrize("where", ["copy", "_heir"])
def test_killed_while_twins_are_served_each_is_served_after_the_restart(with_twins, tmp_path, where):
    killed = subprocess.run(
        [sys.executable, "-P", "-c", KILLED, tmp_path / "q.db", where],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},  # for what it imports of the tests
    )
    assert killed.returncode == -signal.SIGKILL

    async def body(queue):
        await queue.recover()
        while (await queue.stats()).by_state["completed"] < 3:
            chunk = await queue.claim()
            verb = queue.plan(chunk, a_plan(1)) if chunk.number == PLAN else queue.finish(chunk, said("x"))
            await verb

        assert await nothing_to_claim(queue)

    with_twins(body)


def test_the_first_of_twins_can_be_cleared_away_and_the_others_stay(with_twins, clock):
    async def body(queue):
        first = await completed(queue)
        twin = await submitted(queue)
        clock.now += 10
        await queue.submit(a_task())
        gone = await queue.clear(FINAL, clock.now, limit=1)
        assert list(gone) == [first.id]

        assert await text_of(queue, twin) == "hello"
        assert (await submitted(queue)).state == State.QUEUED  # a copy serves nobody

    with_twins(body)
