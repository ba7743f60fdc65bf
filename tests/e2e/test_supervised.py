"""A daemon under a supervisor: what systemd hears of it, and what a reload changes."""

import re
import signal
import socket
import threading
import time

import pytest


class Supervisor:
    """The receiving end of sd_notify(3): a real socket, and all that was said to it."""

    def __init__(self, path):
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.1)
        self.heard = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self):
        while not self._over.is_set():
            try:
                self.heard.append(self._socket.recv(4096).decode())
            except TimeoutError:
                continue

    def count(self, line):
        return sum(line in said.splitlines() for said in self.heard)

    def close(self):
        self._over.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def supervisor(tmp_path):
    made = Supervisor(tmp_path / "notify")
    yield made
    made.close()


@pytest.fixture
def supervised(new_daemon, supervisor):
    """A running daemon that believes in systemd, with a watchdog of 3 s."""
    environ = {"NOTIFY_SOCKET": str(supervisor.path), "WATCHDOG_USEC": "3000000"}
    return new_daemon(environ=environ, WORKERS__COUNT=1).start()


def test_the_supervisor_hears_of_the_start_of_each_second_and_of_the_stop(supervised, supervisor):
    supervised.until(lambda: supervisor.count("READY=1") == 1)
    supervised.until(lambda: supervisor.count("WATCHDOG=1") >= 2)
    supervised.until(lambda: supervisor.count("STATUS=0 queued, 0 processing, 1 of 1 workers ready"))

    assert supervised.stop() == 0
    assert supervisor.count("STOPPING=1") == 1
    assert supervisor.count("EXTEND_TIMEOUT_USEC=90000000") == 1  # the grace of 30 s, and a minute


def test_a_daemon_that_lost_its_database_is_not_well(supervised, supervisor):
    """Its -wal is gone: what it commits now nobody would find. It says so, until it is restarted."""
    supervised.until(lambda: supervisor.count("WATCHDOG=1"))
    (supervised.data / "whisperd.db-wal").unlink()
    supervised.until(lambda: "the database is in trouble" in supervised.said())
    supervised.until(lambda: supervised.get("/admin/backups")["backups"])  # until then it may take its time
    fed, since = supervisor.count("WATCHDOG=1"), time.monotonic()

    supervised.until(lambda: time.monotonic() - since > 2)  # it would have been fed twice
    assert supervisor.count("WATCHDOG=1") - fed <= 1  # the one that was on its way
    health = supervised.http.get("/health")
    assert (health.status_code, health.json()["checks"]["database"]["status"]) == (503, "down")
    assert any("emergency" in str(b["reason"]) for b in supervised.get("/admin/backups")["backups"])


def test_a_hangup_reads_the_settings_again(supervised, supervisor, tmp_path):
    supervised.stop()
    settings = tmp_path / "config.toml"
    settings.write_text("[workers]\ncount = 1\n")
    supervised.environment["WHISPERD_CONFIG"] = str(settings)
    del supervised.environment["WHISPERD_WORKERS__COUNT"]
    supervised.start()

    settings.write_text('[workers]\ncount = 2\nmodel = "base.en"\n[logging]\nlevel = "debug"\n')
    supervised.process.send_signal(signal.SIGHUP)
    supervised.until(lambda: len(supervised.get("/workers")["workers"]) == 2)

    assert re.search(r'"key": "workers.count".*a setting changed', supervised.said())
    assert re.search(r'"key": "workers.model".*a setting needs a restart', supervised.said())
    assert supervisor.count("RELOADING=1") == 1


def test_wrong_settings_change_nothing(supervised, tmp_path):
    supervised.stop()
    settings = tmp_path / "config.toml"
    settings.write_text("")
    supervised.environment["WHISPERD_CONFIG"] = str(settings)
    supervised.start()

    settings.write_text("[workers]\ncount = 'many'\n")
    supervised.process.send_signal(signal.SIGHUP)
    supervised.until(lambda: "workers.count = 'many'" in supervised.said())

    assert "the settings are wrong" in supervised.said()
    assert supervised.troubles() == []
