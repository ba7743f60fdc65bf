"""Files that are there whole or not at all: the order of what is told to the disk, and how they go."""

import os
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from whisperd import durable, scratch

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def told_to_the_disk():
    """What is fsynced and named meanwhile, in order: "sync a", "name a b" (of a folder: its name and a /)."""
    told, real = [], {name: getattr(os, name) for name in ("fsync", "rename", "replace")}

    def fsync(file):
        path = Path(os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}"))
        told.append(f"sync {path.name}{'/' * path.is_dir()}")
        real["fsync"](file)

    def naming(call):
        def named(source, target, **options):
            told.append(f"name {Path(source).name} {Path(target).name}")
            real[call](source, target, **options)

        return named

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        for call in ("rename", "replace"):
            patch.setattr(os, call, naming(call))
        yield told


def test_a_name_is_given_for_good(tmp_path):
    (tmp_path / "part").touch()

    with told_to_the_disk() as told:
        durable.publish(tmp_path / "part", tmp_path / "whole")

    assert told == ["name part whole", f"sync {tmp_path.name}/"]


def test_folders_are_made_for_good(tmp_path):
    with told_to_the_disk() as told:
        durable.make_folder(tmp_path / "a" / "b")
        durable.make_folder(tmp_path / "a" / "b")

    assert told == [f"sync {tmp_path.name}/", "sync a/"]
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "a").touch()

    with pytest.raises(FileExistsError):
        durable.make_folder(tmp_path / "a")


def test_a_file_that_is_written_whole_has_its_name_in_the_end(tmp_path):
    (tmp_path / ".a.part").write_text("of a call that was killed")
    with durable.whole(tmp_path / "a") as part:
        assert not part.exists()
        part.write_text("new")
        assert not (tmp_path / "a").exists()

    assert (tmp_path / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["a"]


def test_of_a_file_that_was_not_written_whole_nothing_is_left(tmp_path):
    def fail():
        with durable.whole(tmp_path / "a") as part:
            part.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert os.listdir(tmp_path) == []


# --- removing ---

OPENED_MEANWHILE = """
import os, sys
from pathlib import Path
from whisperd import durable

path, sizes = Path(sys.argv[1]), []

def look(seconds):
    sizes.append(path.stat().st_size)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except BlockingIOError:
        pass

durable.PORTION, durable.sleep = 4096, look
durable.remove(path)
print(path.exists(), *sizes)
"""


def test_who_opens_a_file_while_it_is_removed_does_no_harm(tmp_path):
    """The lease that shows whether somebody has it open once ended the process with SIGIO."""
    (tmp_path / "large").write_bytes(bytes(20_000))
    done = subprocess.run(
        [sys.executable, "-P", "-c", OPENED_MEANWHILE, tmp_path / "large"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "False 15904\n"  # and whoever waits to open it does not wait for long


def test_a_large_file_is_freed_in_portions(tmp_path, monkeypatch):
    """At once, it would hold up the fsync of every commit meanwhile."""
    monkeypatch.setattr(durable, "PORTION", 4096)
    (tmp_path / "large").write_bytes(bytes(20_000))
    sizes = []
    monkeypatch.setattr(durable, "sleep", lambda _: sizes.append((tmp_path / "large").stat().st_size))

    durable.remove(tmp_path / "large")

    assert sizes == [20_000 - n * 4096 for n in range(1, 5)]
    assert not (tmp_path / "large").exists()


def test_a_file_that_somebody_reads_is_left_to_him_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "PORTION", 4096)
    (tmp_path / "large").write_bytes(bytes(20_000))
    with open(tmp_path / "large", "rb") as his:
        durable.remove(tmp_path / "large")

        assert len(his.read()) == 20_000
    assert not (tmp_path / "large").exists()


def test_a_file_that_has_another_name_stays_whole_under_that(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "PORTION", 4096)
    (tmp_path / "large").write_bytes(bytes(20_000))
    (tmp_path / "link").hardlink_to(tmp_path / "large")

    durable.remove(tmp_path / "large")

    assert (tmp_path / "link").stat().st_size == 20_000


# --- folders to try something in ---


def test_a_scratch_folder_is_gone_in_the_end(tmp_path):
    def fail():
        with scratch.scratch(tmp_path) as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            (folder / "copy").touch()
            raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        fail()
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_cleared_and_what_is_in_use_is_not(tmp_path):
    (tmp_path / ".preview-killed").mkdir()
    (tmp_path / ".preview-killed" / "copy").touch()
    (tmp_path / ".preview-file").touch()
    with scratch.scratch(tmp_path) as mine, scratch.scratch(tmp_path) as other:
        assert sorted(os.listdir(tmp_path)) == sorted([mine.name, other.name, ".preview-file"])

    assert os.listdir(tmp_path) == [".preview-file"]
