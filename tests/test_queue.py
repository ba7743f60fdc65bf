"""The queue's contract. Written against the protocol, so that a second adapter can run it too."""

import asyncio

import pytest
from msgspec.structs import replace

from tests.conftest import a_task
from whisperd.task import (
    PLAN,
    Change,
    Cut,
    IdempotencyConflict,
    Limits,
    ListQuery,
    LostClaim,
    Mark,
    Options,
    Piece,
    Plan,
    Problem,
    QueueFull,
    Rules,
    Segment,
    State,
    StorageBusy,
    TaskNotFound,
    WrongState,
)

BOOM = Problem("worker_crashed", "boom")
SECOND = 16_000  # samples


async def nothing_to_claim(queue):
    try:
        async with asyncio.timeout(0.05):
            await queue.claim()
    except TimeoutError:
        return True
    return False


def a_plan(chunks=2, fingerprint="f", seconds=10):
    cuts = tuple(Cut(pieces=(Piece(n * 10 * SECOND, (n * 10 + seconds) * SECOND),)) for n in range(chunks))
    return Plan(
        fingerprint=fingerprint, cuts=cuts, duration=10.0 * chunks, language="en", heard_by=f"x {fingerprint}"
    )


def said(text, start=0.0):
    return [Segment(start=start, end=start + 1, text=text)]


async def planned(queue, chunks=2, **fields):
    """A submitted task whose plan is made."""
    task, _ = await queue.submit(a_task(**fields))
    chunk = await queue.claim()
    assert (chunk.task.id, chunk.number) == (task.id, PLAN)
    return await queue.plan(chunk, a_plan(chunks))


async def completed(queue, **fields):
    task = await planned(queue, 1, **fields)
    return await queue.finish(await queue.claim(), said(task.audio.name))


# --- submit ---


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"run_at": 1e12, "timeout_seconds": 60.0, "max_retries": 0},
        {"run_at": 1.0},  # which is over: it is in line
        {"priority": -7, "tenant": "clinic", "options": Options(language="de", temperature=0.5)},
        {"metadata": {"case": [1, None, {"ü": True}]}, "callback_url": "http://a/", "result_url": "s3://b/c"},
    ],
)
def test_a_submit_returns_what_is_read_of_the_task(with_queue, fields):
    async def body(queue):
        task, new = await queue.submit(a_task(**fields))

        assert new
        assert task == await queue.get(task.id)

    with_queue(body)


# --- order ---


@pytest.mark.parametrize(("order", "expected"), [("lifo", ["a", "c", "b"]), ("fifo", ["a", "b", "c"])])
def test_claims_the_highest_priority_first_then_by_the_configured_order(with_queue, order, expected):
    async def body(queue):
        for name, priority in [("b", 0), ("a", 5), ("c", 0)]:
            await queue.submit(a_task(name, priority=priority))

        assert [(await queue.claim()).task.audio.name for _ in range(3)] == expected
        assert await nothing_to_claim(queue)

    with_queue(body, order=order)


@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_an_urgent_task_overtakes_a_long_one_at_the_next_chunk(with_queue, order):
    async def body(queue):
        long = await planned(queue, 5)
        first = await queue.claim()
        urgent, _ = await queue.submit(a_task(priority=10))
        await queue.finish(first, said("one"))

        assert (await queue.claim()).task.id == urgent.id
        assert (await queue.claim()).number == 2
        assert (await queue.get(long.id)).state == State.PROCESSING

    with_queue(body, order=order)


def test_the_chunks_of_one_task_go_to_all_workers_in_order_of_time(with_queue):
    async def body(queue):
        await planned(queue, 3)

        assert [(await queue.claim()).number for _ in range(3)] == [1, 2, 3]
        assert await nothing_to_claim(queue)

    with_queue(body)


def test_a_task_with_a_time_to_run_is_not_claimed_before_it(with_queue, clock):
    async def body(queue):
        task, _ = await queue.submit(a_task(run_at=clock.now + 60))
        assert await nothing_to_claim(queue)
        assert await queue.positions([task]) == [None]
        clock.now += 60

        assert (await queue.claim()).task.id == task.id

    with_queue(body)


