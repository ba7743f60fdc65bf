"""Commands on a terminal, for tests."""

import os
import pty
import subprocess
import sys

ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("WHISPERD_", "NO_COLOR"))
}


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
