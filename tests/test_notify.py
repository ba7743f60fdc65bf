import contextlib
import os
import socket
import subprocess
import sys
import time
import uuid

import pytest

from whisperd.notify import SEND_SECONDS, Notifier


class Systemd:
    """The socket that systemd reads."""

    def __init__(self, name):
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(name.replace("@", "\0"))
        self.socket.settimeout(5)

    def heard(self):
        return self.socket.recv(4096).decode().split("\n")

    def notifier(self, **environ):
        return Notifier({"NOTIFY_SOCKET": self.name, **environ})


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    name = str(tmp_path / "notify") if request.param == "path" else f"@whisperd-test-{uuid.uuid4().hex}"
    listening = Systemd(name)
    with listening.socket:
        yield listening


def test_systemd_hears_that_the_daemon_is_ready_and_how_it_is(systemd):
    assert systemd.notifier().ready("2 workers, nothing queued")
    assert systemd.heard() == ["READY=1", "STATUS=2 workers, nothing queued"]


def test_systemd_hears_of_a_stop(systemd):
    notifier = systemd.notifier()
    notifier.stopping("3 chunks are finished first")
    notifier.extend(32.5)

    assert systemd.heard() == ["STOPPING=1", "STATUS=3 chunks are finished first"]
    assert systemd.heard() == ["EXTEND_TIMEOUT_USEC=32500000"]


def test_a_reload_carries_the_moment_it_began(systemd):
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier = systemd.notifier()
    notifier.reloading()
    notifier.ready()
    state, moment = systemd.heard()

    assert state == "RELOADING=1"
    assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) <= before + 10_000_000
    assert systemd.heard() == ["READY=1"]


def test_the_watchdog_is_fed(systemd):
    notifier = systemd.notifier(WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid()))
    notifier.watchdog()

    assert notifier.watchdog_seconds == 30
    assert systemd.heard() == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
    ],
)
def test_without_a_watchdog_for_this_process_there_is_none(environ):
    assert Notifier(environ).watchdog_seconds is None


def test_a_status_stays_one_line_and_gives_no_orders(systemd):
    systemd.notifier().status("odd name\nMAINPID=1\r\nREADY=1")

    assert systemd.heard() == ["STATUS=odd name MAINPID=1 READY=1"]


def test_a_text_that_is_no_utf8_is_told_all_the_same(systemd):
    systemd.notifier().status("odd \udcff name")

    assert systemd.heard() == ["STATUS=odd ? name"]


@pytest.mark.parametrize("name", [None, "", "vsock:2:1234", "relative"])
def test_outside_systemd_nothing_is_said(name):
    notifier = Notifier({} if name is None else {"NOTIFY_SOCKET": name})

    assert not any([notifier.ready("x"), notifier.reloading(), notifier.stopping(), notifier.watchdog()])


def test_a_socket_that_is_gone_is_no_error(tmp_path):
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


def test_a_name_too_long_for_a_socket_is_no_error(tmp_path):
    assert not Notifier({"NOTIFY_SOCKET": f"/{'x' * 200}"}).ready()


def test_a_systemd_that_hangs_does_not_hang_the_daemon(systemd):
    notifier = systemd.notifier()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filling:
        filling.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filling.sendto(b"STATUS=x", systemd.name.replace("@", "\0"))

    began = time.monotonic()
    assert not notifier.watchdog()
    assert time.monotonic() - began < SEND_SECONDS + 2


def test_children_inherit_nothing_of_it(systemd, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.name)
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier()
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(sorted(os.environ))"], capture_output=True, text=True
    )

    assert notifier.watchdog_seconds == 30
    assert not [name for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID") if name in child.stdout]