def test_a_tenant_at_its_limit_waits_while_others_and_its_started_tasks_go_on(with_queue):
    async def body(queue):
        started = await planned(queue, 2, tenant="a", priority=1)
        blocked, _ = await queue.submit(a_task(tenant="a", priority=9))
        other, _ = await queue.submit(a_task(tenant="b"))

        assert [(await queue.claim()).task.id for _ in range(3)] == [started.id, started.id, other.id]
        assert await nothing_to_claim(queue)
        await queue.cancel(started.id)
        assert (await queue.claim()).task.id == blocked.id

    with_queue(body, limits=lambda tenant, plan: Limits(concurrent={"a": 1}.get(tenant, 0)))


# --- the life of a task ---


def test_a_task_without_speech_is_completed_by_its_plan(with_queue):
    async def body(queue):
        task = await planned(queue, 0)

        assert (task.state, task.progress, task.audio.duration) == (State.COMPLETED, 1.0, 0.0)
        assert list(await queue.segments(task.id)) == []

    with_queue(body)


@pytest.mark.parametrize("probability", [None, 0.0, 0.9312, 1.0])
def test_how_sure_the_vote_about_the_language_was_stays_with_the_task(with_queue, probability):
    async def body(queue):
        plan = replace(a_plan(0), language="de", language_probability=probability)
        await queue.submit(a_task(options=Options(detect_only=True)))
        task = await queue.plan(await queue.claim(), plan)

        assert (task.state, task.language, task.language_probability) == (State.COMPLETED, "de", probability)
        assert (await queue.get(task.id)) == task
        assert task.options.detect_only

    with_queue(body)


def test_the_last_chunk_completes_the_task_whatever_the_order_of_the_finishes(with_queue):
    async def body(queue):
        task = await planned(queue, 3)
        chunks = [await queue.claim() for _ in range(3)]
        states = [(await queue.finish(c, said(f"{c.number}", c.number * 10.0))).state for c in chunks[::-1]]

        assert states == [State.PROCESSING, State.PROCESSING, State.COMPLETED]
        assert [s.text for _, s in await queue.segments(task.id)] == ["1", "2", "3"]

    with_queue(body)


def test_segments_are_told_in_order_and_from_any_mark_on(with_queue):
    async def body(queue):
        task = await planned(queue, 2)
        first, second = await queue.claim(), await queue.claim()
        await queue.finish(second, said("world", 10.0))
        assert list(await queue.segments(task.id)) == []  # what comes before it is not there yet
        await queue.finish(first, [*said("hello"), *said("there", 2.0)])

        marks = [mark for mark, _ in await queue.segments(task.id)]
        assert marks == [Mark(1, 1), Mark(1, 2), Mark(2, 1)]
        assert [s.text for _, s in await queue.segments(task.id, Mark(1, 1))] == ["there", "world"]

    with_queue(body)


def test_progress_is_read_off_the_finished_chunks(with_queue):
    async def body(queue):
        task = await planned(queue, 4)
        assert task.progress == 0
        chunks = [await queue.claim() for _ in range(3)]
        progress = [(await queue.finish(chunk, [])).progress for chunk in chunks]
        assert progress == [0.25, 0.5, 0.75]

        await queue.cancel(task.id)
        await queue.retry(task.id)
        replanned = await queue.plan(await queue.claim(), a_plan(4, fingerprint="other"))
        assert replanned.progress == 0  # another plan: nothing of it is done

    with_queue(body)


def test_a_failed_chunk_waits_longer_each_time_and_then_fails_its_task_for_good(with_queue, clock):
    async def body(queue):
        task = await planned(queue, 1, max_retries=2)
        for attempt, delay in [(2, 10.0), (3, 20.0)]:
            failed = await queue.fail(await queue.claim(), BOOM)
            assert (failed.state, failed.attempt, failed.error) == (State.QUEUED, attempt, BOOM)
            assert 0.75 * delay <= failed.run_at - clock.now <= delay
            assert await nothing_to_claim(queue)
            clock.now = failed.run_at

        task = await queue.fail(await queue.claim(), BOOM)
        assert (task.state, task.error, task.finished_at) == (State.FAILED, BOOM, clock.now)

    with_queue(body, retry_delay_seconds=10)


