"""Promises 12 and 17: whatever was done to the files, a start passes no empty queue off as the old one."""

import os
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.reliability.sizes import with_long
from tests.trouble import SmallDisk
from whisperd.condition import unseal

pytestmark = pytest.mark.timeout(300)
QUICK = {"WORKERS__COUNT": 1, "WORKERS__NICE": 0, "SHUTDOWN__GRACE_SECONDS": 2}
WAITING = "2100-01-01T00:00:00Z"
ROWS = "select id, seq, priority, state, run_at, metadata from task order by seq"


@dataclass
class Life:
    """A data folder after some life, and what was acknowledged in it."""

    data: Path
    rows: list  # all
    backed_up: list  # at the time of its only backup


@pytest.fixture(scope="module")
def lives(daemons, clips, tmp_path_factory):
    """`stopped` in order; `killed`, two of its tasks in no backup; `bare`, a cp of the live file alone."""
    folder = tmp_path_factory.mktemp("lives")
    (sound := folder / "s.wav").write_bytes(clips["silence"])
    daemon = daemons(**QUICK).start()
    daemon.finished(daemon.queued(sound))
    for priority in (0, 5, -5):
        daemon.queued(sound, run_at=WAITING, priority=str(priority), metadata='{"n": 1}')
    assert daemon.http.post("/admin/backup").status_code == 200
    backed_up = daemon.rows(ROWS)
    late = [daemon.queued(sound, run_at=WAITING) for _ in range(2)]
    rows = daemon.rows(ROWS)
    assert {row[0] for row in rows} >= set(late)
    shutil.copytree(daemon.data / "spool", folder / "bare" / "spool")
    shutil.copy(daemon.data / "whisperd.db", folder / "bare" / "whisperd.db")
    daemon.kill()
    shutil.copytree(daemon.data, folder / "killed")
    daemon.start()
    assert daemon.stop() == 0
    shutil.copytree(daemon.data, folder / "stopped")
    return {name: Life(folder / name, rows, backed_up) for name in ("killed", "stopped", "bare")}


@pytest.fixture
def daemon_of(lives, daemons, tmp_path_factory):
    """A daemon on a copy of such a folder."""

    def make(name, **how):
        daemon = daemons(tmp_path_factory.mktemp("start") / "d", **QUICK, **how)
        shutil.copytree(lives[name].data, daemon.data)
        return daemon

    return make


def database(daemon):
    return daemon.data / "whisperd.db"


def delete(daemon):
    database(daemon).unlink()


