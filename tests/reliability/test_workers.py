"""Promises 2 and 5 to 8: workers that die, hang, lie or eat memory cost a retry of what they had in hand."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.reliability import sounds
from tests.reliability.sizes import with_long

pytestmark = pytest.mark.timeout(900)
POISON = Path(__file__).parent / "poison"
LIMITS = {
    "WORKERS__COUNT": 2,
    "WORKERS__NICE": 0,
    "WORKERS__SILENCE_SECONDS": 1.5,
    "WORKERS__MAX_PROCESSING_SECONDS": 20,
    "WORKERS__MAX_MEMORY_MB": 2048,
    "WORKERS__MAX_RSS_MB": 550,  # twice what one needs for tiny.en
    "QUEUE__RETRY_DELAY_MS": 20,
    "LOGGING__LEVEL": "warning",
}
ENDS = {  # kind → the error's code, and what its message says
    "exit 0": ("worker_crashed", "exited with 0"),
    "segfault": ("worker_crashed", "killed by signal 11"),
    "garbage": ("worker_crashed", "makes no sense"),
    "memory": ("out_of_memory", "memory"),
    "exit 1": ("worker_crashed", "exited with 1"),
    "kill": ("worker_crashed", "killed by signal 9"),
    "half a line": ("worker_crashed", "exited with 0"),
    "stop": ("worker_hung", "no sign of life"),
    "spin": ("worker_hung", "on one chunk"),
}
SHORT = ("exit 0", "segfault", "garbage", "memory")


@pytest.fixture(scope="module")
def daemon(daemons):
    return daemons(environ={"PYTHONPATH": path_with(POISON)}, **LIMITS).start()


def path_with(folder):
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="module")
def files(clips, jfk, size, tmp_path_factory):
    """Name → path: the clips, a long one, and one for each kind of poison."""
    folder = tmp_path_factory.mktemp("files")
    for name, sound in {**clips, "long": sounds.minutes_of(jfk, size(0.6, 0.8))}.items():
        (folder / name).write_bytes(sound)
    for kind in [*ENDS, "rss"]:
        (folder / kind).write_bytes(clips["half a second"] + f"POISON:{kind}".encode())
    return {path.name: path for path in folder.iterdir()}


def test_poison_ends_as_failed_with_its_cause_and_every_other_task_completes(daemon, files, size, report):
    daemon.finished(daemon.queued(files["words"]))
    before = daemon.rss_bytes()
    kinds = size(SHORT, tuple(ENDS))
    poisoned, good = {}, []
    for kind in kinds * size(1, 3):
        poisoned[daemon.queued(files[kind], max_retries=size(0, 2))] = kind
        good += [daemon.queued(files["silence"]) for _ in range(3)]
    good.append(daemon.queued(files["half a second"]))
    daemon.all_over(600)
    growth = (daemon.rss_bytes() - before) / 2**20
    report["poison"] = {"tasks": len(poisoned), "others": len(good), "rss_growth_mb": round(growth, 1)}
    tasks = {kind: daemon.task(task_id) for task_id, kind in poisoned.items()}

    assert {kind: task["status"] for kind, task in tasks.items()} == dict.fromkeys(kinds, "failed")
    assert {kind: task["error"]["code"] for kind, task in tasks.items()} == {k: ENDS[k][0] for k in kinds}
    for kind, task in tasks.items():
        assert ENDS[kind][1] in task["error"]["message"]
    assert {daemon.task(task_id)["status"] for task_id in good} == {"completed"}
    assert growth < 10
    daemon.until(lambda: all(worker["state"] == "idle" for worker in daemon.workers()), 60)
    assert {name.split(".")[0] for name in daemon.spool() if not name.endswith(".audio")} == set()


def test_a_worker_that_grew_too_large_is_replaced_between_chunks_and_its_work_counts(daemon, files):
    before = set(daemon.worker_pids())
    task_id = daemon.queued(files["rss"])  # leaks 400 MB, and goes on
    task = daemon.finished(task_id)
    daemon.until(lambda: before - set(daemon.worker_pids()))
    daemon.until(lambda: all(worker["rss_bytes"] for worker in daemon.workers()))

    assert (task["status"], task["attempt"]) == ("completed", 1)
    assert max(worker["rss_bytes"] for worker in daemon.workers()) < LIMITS["WORKERS__MAX_RSS_MB"] * 2**20


@with_long
def test_workers_killed_and_stopped_at_random_lose_no_task_and_do_no_chunk_twice(
    daemon, files, size, chance, report
):
    names = ["long", *["half a second", "silence"] * size(4, 40)]
    began = daemon.rss_bytes()
    ids = [daemon.queued(files[name], max_retries=100, beam_size="1") for name in names]
    hits = {signal.SIGKILL: 0, signal.SIGSTOP: 0}
    wanted = size(2, 60)
    while sum(hits.values()) < wanted and daemon.get("/stats")["queued"] + daemon.get("/stats")["processing"]:
        time.sleep(chance.uniform(0.05, 1.0))
        busy = [worker["pid"] for worker in daemon.workers() if worker["state"] == "busy"]
        if busy:
            number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
            hits[number] += struck(chance.choice(busy), number)
    daemon.all_over(600)
    sql = "select id, number, claims, failures from chunk join task on task.seq = chunk.task where number > 0"
    again = [row for row in daemon.rows(sql) if row[0] in ids and row[2] != row[3] + 1]
    growth = (daemon.rss_bytes() - began) / 2**20
    report["struck"] = {"tasks": len(ids), "killed": hits[signal.SIGKILL], "stopped": hits[signal.SIGSTOP]}

    assert {daemon.task(task_id)["status"] for task_id in ids} == {"completed"}
    assert again == []
    assert growth < 10


def struck(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def test_a_stopped_worker_that_goes_on_later_writes_nothing_a_second_time(daemon, files, size):
    task_id = daemon.queued(files["long"], beam_size="1")
    victim = daemon.until(lambda: at_work_on(daemon, task_id))
    os.kill(victim["pid"], signal.SIGSTOP)
    daemon.until(lambda: claims(daemon, task_id, victim["chunk"]) == 2, 30)  # another has it
    struck(victim["pid"], signal.SIGCONT)
    daemon.finished(task_id)

    assert claims(daemon, task_id, victim["chunk"]) == 2
    assert states(daemon, task_id) == {"done"}
    assert len(daemon.result(task_id).lower().split("ask not")) == 1 + size(3, 4)


def at_work_on(daemon, task_id):
    at_it = [w for w in daemon.workers() if w["task_id"] == task_id and w["chunk"]]
    return at_it and at_it[0]


def claims(daemon, task_id, number):
    sql = "select claims from chunk join task on task.seq = chunk.task where id = ? and number = ?"
    return daemon.rows(sql, task_id, number)[0][0]


def states(daemon, task_id):
    sql = "select chunk.state from chunk join task on task.seq = chunk.task where id = ?"
    return {row[0] for row in daemon.rows(sql, task_id)}


@with_long
def test_a_daemon_that_was_stopped_for_longer_than_a_lease_does_its_work_once(daemon, files):
    """A suspended laptop: its workers went on, or also stood still."""
    task_id = daemon.queued(files["long"], beam_size="1")
    daemon.until(lambda: at_work_on(daemon, task_id))
    os.kill(daemon.process.pid, signal.SIGSTOP)
    time.sleep(2 * LIMITS["WORKERS__SILENCE_SECONDS"] + 0.5)
    os.kill(daemon.process.pid, signal.SIGCONT)
    task = daemon.finished(task_id)
    sql = "select claims, failures from chunk join task on task.seq = chunk.task where id = ? and number > 0"

    assert (task["status"], task["attempt"]) == ("completed", 1)
    assert set(daemon.rows(sql, task_id)) == {(1, 0)}


@with_long
def test_a_file_that_takes_the_daemon_down_each_time_ends_too(daemons, files):
    """Counted over starts: an end of the daemon in the middle of a chunk is a failure of it."""
    daemon = daemons(environ={"PYTHONPATH": path_with(POISON)}, **LIMITS | {"WORKERS__COUNT": 1}).start()
    retries = 2
    task_id = daemon.queued(files["spin"], max_retries=retries)
    for _ in range(retries + 1):
        daemon.until(lambda: any(w["task_id"] == task_id for w in daemon.workers()))
        daemon.kill()
        daemon.start()
    task = daemon.task(task_id)

    assert (task["status"], task["error"]["code"], task["attempt"]) == ("failed", "interrupted", 1 + retries)
    assert daemon.finished(daemon.queued(files["words"]))["status"] == "completed"