def test_failures_are_counted_by_chunk_so_that_a_long_task_survives_many(with_queue, clock):
    async def body(queue):
        task = await planned(queue, 4, max_retries=1)
        for _ in range(4):
            clock.now = (await queue.fail(await queue.claim(), BOOM)).run_at
            task = await queue.finish(await queue.claim(), said("x"))

        assert task.state == State.COMPLETED
        assert task.error is None

    with_queue(body)


def test_a_chunk_may_fail_while_others_of_its_task_run_on(with_queue, clock):
    async def body(queue):
        await planned(queue, 3)
        first, second = await queue.claim(), await queue.claim()
        failed = await queue.fail(first, BOOM)
        assert failed.state == State.PROCESSING
        assert await nothing_to_claim(queue)  # the whole task pauses until the next attempt

        task = await queue.finish(second, said("two"))
        assert task.state == State.QUEUED
        clock.now = task.run_at
        assert (await queue.claim()).number == 1

    with_queue(body)


def test_a_final_failure_takes_the_other_chunks_from_their_holders(with_queue):
    async def body(queue):
        await planned(queue, 2)
        first, second = await queue.claim(), await queue.claim()
        task = await queue.fail(first, BOOM, final=True)

        assert task.state == State.FAILED
        with pytest.raises(LostClaim):
            await queue.finish(second, said("late"))

    with_queue(body)


def test_a_release_is_not_a_failure(with_queue):
    async def body(queue):
        await queue.submit(a_task())
        task = await queue.release(await queue.claim())

        assert (task.state, task.attempt, task.error) == (State.QUEUED, 1, None)
        again = await queue.claim()
        assert (again.failures, again.claims) == (0, 2)

    with_queue(body)


def test_lost_pcm_makes_the_plan_again_and_keeps_the_finished_chunks(with_queue):
    async def body(queue):
        task = await planned(queue, 3)
        await queue.finish(await queue.claim(), said("one"))
        await queue.replan(await queue.claim())

        again = await queue.claim()
        assert again.number == PLAN
        assert await nothing_to_claim(queue)
        await queue.plan(again, a_plan(3))
        assert [(await queue.claim()).number for _ in range(2)] == [2, 3]
        assert [s.text for _, s in await queue.segments(task.id)] == ["one"]

    with_queue(body)


def test_another_plan_throws_the_old_chunks_away_even_from_their_holders(with_queue):
    async def body(queue):
        task = await planned(queue, 3)
        await queue.finish(await queue.claim(), said("one"))
        held = await queue.claim()
        await queue.replan(await queue.claim())
        task = await queue.plan(await queue.claim(), a_plan(2, fingerprint="other"))

        with pytest.raises(LostClaim):
            await queue.finish(held, said("old"))
        assert [(await queue.claim()).number for _ in range(2)] == [1, 2]
        assert list(await queue.segments(task.id)) == []

    with_queue(body)


def test_a_chunk_says_what_its_plan_is_to_be_transcribed_with(with_queue):
    async def body(queue):
        await planned(queue, 3)
        held = await queue.claim()
        await queue.replan(await queue.claim())
        again = await queue.claim()
        await queue.plan(again, a_plan(2, fingerprint="other"))

        assert (held.heard_by, (await queue.claim()).heard_by) == ("x f", "x other")

    with_queue(body)


# --- ownership ---


# Every way to lose a chunk against every verb that needs it.
@pytest.mark.parametrize("verb", ["finish", "fail", "release", "beat", "replan"])
@pytest.mark.parametrize("how", ["released", "finished", "cancelled", "failed", "claimed again", "pruned"])
def test_a_worker_that_lost_its_chunk_changes_nothing(with_queue, clock, how, verb):
    async def body(queue):
        task = await planned(queue, 1)
        stale = await queue.claim()
        match how:
            case "released":
                await queue.release(stale)
            case "finished":
                await queue.finish(stale, said("done"))
            case "cancelled":
                await queue.cancel(task.id)
            case "failed":
                await queue.fail(stale, BOOM, final=True)
            case "claimed again":
                await queue.sweep(older_than=clock.now + 1)
                clock.now += 10
                await queue.claim()
            case "pruned":
                await queue.cancel(task.id)
                await queue.prune(clock.now + 1, clock.now + 1)
        before = await queue.list(ListQuery())
        args = {"finish": [said("late")], "fail": [BOOM], "beat": [], "release": [], "replan": []}[verb]

        with pytest.raises(LostClaim):
            await getattr(queue, verb)(stale, *args)

        assert before == await queue.list(ListQuery())

    with_queue(body)


