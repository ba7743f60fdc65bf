"""A daemon of a benchmark's own, on a free port, and an empty data folder or one that was filled for it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from whisperd.client import Client
from whisperd.config import load


class Daemon(NamedTuple):
    url: str
    client: Client
    pid: int


@contextlib.contextmanager
def a_daemon(
    data: Path | None = None,
    *,
    program: str = "whisperd",
    environ: Mapping[str, str] | None = None,
    **settings: object,
) -> Iterator[Daemon]:
    """`data`: its data folder, if not an empty one; `settings`: WHISPERD_ variables.

    `program`: the module that is run, and `environ`: what it reads besides.
    """
    environ = {**(environ or {}), **{f"WHISPERD_{name}": str(value) for name, value in settings.items()}}
    with tempfile.TemporaryDirectory() as empty:
        command = [sys.executable, "-m", program, "serve", "--port", "0"]
        command += ["--data-dir", str(data or empty), "--models-dir", str(load().models_dir)]
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environ},
        ) as process:
            assert process.stdout is not None
            try:
                found = re.search(r"http://\S+", process.stdout.readline())
                assert found, "the daemon did not start"
                with Client(found[0]) as client:
                    yield Daemon(found[0], client, process.pid)
            finally:
                process.terminate()
