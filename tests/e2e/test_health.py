"""What /health of a real daemon says of workers that stand still, and that it takes it back."""

import os
import signal

import pytest


@pytest.fixture
def one_worker(new_daemon):
    return new_daemon(WORKERS__COUNT=1, WORKERS__SILENCE_SECONDS=6, WORKERS__CANARY_AFTER_SECONDS=0).start()


def why(daemon, name):
    """What it says of this check, while it is not ok."""
    check = daemon.health()["checks"][name]
    return check["status"] == "degraded" and check["message"]


def test_a_worker_that_stands_still_at_a_chunk_is_said_until_it_is_replaced(one_worker, jfk):
    task_id = one_worker.queued(jfk)
    worker = one_worker.until(lambda: next((w for w in one_worker.workers() if w["state"] == "busy"), None))
    os.kill(worker["pid"], signal.SIGSTOP)
    told = one_worker.until(lambda: why(one_worker, "workers"))
    ready = one_worker.http.get("/health/ready").status_code

    assert f"worker 1 (process {worker['pid']}) has given no sign of life" in told
    assert ready == 503  # it is the only one
    one_worker.http.delete(f"/tasks/{task_id}")
    one_worker.until(lambda: one_worker.worker_pids() not in ([worker["pid"]], [None]), 60)
    one_worker.until(lambda: not one_worker.troubles())


def test_a_worker_that_stands_still_with_nothing_to_do_is_found_and_replaced(one_worker):
    one_worker.stop()
    one_worker.environment |= {"WHISPERD_WORKERS__CANARY_AFTER_SECONDS": "1"}
    one_worker.start()
    (stopped,) = one_worker.worker_pids()
    os.kill(stopped, signal.SIGSTOP)
    told = one_worker.until(lambda: why(one_worker, "canary"), 60)

    assert "worker 1 could not transcribe a second of sound" in told
    one_worker.until(lambda: one_worker.worker_pids() not in ([stopped], [None]), 60)
    one_worker.until(lambda: not one_worker.troubles(), 60)
    assert one_worker.rows("select count(*) from task") == [(0,)]
    assert one_worker.get("/usage")["usage"] == []