def test_a_sweep_takes_only_what_stopped_beating(with_queue, clock):
    async def body(queue):
        await planned(queue, 2)
        silent, beating = await queue.claim(), await queue.claim()
        clock.now += 100
        await queue.beat(beating)
        (swept,) = await queue.sweep(older_than=clock.now - 50)

        assert (swept.attempt, swept.error.code) == (2, "worker_lost")
        with pytest.raises(LostClaim):
            await queue.finish(silent, said("late"))
        await queue.finish(beating, said("in time"))

    with_queue(body)


def test_a_sweep_leaves_what_is_held_for_certain_though_the_clock_jumped_a_day(with_queue, clock):
    async def body(queue):
        await planned(queue, 2)
        held, lost = await queue.claim(), await queue.claim()
        clock.now += 86_400
        await queue.sweep(clock.now - 120, [held])

        await queue.finish(held, said("in time"))
        with pytest.raises(LostClaim):
            await queue.finish(lost, said("late"))

    with_queue(body)


# --- what anyone may do ---


def test_cancelling_takes_the_chunks_from_their_workers(with_queue):
    async def body(queue):
        task = await planned(queue, 2)
        chunk = await queue.claim()
        cancelled = await queue.cancel(task.id)

        assert cancelled.state == State.CANCELLED
        with pytest.raises(LostClaim):
            await queue.finish(chunk, said("late"))
        assert await nothing_to_claim(queue)

    with_queue(body)


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_a_completed_task_can_be_neither_cancelled_nor_retried(with_queue, verb):
    async def body(queue):
        task = await completed(queue)

        with pytest.raises(WrongState, match="completed"):
            await getattr(queue, verb)(task.id)

    with_queue(body)


def test_a_retry_begins_anew_but_keeps_the_finished_chunks(with_queue):
    async def body(queue):
        task = await planned(queue, 2, max_retries=0)
        await queue.finish(await queue.claim(), said("one"))
        assert (await queue.fail(await queue.claim(), BOOM)).state == State.FAILED
        retried = await queue.retry(task.id)

        assert (retried.state, retried.attempt, retried.error) == (State.QUEUED, 1, None)
        await queue.plan(await queue.claim(), a_plan(2))
        chunk = await queue.claim()
        assert (chunk.number, chunk.failures) == (2, 0)
        assert (await queue.finish(chunk, said("two"))).state == State.COMPLETED

    with_queue(body)


def test_a_queued_task_can_be_changed_and_moves_in_line(with_queue, clock):
    async def body(queue):
        first, _ = await queue.submit(a_task("first"))
        await queue.submit(a_task("second"))
        assert await queue.positions([first]) == [2]
        changed = await queue.change(first.id, Change(priority=7, metadata={"k": 1}))

        assert (changed.priority, changed.metadata) == (7, {"k": 1})
        assert await queue.positions([changed]) == [1]
        delayed = await queue.change(first.id, Change(run_at=clock.now + 5))
        assert await queue.positions([delayed]) == [None]
        await queue.claim()
        assert await nothing_to_claim(queue)

    with_queue(body)


def test_a_task_at_work_cannot_be_changed(with_queue):
    async def body(queue):
        task = await planned(queue, 1)

        with pytest.raises(WrongState, match="processing"):
            await queue.change(task.id, Change(priority=1))

    with_queue(body)


@pytest.mark.parametrize("verb", ["get", "cancel", "retry"])
def test_an_unknown_task_is_not_found(with_queue, verb):
    async def body(queue):
        with pytest.raises(TaskNotFound):
            await getattr(queue, verb)("nobody")

    with_queue(body)


