"""The timeline: what happened to a task, read off its rows and a few that are written for it."""

import json

import pytest
from msgspec.structs import replace

from tests.conftest import a_task
from tests.pool import over, run_beside_a_pool
from tests.stand_in import standing_in
from tests.terminal import command_line
from tests.test_effort import effort
from tests.test_queue import BOOM, a_plan, said
from whisperd.history import History
from whisperd.sql import timeline as sql
from whisperd.task import Change, Claimant, Death, Left, Problem, State
from whisperd.timeline import Moment


async def happened(queue, task):
    return (await History(queue._db).timeline(task.id)).moments


async def kinds(queue, task):
    return [moment.kind for moment in await happened(queue, task)]


def test_a_task_without_trouble_tells_its_life_without_a_row_of_its_own(with_queue, clock):
    async def body(queue):
        task, _ = await queue.submit(a_task())
        clock.now += 5
        await queue.plan(await queue.claim(), a_plan(2), effort(0.5))
        clock.now += 5
        await queue.finish(await queue.claim(), said("one"), effort=effort(2.0, worker=1))
        clock.now += 5
        await queue.finish(await queue.claim(), said("two"), effort=effort(4.0, worker=2))
        start, of_chunk = clock.now - 15, {"attempt": 1, "audio_seconds": 10.0}

        assert await happened(queue, task) == [
            Moment(at=start, kind="submitted"),
            Moment(at=start + 5, kind="started"),
            Moment(at=start + 5, kind="planned", attempt=1, chunk=0, worker=1, seconds=0.5),
            Moment(at=start + 10, kind="chunk", chunk=1, worker=1, seconds=2.0, **of_chunk),
            Moment(at=start + 15, kind="chunk", chunk=2, worker=2, seconds=4.0, **of_chunk),
            Moment(at=start + 15, kind="completed", attempt=1, seconds=6.5, audio_seconds=20.0),
        ]
        assert await queue.db.read(rows) == 0

    with_queue(body)


def rows(conn):
    return conn.execute("select count(*) from task_event").fetchone()[0]


def test_a_failure_tells_its_cause_its_attempt_and_when_it_is_tried_again(with_queue, clock):
    async def body(queue):
        task, _ = await queue.submit(a_task(max_retries=1))
        await queue.fail(await queue.claim(), BOOM, effort=effort(1.5))
        clock.now += 100
        died = replace(effort(2.5), death=Death(BOOM, "ggml: out of luck"))
        await queue.fail(await queue.claim(), BOOM, effort=died)
        first, resumed, second, end = (await happened(queue, task))[2:]

        assert (first.kind, first.attempt, first.code, first.message) == (
            "attempt_failed",
            1,
            BOOM.code,
            BOOM.message,
        )
        assert 0 < first.retry_seconds <= 2.0
        assert (first.chunk, first.worker, first.seconds) == (0, 1, 1.5)
        assert resumed == Moment(at=clock.now, kind="resumed")
        assert (second.kind, second.attempt, second.retry_seconds) == ("worker_died", 2, None)
        assert second.last_words == "ggml: out of luck"
        assert (end.kind, end.attempt, end.code) == ("failed", 2, BOOM.code)

    with_queue(body)


def test_a_worker_that_goes_to_a_more_urgent_task_overtakes_the_one_that_it_leaves(with_queue, clock):
    async def body(queue):
        long, _ = await queue.submit(a_task(tenant="one"))
        await queue.plan(await queue.claim(), a_plan(3))
        urgent, _ = await queue.submit(a_task(tenant="two", priority=7))
        left = Left(long.seq, worker=2)
        for _ in range(2):
            assert (await queue.claim(lambda: Claimant(left=left))).task.id == urgent.id
            urgent, _ = await queue.submit(a_task(tenant="two", priority=7))
            clock.now += 1
        (overtaken,) = [m for m in await happened(queue, long) if m.kind == "overtaken"]

        assert overtaken == Moment(
            at=clock.now - 2, kind="overtaken", worker=2, priority=7, times=2, last_at=clock.now - 1
        )

    with_queue(body)


