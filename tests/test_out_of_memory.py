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