# --- submitting ---


def test_an_idempotency_key_answers_with_its_first_task(with_queue, clock):
    async def body(queue):
        key = {"idempotency_key": "k", "body_sha256": "x"}
        first, created = await queue.submit(a_task(**key))
        again, created_again = await queue.submit(a_task(**key))
        of_another_tenant, _ = await queue.submit(a_task(**key, tenant="other"))

        assert (created, created_again) == (True, False)
        assert again.id == first.id != of_another_tenant.id
        with pytest.raises(IdempotencyConflict):
            await queue.submit(a_task(idempotency_key="k", body_sha256="y"))
        clock.now += 86_401
        assert (await queue.submit(a_task(idempotency_key="k", body_sha256="y")))[1]

    with_queue(body)


def test_concurrent_submissions_of_one_key_make_one_task(with_queue):
    async def body(queue):
        tasks = [a_task(idempotency_key="k", body_sha256="x") for _ in range(50)]
        answers = await asyncio.gather(*(queue.submit(task) for task in tasks))

        assert len({task.id for task, _ in answers}) == 1
        assert [created for _, created in answers].count(True) == 1

    with_queue(body)


def test_a_full_queue_refuses_more(with_queue):
    async def body(queue):
        for _ in range(3):
            await queue.submit(a_task())
        with pytest.raises(QueueFull):
            await queue.submit(a_task())

        await queue.claim()
        await queue.submit(a_task())

    with_queue(body, max_queued=3)


# --- looking ---


def test_lists_are_newest_first_and_turn_pages_without_gaps(with_queue):
    async def body(queue):
        tasks = [(await queue.submit(a_task(f"{n}.wav")))[0] for n in range(5)]
        seen, before = [], None
        while page := await queue.list(ListQuery(limit=2, before=before)):
            seen += [task.id for task in page]
            before = page[-1].seq

        assert seen == [task.id for task in tasks][::-1]

    with_queue(body)


def test_lists_can_be_filtered(with_queue):
    async def body(queue):
        done = await completed(queue, tenant="a")
        waiting, _ = await queue.submit(a_task("other.wav", tenant="b"))

        async def ids(**query):
            return [task.id for task in await queue.list(ListQuery(**query))]

        assert await ids(states=frozenset({State.COMPLETED})) == [done.id]
        assert await ids(states=frozenset({State.COMPLETED, State.QUEUED})) == [waiting.id, done.id]
        assert await ids(tenant="b") == [waiting.id]

    with_queue(body)


def test_stats_count_by_state_and_remember_waits(with_queue, clock):
    async def body(queue):
        await queue.submit(a_task())
        clock.now += 3
        chunk = await queue.claim()
        await queue.plan(chunk, a_plan(0))
        await queue.submit(a_task(run_at=clock.now + 99))
        await queue.submit(a_task())
        stats = await queue.stats()

        assert stats.by_state == {"queued": 2, "processing": 0, "completed": 1, "failed": 0, "cancelled": 0}
        assert stats.delayed == 1
        assert stats.waits == (3.0,)
        assert stats.oldest_queued_at == clock.now

    with_queue(body)


def test_pruning_takes_old_finished_tasks_and_their_chunks_only(with_queue, clock):
    async def body(queue):
        old = await completed(queue)
        clock.now += 100
        new = await completed(queue)
        failed = await planned(queue, 1)
        await queue.fail(await queue.claim(), BOOM, final=True)
        waiting, _ = await queue.submit(a_task())
        clock.now += 100

        assert await queue.prune(clock.now - 150, clock.now - 500) == [old.id]
        kept = await queue.states([old.id, new.id, failed.id, waiting.id])
        assert kept.keys() == {new.id, failed.id, waiting.id}
        orphans = await queue.db.read(
            lambda c: c.execute("select count(*) from chunk where task = 1").fetchone()
        )
        assert orphans[0] == 0

    with_queue(body)