def truncate(daemon):
    os.truncate(database(daemon), database(daemon).stat().st_size // 2)


def flip_bits(daemon):
    """In the text of a row, where SQLite's own checks see nothing."""
    data = bytearray(database(daemon).read_bytes())
    at = data.rindex(b'{"n":1}')
    data[at + 5] ^= 1
    database(daemon).write_bytes(data)


def scribble(daemon):
    with open(database(daemon), "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(8192))


def delete_wal(daemon):
    Path(f"{database(daemon)}-wal").unlink()


def empty(daemon):
    database(daemon).write_bytes(b"")


BROKEN = [
    ("stopped", truncate),
    ("stopped", flip_bits),
    ("stopped", delete),
    ("killed", delete),
    ("stopped", scribble),
    ("killed", empty),
]
SHORT = 2


def pytest_generate_tests(metafunc):
    if "damage" in metafunc.fixturenames:
        cases = BROKEN if metafunc.config.getoption("--long") else BROKEN[:SHORT]
        names = [f"{life}-{damage.__name__}" for life, damage in cases]
        metafunc.parametrize(("life", "damage"), cases, ids=names)


def test_a_broken_database_is_set_aside_and_the_newest_backup_is_the_queue_and_it_is_said(
    lives, daemon_of, life, damage
):
    daemon = daemon_of(life)
    damage(daemon)
    was = sorted(file.read_bytes() for file in daemon.data.glob("whisperd.db*"))
    daemon.start()
    health = daemon.health()
    # A stop takes a backup, a kill does not: what came after the only one is in no backup.
    expected = lives[life].rows if life == "stopped" else lives[life].backed_up
    rows = daemon.rows(ROWS)
    daemon.kill()

    assert rows == expected
    assert health["status"] == "degraded"
    assert "restored whisperd-" in health["checks"]["recovery"]["message"]
    assert "restored whisperd-" in daemon.said()
    assert any(name.endswith(".restored") for name in os.listdir(daemon.data / "backups"))
    if was and damage is not empty:
        kept = [file.read_bytes() for file in daemon.data.rglob("*") if "whisperd.db" in file.name]
        assert any(content in kept for content in was)  # nothing was deleted


def test_a_lost_wal_is_noticed_and_what_it_held_is_not_passed_over_in_silence(lives, daemon_of):
    daemon = daemon_of("killed")
    delete_wal(daemon)
    daemon.start()
    health, rows = daemon.health(), daemon.rows(ROWS)
    daemon.kill()

    assert health["status"] == "degraded"
    assert len(rows) >= len(lives["killed"].backed_up)
    assert {row[0] for row in lives["killed"].backed_up} <= {row[0] for row in rows}


@with_long
def test_a_lost_shm_costs_nothing(lives, daemon_of):
    daemon = daemon_of("killed")
    Path(f"{database(daemon)}-shm").unlink()
    daemon.start()
    troubles, rows = daemon.troubles(), daemon.rows(ROWS)
    daemon.kill()

    assert rows == lives["killed"].rows
    assert troubles == []


def test_a_bare_copy_of_the_live_file_is_told_from_a_whole_one(lives, daemon_of):
    """Taken with cp, without its -wal and with no backups beside it: it may miss what came last, or all."""
    daemon = daemon_of("bare")
    daemon.launch()
    daemon.until(lambda: daemon.process.poll() is not None or "ready on" in daemon.said_now())
    served = daemon.process.poll() is None
    if served:
        daemon.end()
        said = daemon.said_now()
        assert "no backup knows" in said
    else:
        assert "begin-afresh" in daemon.said_now()


def test_without_a_backup_a_lost_database_is_no_empty_queue(lives, daemon_of):
    daemon = daemon_of("stopped")
    delete(daemon)
    shutil.rmtree(daemon.data / "backups")
    before = files(daemon)
    status, said = daemon.refused()

    assert status == 1
    assert "whisperd restore" in said
    assert "--begin-afresh" in said
    assert "Traceback" not in said
    assert files(daemon) == before


def files(daemon):
    """All it keeps, but for its lock."""
    found = [path for path in daemon.data.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path): path.read_bytes() for path in found if not path.name.startswith(".lock")}


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(daemon_of):
    daemon = daemon_of("stopped")
    with closing(sqlite3.connect(database(daemon))) as conn:
        conn.execute("pragma user_version = 999")
    unseal(database(daemon))  # a newer version would have: with our seal it is taken for a flipped bit
    was = database(daemon).read_bytes()
    status, said = daemon.refused()

    assert status == 1
    assert "schema 999" in said
    assert "upgrade" in said
    assert database(daemon).read_bytes() == was


def test_a_read_only_disk_is_named_and_nothing_is_served_that_could_not_be_kept(
    lives, daemons, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("ro") / "d"
    with SmallDisk(folder / "data", megabytes=4) as disk:
        shutil.copytree(lives["stopped"].data, disk.seen, dirs_exist_ok=True)
        disk.remount("ro")
        daemon = daemons(folder, inside=disk.inside, data=disk.seen, **QUICK)
        status, said = daemon.refused()
        disk.remount("rw")
        kept = (disk.seen / "whisperd.db").read_bytes()

    assert status == 1
    assert "cannot be written" in said or "Read-only" in said
    assert "Traceback" not in said
    assert kept == (lives["stopped"].data / "whisperd.db").read_bytes()


def test_a_second_daemon_on_the_same_files_is_refused_by_whatever_way_it_comes(daemon_of, daemons, size):
    first = daemon_of("stopped").start()
    link = first.folder.parent / "other"
    link.mkdir()
    (link / "data").symlink_to(first.data)
    aside = first.folder.parent / "aside" / "data"
    aside.mkdir(parents=True)
    (aside / "whisperd.db").symlink_to(first.data / "whisperd.db")
    began = time.monotonic()
    for folder in size((aside.parent,), (link, aside.parent)):
        status, said = daemons(folder, **QUICK).refused()
        assert status == 1
        assert f"in use by the daemon with pid {first.process.pid}" in said
        assert "Traceback" not in said

    assert time.monotonic() - began < 20
    assert first.health()["status"] in ("ok", "degraded")
    assert first.stop() == 0
