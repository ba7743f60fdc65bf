"""Memory runs out: in a child, in several at once, by the kernel's hand. Fewer work; then the task fails."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import a_task
from tests.pool import misdeeds, over, run_beside_a_pool, states, until
from whisperd.task import State

ROOM = 100 * 2**20  # bytes; for a small Python process and 64 MiB


@pytest.fixture
def with_pool(tmp_path):
    return partial(run_beside_a_pool, tmp_path)


async def in_work(pool, workers=1):
    """Those whose children have a request, once they are so many."""
    await until(lambda: [worker.state for worker in pool.workers()].count("busy") == workers)
    return [worker for worker in pool.workers() if worker.state == "busy"]


@pytest.mark.parametrize("how", ["eats its address space", "bad_alloc", "refuses"])
def test_a_chunk_that_ran_out_of_memory_is_tried_again_on_a_fresh_worker_and_not_blamed(with_pool, how):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task(max_retries=0))
        task = await over(queue, task)

        assert (task.state, task.attempt) == (State.COMPLETED, 1)
        assert pool.deaths == {"out_of_memory": 1}

    with_pool(body, how)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_it_fails_when_memory_runs_out_with_one_worker_alone_whatever_its_retries(
    with_pool, tmp_path, workers
):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle"] * workers)
        task, _ = await queue.submit(a_task(max_retries=10))
        task = await over(queue, task)

        assert (task.state, task.error.code) == (State.FAILED, "out_of_memory")
        assert misdeeds(tmp_path) == max(2, workers)

    with_pool(body, "eats its address space, always", workers=workers)


def test_nobody_rests_for_a_chunk_that_was_at_fault_itself(with_pool):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task())
        await over(queue, task)
        await until(lambda: states(pool) == ["idle", "idle"])

    with_pool(body, "eats its address space, always", workers=2)


def test_what_memory_was_too_short_for_together_is_done_by_one_worker_alone(with_pool):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle", "idle"])
        task, _ = await queue.submit(a_task(max_retries=0))
        task = await over(queue, task)

        assert (task.state, task.attempt) == (State.COMPLETED, 1)
        assert pool.deaths == {"out_of_memory": 1}
        assert "resting" in states(pool)
        assert [worker.pid is None for worker in pool.workers()].count(True) == 1  # it holds no model either

    with_pool(body, "eats its address space, in company", workers=2)


def test_one_more_worker_works_after_a_calm_spell(with_pool):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle", "idle"])
        task, _ = await queue.submit(a_task())
        await over(queue, task)
        await until(lambda: states(pool) == ["idle", "idle"])

        assert pool.deaths == {"out_of_memory": 1}

    with_pool(body, "eats its address space, in company", workers=2, calm_seconds=0.5)


def test_a_chunk_that_others_wake_up_beside_each_time_fails_all_the_same(with_pool, tmp_path):
    """It ran for ever: the resting worker woke during each try, so that no try was made alone."""

    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle", "idle"])
        task, _ = await queue.submit(a_task(max_retries=10))
        task = await over(queue, task)

        assert (task.state, task.error.code) == (State.FAILED, "out_of_memory")
        assert misdeeds(tmp_path) == 3

    how = "grows at work, always"
    with_pool(body, how, workers=2, calm_seconds=0.02, max_rss_bytes=ROOM)


def test_a_try_that_began_in_company_does_not_tell_that_the_chunk_is_at_fault(with_pool, tmp_path):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle"] * 3)
        task, _ = await queue.submit(a_task(max_retries=0))
        (tmp_path / str((await in_work(pool))[0].pid)).touch()
        await until(lambda: states(pool) == ["busy", "idle", "resting"])
        pids = {worker.state: worker.pid for worker in pool.workers()}
        os.kill(pids["idle"], 9)
        await until(lambda: pool.deaths["crashed"] == 1)  # nobody has a process now but the one at work
        (tmp_path / str(pids["busy"])).touch()
        await until(lambda: pool.deaths["out_of_memory"] == 2)

        assert (await queue.get(task.id)).error is None
        (tmp_path / "go on").touch()
        assert (await over(queue, task)).state == State.COMPLETED

    with_pool(body, "does as it is told, always", workers=3)


def test_the_only_worker_that_stays_does_not_rest(with_pool, tmp_path):
    async def body(queue, pool):
        for _ in range(2):
            await queue.submit(a_task())
        staying, _ = await in_work(pool, 2)
        pool.resize(1)
        (tmp_path / str(staying.pid)).touch()
        await until(lambda: pool.workers()[0].restarts == 1)
        await in_work(pool, 2)

    with_pool(body, "does as it is told, always", workers=2)


def test_a_worker_that_ran_out_of_memory_as_it_left_lets_no_later_one_rest(with_pool, tmp_path):
    """Its number stayed among those that rest, and the next worker of this number was born resting."""

    async def body(queue, pool):
        for _ in range(2):
            await queue.submit(a_task())
        _, leaving = await in_work(pool, 2)
        pool.resize(1)
        (tmp_path / str(leaving.pid)).touch()
        await until(lambda: len(pool.workers()) == 1)
        pool.resize(2)
        await in_work(pool, 2)

    with_pool(body, "does as it is told, always", workers=2)


def test_workers_that_rest_are_the_first_to_go(with_pool, tmp_path):
    async def body(queue, pool):
        for _ in range(2):
            await queue.submit(a_task())
        first, second = await in_work(pool, 2)
        (tmp_path / str(first.pid)).touch()
        await until(lambda: pool.workers()[0].state == "resting")
        pool.resize(1)
        await until(lambda: len(pool.workers()) == 1)

        assert pool.workers()[0].pid == second.pid

    with_pool(body, "does as it is told, always", workers=2)


def test_a_worker_whose_next_child_finds_no_memory_rests_whatever_the_one_before_died_of(with_pool):
    async def body(queue, pool):
        await until(lambda: states(pool) == ["idle", "idle"])
        task, _ = await queue.submit(a_task())
        task = await over(queue, task)
        await until(lambda: states(pool) == ["idle", "resting"])

        assert (task.state, pool.deaths) == (State.COMPLETED, {"crashed": 1, "out_of_memory": 1})

    with_pool(body, "segfault, then out of memory", workers=2)


def test_words_about_memory_that_a_child_outlived_do_not_explain_a_later_death(with_pool):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task())
        await over(queue, task)
        os.kill(pool.workers()[0].pid, 11)
        await until(lambda: sum(pool.deaths.values()))

        assert pool.deaths == {"crashed": 1}

    with_pool(body, "complains and goes on")


def test_a_child_above_its_limit_is_replaced_between_chunks_without_a_failure(with_pool):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task(max_retries=0))
        task = await over(queue, task)

        assert (task.state, task.attempt) == (State.COMPLETED, 1)
        await until(lambda: pool.deaths == {"memory": 3})  # after the plan, and after each of the two chunks
        assert pool.workers()[0].restarts == 3
        await until(lambda: pool.workers()[0].state == "idle")  # not in the middle of a start

    with_pool(body, "grows, always", max_rss_bytes=ROOM // 2)


def test_a_child_far_above_its_limit_is_stopped_in_the_middle_of_a_chunk(with_pool):
    async def body(queue, pool):
        task, _ = await queue.submit(a_task(max_retries=0))
        task = await over(queue, task)

        assert task.state == State.COMPLETED
        assert pool.deaths == {"out_of_memory": 1}

    with_pool(body, "grows at work", max_rss_bytes=ROOM)


IN_A_GROUP = """
import os, sys
from pathlib import Path
from tests.conftest import a_task
from tests.pool import over, run_beside_a_pool

async def body(queue, pool):
    task, _ = await queue.submit(a_task(max_retries=0))
    task = await over(queue, task)
    print(task.state, dict(pool.deaths))

Path(sys.argv[2], "cgroup.procs").write_text(str(os.getpid()))
run_beside_a_pool(Path(sys.argv[1]), body, "eats the machine's memory")
"""


@pytest.fixture
def small_group():
    """A control group of 200 MB, where this user may make one."""
    root = Path("/sys/fs/cgroup")
    group, limit = root / f"whisperd-test-{os.getpid()}", "memory.max"
    if (root / "memory").is_dir():
        group, limit = root / "memory" / group.name, "memory.limit_in_bytes"
    try:
        group.mkdir()
        (group / limit).write_text("200000000")
    except OSError as error:
        pytest.skip(f"no control group can be made: {error.strerror}")
    yield group
    group.rmdir()


def test_a_kill_by_the_kernel_for_want_of_memory_is_told_from_others(small_group, tmp_path):
    command = [sys.executable, "-c", IN_A_GROUP, str(tmp_path), str(small_group)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)

    assert done.stdout.splitlines()[-1] == "completed {'out_of_memory': 1}", done.stderr