def test_cancelled_tasks_are_kept_as_long_as_completed_ones(with_queue, clock):
    async def body(queue):
        cancelled = await queue.cancel((await queue.submit(a_task()))[0].id)
        failed = await queue.submit(a_task())
        await queue.fail(await queue.claim(), BOOM, final=True)

        assert await queue.prune(clock.now + 1, clock.now) == [cancelled.id]
        assert (await queue.get(failed[0].id)).state == State.FAILED

    with_queue(body)


def test_clearing_takes_the_oldest_of_the_states_that_are_named(with_queue, clock):
    async def body(queue):
        ids = []
        for _ in range(3):
            ids.append((await completed(queue)).id)
            clock.now += 1
            ids.append((await queue.cancel((await queue.submit(a_task()))[0].id)).id)
            clock.now += 1
        failed, _ = await queue.submit(a_task())
        await queue.fail(await queue.claim(), BOOM, final=True)
        done = (State.COMPLETED, State.CANCELLED)

        assert set(await queue.clear(done, clock.now, limit=3)) == set(ids[:3])
        assert await queue.clear(done, clock.now - 2, limit=3) == [ids[3]]
        assert (await queue.states([*ids, failed.id])).keys() == {*ids[4:], failed.id}
        assert await queue.clear((), clock.now) == []

    with_queue(body)


def test_what_is_not_over_is_never_cleared(with_queue, clock):
    async def body(queue):
        running = await planned(queue, 2)
        waiting, _ = await queue.submit(a_task())

        assert await queue.clear(State, clock.now + 1) == []
        assert (await queue.states([running.id, waiting.id])).keys() == {running.id, waiting.id}

    with_queue(body)


# --- warnings ---


def test_a_chunk_may_warn_of_its_transcript_each_warning_is_said_once(with_queue):
    async def body(queue):
        task, _ = await queue.submit(a_task())
        plan = replace(a_plan(3), warnings=("partial_audio",))
        await queue.plan(await queue.claim(), plan)
        for warnings in ((), ("repetition",), ("repetition", "partial_audio")):
            task = await queue.finish(await queue.claim(), said("la la la"), warnings)

        assert (task.state, task.warnings) == (State.COMPLETED, ("partial_audio", "repetition"))

    with_queue(body)


@pytest.mark.parametrize(("fingerprint", "kept"), [("f", ("repetition",)), ("another", ())])
def test_a_warning_stays_as_long_as_the_transcript_that_it_is_about(with_queue, fingerprint, kept):
    async def body(queue):
        await planned(queue, 2)
        await queue.finish(await queue.claim(), said("la la la"), ["repetition"])
        await queue.replan(await queue.claim())

        assert (await queue.plan(await queue.claim(), a_plan(2, fingerprint))).warnings == kept

    with_queue(body)


# --- other rules ---


def test_a_higher_limit_lets_the_workers_go_on_at_once(with_queue):
    async def body(queue):
        await planned(queue, 1)
        await queue.submit(a_task())
        await queue.claim()
        claiming = asyncio.create_task(queue.claim())
        await asyncio.sleep(0)
        assert isinstance(await queue._claim_now(), float)  # by now the other one waits
        queue.reload(Rules(limits=lambda tenant, plan: Limits(concurrent=2)))

        async with asyncio.timeout(5):
            assert (await claiming).number == PLAN

    with_queue(body, limits=lambda tenant, plan: Limits(concurrent=1))


# --- restarts ---


def test_after_a_crash_the_finished_chunks_are_kept_and_the_order_holds(with_queue):
    async def before(queue):
        await planned(queue, 3, name="long")
        await queue.finish(await queue.claim(), said("one"))
        await queue.claim()
        await queue.submit(a_task("newer"))
        await queue.submit(a_task("urgent", priority=5))

    async def after(queue):
        (recovered,) = await queue.recover()
        assert (recovered.state, recovered.attempt, recovered.error.code) == (State.QUEUED, 2, "interrupted")

        claims = [await queue.claim() for _ in range(4)]
        assert [(c.task.audio.name, c.number) for c in claims] == [
            ("urgent", 0),
            ("newer", 0),
            ("long", 2),
            ("long", 3),
        ]

    with_queue(before)
    with_queue(after)


