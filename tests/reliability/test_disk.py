"""Promises 10 and 11: a full disk loses nothing and is recovered from; a failing one is never hidden."""

import errno
import time
from contextlib import contextmanager

import pytest

from tests.reliability import sounds
from tests.reliability.clients import Clients
from tests.trouble import SmallDisk

pytestmark = pytest.mark.timeout(900)
QUICK = {"WORKERS__NICE": 0, "WORKERS__COUNT": 1, "LOGGING__LEVEL": "warning"}
RESERVE, WARNING = 8, 12  # MB, of a disk of 40
DATA = "data/"  # in the paths of all that a daemon keeps


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with SmallDisk(tmp_path_factory.mktemp("small") / "d" / "data", megabytes=40) as disk:
        yield disk


@pytest.fixture(scope="module")
def daemon(small, daemons):
    """One that runs on a small disk."""
    made = daemons(
        small.folder.parent,
        inside=small.inside,
        data=small.seen,
        STORAGE__MIN_FREE_MB=RESERVE,
        STORAGE__WARN_FREE_MB=WARNING,
        **QUICK,
    )
    return made.start()


@pytest.fixture(scope="module")
def files(clips, jfk, tmp_path_factory):
    """Name → path of a clip; `long` is work for some seconds."""
    folder = tmp_path_factory.mktemp("clips")
    for name, sound in {**clips, "long": sounds.minutes_of(jfk, 0.6)}.items():
        (folder / name).write_bytes(sound)
    return {path.name: path for path in folder.iterdir()}


def accepted_within(daemon, path):
    """The seconds until a submission is taken."""
    began = time.monotonic()
    task_id = daemon.until(lambda: (answer := daemon.submit(path)).status_code == 202 and answer.json(), 20)
    return time.monotonic() - began, task_id["task_id"]


