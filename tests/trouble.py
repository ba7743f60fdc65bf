"""Trouble with disks, made by the kernel and not by us."""

import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def files_end_at(size):
    """Nothing in this process may write past byte `size` of a file: first a short write, then EFBIG."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def on_a_small_disk(folder, code, *, megabytes=1):
    """Run Python code with `folder` on a disk of its own that is full soon; return what it printed.

    The disk is a tmpfs in a mount namespace that ends with the process, whoever runs the tests.
    """
    mount = f'mount -t tmpfs -o size={megabytes}m tmpfs "$1" && shift && exec "$@"'
    alone = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    command = [*alone, "sh", "-c", mount, "sh", str(folder)]
    if subprocess.run([*command, "true"], capture_output=True).returncode != 0:
        pytest.skip("nobody may mount a tmpfs here")
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [*command, sys.executable, "-P", "-W", "error", "-c", code, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
