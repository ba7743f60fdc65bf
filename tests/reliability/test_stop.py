"""Promise 24: it stops in time, whatever it is doing, with code 0 and with nothing lost."""

import contextlib
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from tests.reliability import sounds
from tests.reliability.clients import Clients

pytestmark = pytest.mark.timeout(600)
GRACE = 2
CALM = {
    "SHUTDOWN__GRACE_SECONDS": GRACE,
    "WORKERS__NICE": 0,
    "LOGGING__LEVEL": "info",
    "LOGGING__FORMAT": "json",
}


@pytest.fixture(scope="module")
def long_file(jfk, tmp_path_factory):
    path = tmp_path_factory.mktemp("speech") / "long.wav"
    path.write_bytes(sounds.minutes_of(jfk, 3))
    return path


@pytest.fixture(scope="module")
def daemon(daemons):
    """The same files for all tests of this module; each starts and stops it."""
    return daemons(**CALM)


@contextlib.contextmanager
def listening(url, task_id, heard):
    """An open event stream and an open WebSocket, read on threads, which say how they ended."""

    there = threading.Barrier(3)

    def follow():
        with httpx.stream("GET", f"{url}/tasks/{task_id}/events", timeout=30) as stream:
            there.wait(30)
            heard["lines"] = sum(1 for _ in stream.iter_lines())
        heard["events"] = True

    def watch():
        with connect(url.replace("http", "ws") + "/ws", close_timeout=5) as socket:
            there.wait(30)
            try:
                heard["messages"] = sum(1 for _ in socket)
            except ConnectionClosedError as closed:  # the server may be quicker than the call: 1012, restart
                if closed.rcvd is None or closed.rcvd.code != 1012:
                    raise
        heard["ws"] = True

    threads = [threading.Thread(target=follow), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    try:
        there.wait(30)
        yield
    finally:
        for thread in threads:
            thread.join(20)


def stopped_in(daemon, number=signal.SIGTERM):
    began = time.monotonic()
    daemon.process.send_signal(number)
    status = daemon.process.wait(60)
    daemon.url = None
    return time.monotonic() - began, status


def test_sighup_and_sigterm_under_load_with_open_streams_lose_nothing_and_it_ends_in_time(
    daemon, clips, long_file, size, chance, report
):
    slowest = 0.0
    for _ in range(size(1, 20)):
        daemon.start()
        for waiting in daemon.get("/tasks", status="queued")["tasks"]:
            daemon.http.delete(f"/tasks/{waiting['task_id']}")
        heard = {}
        task_id = daemon.queued(long_file, beam_size="1")
        with Clients(daemon, clips, {"silence": 9, "words": 1}, pause=0.1, seed=chance.random()) as clients:
            with listening(daemon.url, task_id, heard):
                time.sleep(chance.uniform(0.3, 1.0))
                daemon.process.send_signal(signal.SIGHUP)
                time.sleep(chance.uniform(0.1, 0.5))
                assert daemon.health()["status"] != "down"
                seconds, status = stopped_in(daemon)
            slowest = max(slowest, seconds)
            assert (status, heard.get("events"), heard.get("ws")) == (0, True, True)
            acknowledged = {task_id for task_id, _ in list(clients.acknowledged.values())}
            kept = {row[0]: row[1:] for row in daemon.left("select id, state, attempt from task")[0]}
            assert acknowledged <= set(kept)
            assert {attempt for _, attempt in kept.values()} == {1}  # a stop is nobody's failure
            assert {state for state, _ in kept.values()} <= {"queued", "completed", "cancelled"}
            clients.daemon = None  # nobody is left to answer what they are sending
        assert {status for status, _ in clients.surprises} <= {503}
    report.update(sigterm_under_load=size(1, 20), slowest_s=round(slowest, 2), grace_s=GRACE)

    assert slowest <= GRACE + 2


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_sigterm_during_the_model_load_ends_in_time(daemon, size, chance, report):
    slowest = 0.0
    for _ in range(size(1, 40)):
        daemon.launch()
        daemon.until(lambda: children(daemon.process.pid))  # before, Python may not know of signals yet
        time.sleep(chance.uniform(0.0, 0.6))
        seconds, status = stopped_in(daemon)
        slowest = max(slowest, seconds)
        assert (status, "Traceback" in daemon.said_now()) == (0, False), daemon.said_now()
    report["sigterm_in_start_slowest_s"] = round(slowest, 2)

    assert slowest <= GRACE + 2
