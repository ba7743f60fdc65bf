"""A real daemon in a process of its own, with real weights, spoken to over HTTP."""

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx


class Daemon:
    """`whisperd serve` on a free port; everything it keeps is below `folder`."""

    def __init__(self, folder, models, **environment):
        self.folder = Path(folder)
        self.models = models
        self.environment = {f"WHISPERD_{name}": str(value) for name, value in environment.items()}
        self.log = self.folder / "log"
        self.http = httpx.Client()

    def start(self):
        self.folder.mkdir(exist_ok=True)
        command = [sys.executable, "-P", "-m", "whisperd", "serve", "--port", "0"]
        command += ["--data-dir", str(self.folder / "data"), "--models-dir", str(self.models)]
        with open(self.log, "ab") as log:
            offset = log.tell()
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **self.environment}
            )
        ready = self.until(lambda: self._ready_line(offset))
        self.http.close()
        self.http = httpx.Client(base_url=ready, timeout=60)
        self.until(lambda: all(w["state"] != "starting" for w in self.get("/workers")["workers"]), 60)
        return self

    def _ready_line(self, offset):
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.said()}")
        found = re.search(rb"ready on (http://\S+)", self.log.read_bytes()[offset:])
        return found and found[1].decode()

    def said(self):
        return self.log.read_text(errors="replace")

    def get(self, path, **params):
        answer = self.http.get(path, params=params)
        answer.raise_for_status()
        return answer.json()

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

    def result(self, task_id, format="text"):
        answer = self.http.get(f"/tasks/{task_id}/result", params={"format": format})
        assert answer.status_code == 200, answer.text
        return answer.text

    def rows(self, sql, *args):
        """Ask the database of a daemon that is not running, or with a connection of our own if it is."""
        with contextlib.closing(sqlite3.connect(self.folder / "data" / "whisperd.db")) as conn:
            return conn.execute(sql, args).fetchall()

    def spool(self):
        return sorted(os.listdir(self.folder / "data" / "spool"))

    def worker_pids(self):
        return [worker["pid"] for worker in self.get("/workers")["workers"]]

    def until(self, condition, timeout=30):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if result := condition():
                return result
            time.sleep(0.02)
        raise AssertionError(f"not in time; the daemon said:\n{self.said()[-4000:]}")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.http.close()

    def stop(self, timeout=40):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout)
        self.http.close()
        return status