def test_a_full_disk_refuses_the_new_with_507_keeps_nothing_of_it_and_is_read_on(daemon, small, files):
    task_id = daemon.queued(files["words"])
    daemon.finished(task_id)
    with small.filled():
        answers = [daemon.submit(files["words"]) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [507, 507, 507]
        assert answers[0].json()["error"]["code"] == "storage_full"
        assert daemon.task(task_id)["status"] == "completed"
        assert daemon.result(task_id)
        assert daemon.get("/tasks")["tasks"]
        assert daemon.health()["status"] == "degraded"
        assert daemon.health()["checks"]["disk"]["status"] == "degraded"
        assert {name.split(".")[0] for name in daemon.spool()} == {task_id}


def test_a_disk_that_fills_up_is_said_before_anything_is_refused(daemon, small):
    assert daemon.troubles() == []
    with small.filled(but_for=(RESERVE + 3) * 2**20):
        found = daemon.until(lambda: "disk" in daemon.troubles() and daemon.health()["checks"]["disk"])
        assert f"below {RESERVE} nothing new is accepted" in found["message"]
        assert daemon.http.get("/health/ready").status_code == 200

    daemon.until(lambda: daemon.troubles() == [])


def test_space_that_comes_back_is_used_within_5_seconds(daemon, small, files, report):
    with small.filled():
        assert daemon.submit(files["silence"]).status_code == 507
        time.sleep(1)
    seconds, task_id = accepted_within(daemon, files["silence"])
    report["accepted_again_after_s"] = round(seconds, 2)

    assert seconds <= 5
    assert daemon.finished(task_id)["status"] == "completed"
    daemon.until(lambda: not daemon.troubles(), 5)


def test_work_goes_on_within_the_reserve_and_waits_for_space_beyond_it_and_is_not_done_again(
    daemon, small, files
):
    task_id = daemon.queued(files["long"], beam_size="1")
    daemon.until(lambda: daemon.task(task_id)["status"] == "processing")
    with small.filled(but_for=(RESERVE - 2) * 2**20):
        assert daemon.submit(files["silence"]).status_code == 507
        daemon.until(lambda: daemon.task(task_id)["progress"] > 0)
    with small.filled():
        time.sleep(1.5)  # what is in work meets the full disk
        assert daemon.task(task_id)["status"] in ("processing", "completed")
    task = daemon.finished(task_id)
    sql = "select claims, failures from chunk join task on task.seq = chunk.task where id = ? and number > 0"

    assert (task["status"], task["attempt"]) == ("completed", 1)
    assert set(daemon.rows(sql, task_id)) == {(1, 0)}


def test_nothing_acknowledged_is_lost_on_a_disk_that_is_full_now_and_then(
    daemon, small, clips, size, chance, report
):
    mix = {"silence": 29, "half a second": 1}
    with Clients(daemon, clips, mix, pause=0.3, number=8, seed=chance.name) as clients:
        for _ in range(size(2, 20)):
            time.sleep(chance.uniform(0.2, 0.6))
            with small.filled():
                time.sleep(chance.uniform(0.2, 0.6))
    kept = {row[0] for row in daemon.rows("select id from task")}
    acknowledged = {task_id for task_id, _ in clients.acknowledged.values()}
    daemon.all_over()
    states = {row[0] for row in daemon.rows("select distinct state from task")}
    report.update(filled=size(2, 20), acknowledged=len(acknowledged), lost=len(acknowledged - kept))
    report.update(refused=len(clients.surprises))

    assert acknowledged <= kept
    assert states == {"completed"}
    assert {status for status, _ in clients.surprises} <= {507, 503}


def test_a_daemon_killed_on_a_full_disk_comes_back_with_all_that_was_acknowledged(daemon, small, files):
    waiting = [daemon.queued(files["silence"], run_at="2100-01-01T00:00:00Z") for _ in range(5)]
    with small.filled():
        daemon.kill()
        daemon.launch()  # it may serve or say why not: it must break nothing
        time.sleep(1)
        daemon.kill()
    daemon.start()

    assert [daemon.task(task_id)["status"] for task_id in waiting] == ["queued"] * 5
    assert daemon.rows("pragma integrity_check") == [("ok",)]
    assert daemon.stop() == 0


@pytest.fixture(scope="module")
def lied_to(daemons, lies):
    """One whose C library can be told to fail."""
    return daemons(environ=lies.environ, **QUICK).start()


@contextmanager
def read_only(lies):
    everything = [(call, errno.EROFS, DATA) for call in ("write", "open")]
    with lies.disk(*everything):
        yield


def test_a_disk_that_turns_read_only_refuses_the_new_and_is_recovered_from(lied_to, lies, files, report):
    before = lied_to.queued(files["words"])
    lied_to.finished(before)
    with read_only(lies):
        answer = lied_to.submit(files["silence"])
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_read_only")
        assert lied_to.result(before)
        assert lied_to.health()["status"] in ("degraded", "down")
    seconds, task_id = accepted_within(lied_to, files["silence"])
    report["writable_again_after_s"] = round(seconds, 2)

    assert seconds <= 5
    assert lied_to.finished(task_id)["status"] == "completed"


def test_audio_that_does_not_reach_the_disk_is_not_acknowledged_and_leaves_nothing(lied_to, lies, files):
    spool, tasks = lied_to.spool(), lied_to.get("/stats")["total"]
    with lies.disk(("sync", errno.EIO, "/spool")):
        answer = lied_to.submit(files["silence"])
    after = lied_to.queued(files["silence"], run_at="2100-01-01T00:00:00Z")

    assert answer.status_code >= 500
    assert lied_to.get("/stats")["total"] == tasks + 1
    assert lied_to.spool() == sorted([*spool, f"{after}.audio"])


def test_a_full_disk_under_the_log_alone_is_507_and_recovered_from(lied_to, lies, files):
    with lies.disk(("write", errno.ENOSPC, "whisperd.db-wal")):
        assert lied_to.submit(files["silence"]).status_code == 507
    seconds, task_id = accepted_within(lied_to, files["silence"])

    assert seconds <= 5
    assert lied_to.finished(task_id)["status"] == "completed"


@pytest.mark.parametrize("call", ["sync", "write"])
def test_a_commit_that_fails_is_not_acknowledged_and_health_is_down_until_a_restart(
    lied_to, lies, files, call
):
    kept = [lied_to.queued(files["silence"], run_at="2100-01-01T00:00:00Z") for _ in range(3)]
    with lies.disk((call, errno.EIO, "whisperd.db")):
        refused = [lied_to.submit(files["silence"]) for _ in range(3)]
    still = lied_to.submit(files["silence"])  # a later fsync proves nothing of what the failed one lost
    health = lied_to.http.get("/health")
    readable = [lied_to.task(task_id)["status"] for task_id in kept]
    lied_to.kill()
    lied_to.start()

    assert {answer.status_code for answer in [*refused, still]} == {503}
    assert (health.status_code, health.json()["status"]) == (503, "down")
    assert readable == [lied_to.task(task_id)["status"] for task_id in kept] == ["queued"] * 3
    assert lied_to.troubles() == []
    assert lied_to.rows("pragma integrity_check") == [("ok",)]
    after = {name.removesuffix(".audio") for name in lied_to.spool()}
    assert after <= {row[0] for row in lied_to.rows("select id from task")}
