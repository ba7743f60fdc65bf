"""Trouble with disks, made by the kernel and not by us."""

import errno
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

_ALONE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]


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
    command = [*_ALONE, "sh", "-c", mount, "sh", str(folder)]
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


class SmallDisk:
    """A disk of so many megabytes at `folder`, seen only by who is started `inside` it; gone at the end.

    A tmpfs in a mount namespace that a process holds: so it outlives the daemons on it. `seen` is where its
    files are found from here.
    """

    def __init__(self, folder, *, megabytes):
        self.folder, self.megabytes = Path(folder), megabytes

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        mount = f'mount -t tmpfs -o size={self.megabytes}m tmpfs "$1" && echo mounted && exec cat'
        command = [*_ALONE, "sh", "-c", mount, "sh", str(self.folder)]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._holder.stdout.readline() != b"mounted\n":
            self.__exit__()
            pytest.skip("nobody may mount a tmpfs here")
        return self

    def __exit__(self, *exc):
        self._holder.stdin.close()  # the end of cat
        self._holder.stdout.close()
        self._holder.wait()

    @property
    def inside(self):
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ("nsenter", f"--target={self._holder.pid}", "--mount", *user, "--")

    @property
    def seen(self):
        return Path(f"/proc/{self._holder.pid}/root{self.folder}")

    def remount(self, how):
        """`ro` or `rw`; the kernel refuses `ro` while a file is open for writing."""
        command = [*self.inside, "mount", "-o", f"remount,{how}", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)

    @contextmanager
    def filled(self, *, but_for=0):
        """Somebody else's file takes all that is free, but for so many bytes."""
        filler = self.seen / "somebody's film"
        try:
            with open(filler, "wb", buffering=0) as file:
                while self.free_bytes() > but_for:
                    file.write(bytes(min(2**20, max(4096, self.free_bytes() - but_for))))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        try:
            yield
        finally:
            filler.unlink()

    def free_bytes(self):
        disk = os.statvfs(self.seen)
        return disk.f_bavail * disk.f_frsize


class Lies:
    """The preloaded library's folder: what it holds decides how the C library lies to a program."""

    def __init__(self, library, folder):
        self._folder = folder
        self.environ = {"LD_PRELOAD": str(library), "LD_TROUBLE": str(folder)}
        folder.mkdir()

    def clock_is_ahead(self, seconds):
        self._say("clock", str(seconds))

    @contextmanager
    def disk(self, *lines):
        """While it lasts, calls on files fail: ("sync", errno.EIO, "whisperd.db-wal"), …"""
        self._say("disk", "".join(f"{call} {number} {part}\n" for call, number, part in lines))
        try:
            yield
        finally:
            (self._folder / "disk").unlink()

    def _say(self, name, text):
        whole = self._folder / f"{name}.new"
        whole.write_text(text)
        whole.rename(self._folder / name)