def test_who_goes_on_with_its_task_or_leaves_nothing_behind_overtakes_nobody(with_queue):
    async def body(queue):
        task, _ = await queue.submit(a_task())
        await queue.plan(await queue.claim(), a_plan(1))
        left = Left(task.seq, worker=1)
        assert (await queue.claim(lambda: Claimant(left=left))).task.id == task.id
        await queue.submit(a_task(priority=7))
        await queue.claim(lambda: Claimant(left=left))  # its only chunk is in work

        assert "overtaken" not in await kinds(queue, task)

    with_queue(body)


def test_a_run_by_hand_keeps_what_became_of_the_run_before(with_queue, clock):
    async def body(queue):
        task, _ = await queue.submit(a_task())
        await queue.plan(await queue.claim(), a_plan(1))
        await queue.fail(await queue.claim(), BOOM, final=True)
        clock.now += 1
        await queue.retry(task.id)
        clock.now += 1
        await queue.plan(await queue.claim(), a_plan(1))
        await queue.cancel(task.id)

        assert await kinds(queue, task) == [
            *("submitted", "attempt_failed", "started", "planned", "failed"),
            *("retried", "started", "planned", "cancelled"),
        ]

    with_queue(body)


def test_what_is_changed_and_handed_back_and_planned_again_is_told(with_queue, clock):
    async def body(queue):
        task, _ = await queue.submit(a_task())
        await queue.change(task.id, Change(priority=7))
        clock.now += 1
        await queue.plan(await queue.claim(), a_plan(2))
        clock.now += 1
        await queue.release(await queue.claim(), effort(1.0, worker=3))
        clock.now += 1
        await queue.replan(await queue.claim())
        found = await happened(queue, task)

        assert [moment.kind for moment in found] == [
            *("submitted", "changed", "started", "planned", "released", "resumed", "replanned"),
        ]
        assert found[1].priority == 7
        assert (found[4].chunk, found[4].worker, found[4].seconds) == (1, 3, 1.0)

    with_queue(body)


def test_a_crash_of_the_daemon_and_an_orderly_stop_are_told_apart(with_queue):
    async def body(queue):
        task, _ = await queue.submit(a_task())
        await queue.claim()
        body.task = task

    async def after_the_crash(queue):
        await queue.recover()
        assert [m.code for m in await happened(queue, body.task)][2:] == ["interrupted"]
        await queue.claim()
        await queue.release_all()
        assert (await kinds(queue, body.task))[3:] == ["resumed", "released"]

    with_queue(body)
    with_queue(after_the_crash)


def test_who_follows_an_equal_task_says_which_and_what_came_of_it(with_queue):
    async def body(queue):
        first, second, third = [(await queue.submit(a_task(model_sha256="m")))[0] for _ in range(3)]
        assert [m.twin for m in await happened(queue, second) if m.kind == "follows"] == [first.id]
        await queue.cancel(first.id)
        assert "leads" in await kinds(queue, second)
        await queue.plan(await queue.claim(), replace(a_plan(1), model_sha256="m"))
        await queue.finish(await queue.claim(), said("one"))

        assert [(m.kind, m.twin) for m in await happened(queue, third) if m.twin][1:] == [
            ("copied", second.id)
        ]
        assert (await queue.get(third.id)).state == State.COMPLETED

    with_queue(body, cache_seconds=60.0)


def test_what_fails_for_ever_does_not_grow_for_ever(with_queue, clock):
    async def body(queue):
        task, _ = await queue.submit(a_task())
        for _ in range(sql.MOST_ROWS):
            await queue.fail(await queue.claim(), Problem("worker_crashed", "again"), final=True)
            clock.now += 1
            await queue.retry(task.id)
        found = await History(queue.db).timeline(task.id)

        assert await queue.db.read(rows) == sql.MOST_ROWS
        assert found.truncated
        assert (found.moments[0].kind, found.moments[-1].kind) == ("submitted", "retried")

    with_queue(body)


