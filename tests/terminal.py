"""Commands, for tests: on a terminal, or in this process."""

import logging
import os
import pty
import subprocess
import sys

import structlog

from whisperd import cli

ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("WHISPERD_", "NO_COLOR"))
}


class Outcome:
    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    @property
    def lines(self):
        return self.out.splitlines()


def command_line(monkeypatch, capfd, folder):
    """The command line in this process, with its standard output and error in pipes, at home in `folder`."""
    monkeypatch.chdir(folder)
    for name in os.environ.keys() - ENVIRONMENT.keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "share"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "settings"))

    def run(*args, url):
        monkeypatch.setenv("WHISPERD_URL", url)
        monkeypatch.setattr(sys, "argv", ["whisperd", *map(str, args)])
        handlers = [*logging.root.handlers]
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        finally:  # what it set up writes to this test's standard error
            structlog.reset_defaults()
            logging.root.handlers = handlers
        return Outcome(status, *capfd.readouterr())

    return run


def on_a_terminal(*args, url, keys=b"", when="", columns=80, lines=24, environ=None):
    """What the command draws, and its exit status. `keys` are struck once it has drawn `when`."""
    own = {"COLUMNS": str(columns), "LINES": str(lines), "TERM": "xterm", "WHISPERD_URL": url}
    here, there = pty.openpty()
    with open(here, "r+b", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "whisperd", *args],
            env={**ENVIRONMENT, **own, **(environ or {})},
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
        )
        os.close(there)
        drawn = b""
        while block := _read(terminal):
            drawn += block
            if keys and when.encode() in drawn:
                terminal.write(keys)
                keys = b""
        return drawn.decode(), process.wait()


def _read(terminal):
    try:
        return terminal.read(65536)
    except OSError:  # how Linux says that the other end is closed
        return b""
