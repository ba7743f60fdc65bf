"""What work on a task took: measured by the pool, kept with the chunk and added up with the task."""

import sqlite3

from tests.conftest import a_task
from tests.pool import over, run_beside_a_pool
from tests.test_queue import BOOM, a_plan, said
from whisperd.task import Effort


def effort(seconds, worker=1):
    return Effort(worker=worker, seconds=seconds, device="cpu", threads=1)


def ask(conn, sql):
    return [tuple(row) for row in conn.execute(sql).fetchall()]


async def kept(queue):
    return await queue.db.read(ask, "select number, finished_at, worker, seconds from chunk order by number")


async def spent(queue):
    return (await queue.db.read(ask, "select compute_seconds from task"))[0][0]


def test_a_finished_chunk_keeps_when_by_whom_and_in_which_time(with_queue, clock):
    async def body(queue):
        await queue.submit(a_task())
        await queue.plan(await queue.claim(), a_plan(2), effort(0.5))
        clock.now += 9
        await queue.finish(await queue.claim(), said("one"), effort=effort(3.0, worker=2))

        assert await kept(queue) == [
            (0, clock.now - 9, 1, 0.5),
            (1, clock.now, 2, 3.0),
            (2, None, None, None),
        ]
        assert await spent(queue) == 3.5

    with_queue(body)


def test_work_that_came_to_nothing_counts_too_until_the_task_is_run_again_by_hand(with_queue):
    async def body(queue):
        task, _ = await queue.submit(a_task())
        await queue.release(await queue.claim(), effort(1.0))
        await queue.fail(await queue.claim(), BOOM, final=True, effort=effort(2.0))
        assert await spent(queue) == 3.0

        await queue.retry(task.id)
        assert await spent(queue) == 0.0

    with_queue(body)


def test_the_pool_measures_the_work_of_each_child_and_of_those_that_died(tmp_path):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task())
        await over(queue, task)
        with sqlite3.connect(tmp_path / "q.db") as conn:
            rows = ask(conn, "select finished_at, worker, seconds from chunk")
            (total,) = conn.execute("select compute_seconds from task").fetchone()

        assert len(rows) == 3
        assert all(at is not None and worker == 1 for at, worker, _ in rows)
        assert total > sum(seconds for *_, seconds in rows) > 0  # one child died

    run_beside_a_pool(tmp_path, body, "kill")
