"""A real Redis, which comes and goes; and BullMQ's own Queue for Node in front of it."""

import contextlib
import json
import shutil
import socket
import subprocess
import time

from tests.clients import installed

NODE = installed.HERE.parent / "redis" / "node"


class Redis:
    """redis-server on a port of 127.0.0.1, by default a free one, kept over stops.

    `settings`: of its command line.
    """

    def __init__(self, folder, port=None, **settings):
        self.folder = folder
        self.settings = {"appendonly": "yes", "appendfsync": "everysec", "save": "", **settings}
        self.port = port or _a_free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process = None

    def start(self):
        self.folder.mkdir(exist_ok=True)
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        for name, value in self.settings.items():
            command += [f"--{name}", *(value if isinstance(value, list) else [value])]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, f"redis-server ended with {self._process.returncode}"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self

    def _answers(self):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 1) as connection,
        ):
            connection.sendall(b"PING\r\n")
            return connection.recv(64)[:1] in (b"+", b"-") and not self._loads(connection)
        return False

    def _loads(self, connection):
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"-LOADING")

    def cli(self, *words):
        command = ["redis-cli", "-p", str(self.port), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
        return done.stdout.strip()

    @contextlib.contextmanager
    def watching(self):
        """The lines of what it is asked, as they come."""
        command = ["redis-cli", "-p", str(self.port), "monitor"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
            assert watcher.stdout.readline() == "OK\n"
            try:
                yield watcher.stdout
            finally:
                watcher.terminate()

    def stop(self):
        """In order: what was written is on the disk."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def kill(self):
        """As by a crash: what it had not written to its file is lost."""
        self._process.kill()
        self._process.wait()
        self._process = None

    def forget(self):
        """While it is stopped: the next start finds nothing."""
        shutil.rmtree(self.folder)


def _a_free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Sentinel:
    """It watches a Redis under the name queue, and makes its replica the master soon after that has died."""

    def __init__(self, folder, master):
        folder.mkdir()
        self.port = _a_free_port()
        config = folder / "sentinel.conf"  # into which it writes what it learns
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor queue 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds queue 500\n"
            "sentinel failover-timeout queue 3000\n"
        )
        command = ["redis-server", str(config), "--sentinel"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def cli(self, *words):
        """Also while it does not answer yet."""
        command = ["redis-cli", "-p", str(self.port), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    def stop(self):
        self._process.terminate()
        self._process.wait(30)


class Node:
    """BullMQ for Node in a process of its own: `node.add(data, opts)`, `node.look(id)`, …

    `cluster_prefix`: of the keys in a Redis Cluster, of which `redis` is a node.
    """

    def __init__(self, redis, queue="transcription", cluster_prefix=""):
        script = installed.node_modules(NODE) / "bullmq.mjs"
        command = ["node", str(script), str(redis.port), queue, cluster_prefix]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._process.stdout.readline()

    def __getattr__(self, verb):
        return lambda *args: self._ask(verb, *args)

    def _ask(self, verb, *args):
        self._process.stdin.write(json.dumps([verb, *args]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
