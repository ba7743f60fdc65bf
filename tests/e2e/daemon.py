"""A real daemon in a process of its own, with real weights, spoken to over HTTP."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

_ASK = """
import json, sqlite3, sys
rows = sqlite3.connect(sys.argv[1]).execute(sys.argv[2], json.loads(sys.argv[3])).fetchall()
print(json.dumps(rows))
"""


@contextlib.contextmanager
def serving(folder, models, *, scopes=(), **settings):
    """A daemon while the block lasts, which has to end well. `scopes`: it asks for a key that may do this.

    Its workers are no less urgent than the rest: on a busy machine clients would wait for them in vain.
    """
    daemon = Daemon(folder, models, **{"WORKERS__NICE": 0, **settings})
    if scopes:
        daemon.key = a_key(daemon.data, *scopes)
    try:
        yield daemon.start()
        assert daemon.stop() == 0
    finally:
        daemon.end()


def a_key(data, *scopes, tenant=None):
    """A new key, as the command line prints it."""
    command = [sys.executable, "-P", "-m", "whisperd", "keys", "add", "--data-dir", str(data)]
    command += ["--tenant", tenant] if tenant else []
    done = subprocess.run(
        [*command, "--scope", ",".join(scopes)], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip().splitlines()[-1]


class Daemon:
    """`whisperd serve` on a free port; everything it keeps is below `folder`.

    `environ`: variables as they are; `settings`: WHISPERD_ ones. `inside`: a command to run it by, which must
    become the daemon (exec) and not start it; then `data` is where its data folder is seen from here.
    """

    def __init__(self, folder, models, *, environ=None, inside=(), data=None, **settings):
        self.folder = Path(folder)
        self.data = Path(data or self.folder / "data")
        self.models = models
        self.program = (sys.executable, "-P", "-m", "whisperd")
        self.inside = tuple(inside)
        settings = {"CACHE__ENABLED": "false", **settings}  # tests send the same clip over and over
        self.environment = {f"WHISPERD_{name}": str(value) for name, value in settings.items()}
        self.environment |= environ or {}
        self.log = self.folder / "log"
        self.options = ()  # of the command, besides
        self.key = None  # that it is asked with
        self.http = httpx.Client()
        self.url = None  # while it serves
        self.process = None

    def start(self):
        self.launch()
        ready = self.until(self._ready_line)
        self.http.close()
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self.http = httpx.Client(base_url=ready, timeout=60, headers=headers)
        self.until(lambda: all(w["state"] != "starting" for w in self.get("/workers")["workers"]), 60)
        self.url = ready
        return self

    def launch(self):
        """Begin to start it, and wait for nothing."""
        self.folder.mkdir(exist_ok=True)
        command = [*self.inside, *self.program, "serve", "--port", "0"]
        command += ["--data-dir", str(self.folder / "data"), "--models-dir", str(self.models), *self.options]
        with open(self.log, "ab") as log:
            self._said_before = log.tell()
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **self.environment}
            )

    def refused(self, timeout=30):
        """Start what is to end by itself; returns its exit status and what it said."""
        self.launch()
        status = self.process.wait(timeout)
        return status, self.said_now()

    def _ready_line(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.said()}")
        found = re.search(r"ready on (http://\S+)", self.said_now())
        return found and found[1]

    def said(self):
        return self.log.read_text(errors="replace")

    def said_now(self):
        """Since its last start."""
        return self.log.read_bytes()[self._said_before :].decode(errors="replace")

    def get(self, path, **params):
        answer = self.http.get(path, params=params)
        answer.raise_for_status()
        return answer.json()

    def health(self):
        """Whatever its status: down is an answer too."""
        return self.http.get("/health").json()

    def troubles(self):
        """What is not well; but for a loop that lags: the machine that runs the tests may be busy."""
        found = {name: check for name, check in self.health()["checks"].items() if name != "loop"}
        return [name for name, check in found.items() if check["status"] != "ok"]

    def submit(self, path, name=None, **options):
        with open(path, "rb") as file:
            return self.http.post(
                "/tasks/transcription", files={"file": (name or Path(path).name, file)}, data=options
            )

    def queued(self, path, **options):
        answer = self.submit(path, **options)
        assert answer.status_code == 202, answer.text
        return answer.json()["task_id"]

    def task(self, task_id):
        return self.get(f"/tasks/{task_id}")

    def finished(self, task_id, timeout=90):
        return self.until(
            lambda: (
                (task := self.get(f"/tasks/{task_id}", wait=10))
                and task["status"] in ("completed", "failed", "cancelled")
                and task
            ),
            timeout,
        )

    def all_over(self, timeout=90):
        """Wait until nothing is queued or in work."""
        return self.until(lambda: (s := self.get("/stats"))["queued"] + s["processing"] == 0 and s, timeout)

    def result(self, task_id, format="text"):
        answer = self.http.get(f"/tasks/{task_id}/result", params={"format": format})
        assert answer.status_code == 200, answer.text
        return answer.text

    def rows(self, sql, *args):
        """Ask the database of a daemon that is not running, or with a connection of our own if it is."""
        if self.inside:  # SQLite would follow the way to its folder to another one, outside
            command = [*self.inside, sys.executable, "-c", _ASK, self.folder / "data" / "whisperd.db", sql]
            said = subprocess.run([*command, json.dumps(args)], check=True, capture_output=True).stdout
            return [tuple(row) for row in json.loads(said)]
        with contextlib.closing(sqlite3.connect(self.data / "whisperd.db")) as conn:
            return conn.execute(sql, args).fetchall()

    def left(self, *statements):
        """Ask a copy of what a killed daemon left: its next start finds the files as they were."""
        with tempfile.TemporaryDirectory() as folder:
            for file in self.data.glob("whisperd.db*"):
                shutil.copy(file, folder)
            with contextlib.closing(sqlite3.connect(Path(folder) / "whisperd.db")) as conn:
                return [conn.execute(sql).fetchall() for sql in statements]

    def spool(self):
        return sorted(os.listdir(self.data / "spool"))

    def workers(self):
        return self.get("/workers")["workers"]

    def worker_pids(self):
        return [worker["pid"] for worker in self.workers()]

    def rss_bytes(self):
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def until(self, condition, timeout=30):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if result := condition():
                return result
            time.sleep(0.02)
        raise AssertionError(f"not in time; the daemon said:\n{self.said()[-4000:]}")

    def kill(self):
        self.url = None
        self.process.kill()
        self.process.wait()
        self.http.close()

    def stop(self, timeout=40):
        self.url = None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout)
        self.http.close()
        return status

    def end(self):
        """After a test, whatever became of it."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.http.close()
