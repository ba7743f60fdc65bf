"""Commands, for tests: on a terminal, or in this process."""

import fcntl
import logging
import os
import pty
import struct
import subprocess
import sys
import termios

import structlog

from whisperd import cli

ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("WHISPERD_", "NO_COLOR", "COLUMNS", "LINES"))
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


def on_a_terminal(*args, url, keys=b"", when="", steps=(), columns=80, lines=24, environ=None):
    """What the command draws, and its exit status. `keys` are struck once it has drawn `when`.

    `steps`: more of such pairs, each looked for in what is drawn after the one before; instead of keys there
    may be a function, which is called with the process and the terminal.
    """
    own = {"TERM": "xterm", "WHISPERD_URL": url}
    here, there = pty.openpty()
    resize(there, columns, lines)
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
        steps = [*([(when, keys)] if keys else []), *steps]
        drawn, seen = b"", 0
        while block := _read(terminal):
            drawn += block
            while steps and (found := drawn.find(steps[0][0].encode(), seen)) >= 0:
                seen = found + len(steps[0][0].encode())
                _take(steps.pop(0)[1], process, terminal)
        assert steps == [], drawn.decode()
        return drawn.decode(), process.wait()


def _take(step, process, terminal):
    if callable(step):
        step(process, terminal)
    else:
        terminal.write(step)


def resize(terminal, columns, lines):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def _read(terminal):
    try:
        return terminal.read(65536)
    except OSError:  # how Linux says that the other end is closed
        return b""