def test_after_an_orderly_stop_what_was_begun_waits_in_line_and_nobody_is_blamed(with_queue):
    async def body(queue):
        await planned(queue, 3, name="overtaken", max_retries=0)
        await queue.finish(await queue.claim(), said("one"))
        await planned(queue, 2, name="in work", max_retries=0)
        held = [await queue.claim() for _ in range(2)]
        told = []
        with queue._events.subscribe() as subscription:
            released = await queue.release_all()
            subscription.end()
            async for event in subscription:
                told.append(event.task)

        assert sorted(task.audio.name for task in released) == ["in work", "overtaken"]
        assert {(task.state, task.attempt, task.error) for task in released} == {(State.QUEUED, 1, None)}
        assert told == released
        for chunk in held:
            with pytest.raises(LostClaim):
                await queue.finish(chunk, said("late"))
        assert [(await queue.claim()).number for _ in range(4)] == [1, 2, 2, 3]

    with_queue(body)


def test_a_task_that_takes_the_daemon_down_with_it_fails_after_its_attempts(with_queue):
    async def first(queue):
        await queue.submit(a_task(max_retries=2))
        await queue.claim()

    async def crashed_again(queue):
        await queue.recover()
        if not await nothing_to_claim(queue):
            crashed_again.claims += 1

    crashed_again.claims = 0
    with_queue(first)
    for _ in range(4):
        with_queue(crashed_again)

    async def last(queue):
        (task,) = await queue.list(ListQuery())
        assert (task.state, task.error.code) == (State.FAILED, "interrupted")

    assert crashed_again.claims == 2
    with_queue(last)


# --- waking ---


def test_a_waiting_claim_is_woken_by_a_submission(with_queue):
    async def body(queue):
        claiming = asyncio.create_task(queue.claim())
        await asyncio.sleep(0.05)
        submitted, _ = await queue.submit(a_task())
        async with asyncio.timeout(0.5):  # well under the look at the clock
            assert (await claiming).task.id == submitted.id

    with_queue(body)


def test_one_wake_up_reaches_every_waiting_claim(with_queue):
    async def body(queue):
        claiming = [asyncio.create_task(queue.claim()) for _ in range(4)]
        await asyncio.sleep(0.05)
        await asyncio.gather(*(queue.submit(a_task()) for _ in range(4)))
        async with asyncio.timeout(0.5):
            assert len({(await c).task.id for c in claiming}) == 4

    with_queue(body)


def test_a_plan_wakes_every_worker(with_queue):
    async def body(queue):
        await queue.submit(a_task())
        chunk = await queue.claim()
        waiting = [asyncio.create_task(queue.claim()) for _ in range(3)]
        await asyncio.sleep(0.05)
        await queue.plan(chunk, a_plan(3))
        async with asyncio.timeout(0.5):
            assert sorted([(await c).number for c in waiting]) == [1, 2, 3]

    with_queue(body)


def test_a_cancelled_claim_owns_nothing(with_queue):
    async def body(queue):
        task, _ = await queue.submit(a_task())
        for ticks in range(8):  # cancel at each point of the claim
            claiming = asyncio.create_task(queue.claim())
            for _ in range(ticks):
                await asyncio.sleep(0)
            if claiming.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await claiming
            else:
                await queue.release(await claiming)
            assert (await queue.get(task.id)).state == State.QUEUED

    with_queue(body)


def test_a_cancelled_claim_that_cannot_be_given_back_is_told_to_its_owner(with_queue):
    """It counted as a worker that was lost, once its lease was over."""

    async def body(queue):
        task, _ = await queue.submit(a_task())

        async def fails(chunk):
            raise StorageBusy("another program holds the database")

        queue.release = fails
        claiming = asyncio.create_task(queue.claim())
        await asyncio.sleep(0)
        claiming.cancel()

        assert (await claiming).task.id == task.id

    with_queue(body)


def test_a_waiting_claim_does_not_spin(with_queue):
    async def body(queue):
        await queue.submit(a_task())
        await queue.claim()  # so that the wake-up has been used
        looks = 0
        look = queue._claim_now

        async def counted(left):
            nonlocal looks
            looks += 1
            return await look(left)

        queue._claim_now = counted
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await queue.claim()
        assert looks == 1

    with_queue(body)