def test_of_very_many_chunks_the_last_are_shown(with_queue, clock, monkeypatch):
    monkeypatch.setattr(sql, "MOST_CHUNKS", 5)

    async def body(queue):
        task, _ = await queue.submit(a_task())
        await queue.plan(await queue.claim(), a_plan(8))
        for _ in range(8):
            clock.now += 1
            await queue.finish(await queue.claim(), said("one"))
        found = await History(queue.db).timeline(task.id)

        assert [m.chunk for m in found.moments if m.kind == "chunk"] == [4, 5, 6, 7, 8]
        assert found.truncated

    with_queue(body)


def test_a_timeline_goes_with_its_task(with_queue, clock):
    async def body(queue):
        await queue.submit(a_task())
        await queue.fail(await queue.claim(), BOOM, final=True)
        await queue.clear([State.FAILED], clock.now + 1)

        assert await queue.db.read(rows) == 0

    with_queue(body)


def test_the_pool_tells_what_its_child_died_of_and_what_it_said_last(tmp_path):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task())
        task = await over(queue, task)
        died = [m for m in await happened(queue, task) if m.kind == "worker_died"]

        assert task.state == State.COMPLETED
        assert [(m.chunk, m.worker, m.code) for m in died] == [(0, 1, "out_of_memory")]
        assert "std::bad_alloc" in died[0].last_words

    run_beside_a_pool(tmp_path, body, "bad_alloc")


def test_the_pool_tells_which_task_its_worker_left_for_another(tmp_path):
    async def body(queue, pool):
        pool.pause()
        long, _ = await queue.submit(a_task())
        finish = queue.finish

        async def more_urgent_work_comes(chunk, *outcome):
            queue.finish = finish
            body.urgent, _ = await queue.submit(a_task(priority=9))
            return await finish(chunk, *outcome)

        queue.finish = more_urgent_work_comes
        pool.resume()
        await over(queue, long)
        overtaken = [m for m in await happened(queue, long) if m.kind == "overtaken"]

        assert [(m.worker, m.priority, m.times) for m in overtaken] == [(1, 9, 1)]
        assert "overtaken" not in await kinds(queue, body.urgent)

    run_beside_a_pool(tmp_path, body, "well")


# --- whisperd show ---


@pytest.fixture(scope="module")
def server():
    with standing_in() as server:
        yield server


@pytest.fixture
def run(monkeypatch, capfd, tmp_path, server):
    server.reset()
    server.add()
    server.timeline = [
        {"kind": "submitted"},
        {"kind": "started"},
        *({"kind": "chunk", "chunk": n, "worker": n % 2, "seconds": 1.5} for n in range(1, 5)),
        {"kind": "overtaken", "worker": 1, "priority": 9, "times": 3, "last_at": "2026-11-22T10:05:00.000Z"},
        {
            "kind": "worker_died",
            "chunk": 5,
            "worker": 2,
            "seconds": 3.0,
            "message": "child 812 exited with -11",
            "retry_in_seconds": 1.0,
            "stderr": "ggml: no\nmore \x1b[2J",
        },
    ]
    command = command_line(monkeypatch, capfd, tmp_path)
    return lambda *args: command("show", "01J001", *args, url=server.url)


def test_show_tells_what_happened_with_chunks_in_a_row_as_one_line(run):
    lines = run().lines
    told = [line.split("\t")[1:] for line in lines if "\t" in line]

    assert told == [
        ["submitted", ""],
        ["started", ""],
        ["4 chunks", "2 workers, 6 s of work"],
        ["overtaken", "worker 1, by priority 9, 3 times, last 2026-11-22T10:05:00Z"],
        ["worker died", "chunk 5, worker 2, 3 s, child 812 exited with -11, again in 1 s"],
    ]
    assert lines[-3:] == [
        "last words of worker 2, 2026-11-22T10:00:00Z:",
        "    ggml: no",
        "    more \\x1b[2J",
    ]


def test_show_as_json_has_the_timeline_whole(run):
    found = json.loads(run("--json").out)

    assert (found["task_id"], len(found["timeline"])) == ("01J001", 8)
    assert found["timeline"][-1]["stderr"] == "ggml: no\nmore \x1b[2J"
