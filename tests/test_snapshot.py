import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from tests.notes import (
    ROOT,
    count,
    insert,
    marked_clean,
    numbers,
    pragma,
    run_with_db,
    wal_size,
)
from tests.trouble import files_end_at, on_a_small_disk
from whisperd.condition import commits
from whisperd.db import SCRIPTS, Database, migrate
from whisperd.snapshot import SnapshotStopped, snapshot_of
from whisperd.task import StorageFailed


@pytest.fixture
def path(tmp_path):
    (tmp_path / "live").mkdir()
    return tmp_path / "live" / "q.db"


@pytest.fixture
def target(tmp_path):
    (tmp_path / "copies").mkdir()
    return tmp_path / "copies" / "copy.db"


@pytest.fixture
def with_db(path):
    return lambda body: run_with_db(path, body)


def never():
    return threading.Event()


def opened(target):
    return closing(sqlite3.connect(f"{target.as_uri()}?mode=ro", uri=True))


class MidWay(threading.Event):
    """A stop that nobody sets, looked at between two steps: there it holds the copy until it is let go."""

    def __init__(self):
        super().__init__()
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def is_set(self):
        self.reached.set()
        assert self.go_on.wait(10)
        return super().is_set()


def big(conn):
    """More than two steps."""
    conn.executemany("insert into note values (?, zeroblob(5000))", ((n,) for n in range(600)))


async def mid_way(db, target, stop):
    copying = asyncio.create_task(db.snapshot(target, stop))
    assert await asyncio.to_thread(stop.reached.wait, 10)
    return copying


# --- what a copy is ---


def test_a_copy_holds_all_that_was_acknowledged_and_is_sound(with_db, target):
    async def body(db):
        await asyncio.gather(*(db.write(insert, n) for n in range(300)))
        await db.snapshot(target, never())

        with opened(target) as conn:
            assert numbers(conn) == list(range(300))
            assert pragma(conn, "integrity_check") == "ok"

    with_db(body)


def test_a_copy_is_one_file_that_only_its_owner_may_read(with_db, target):
    async def body(db):
        await db.snapshot(target, never())

        assert os.listdir(target.parent) == [target.name]
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        with opened(target) as conn:
            assert pragma(conn, "journal_mode") == "delete"
            assert count(conn) == 0
            assert os.listdir(target.parent) == [target.name]  # nor does reading it make a second one

    with_db(body)


def test_a_copy_is_marked_as_closed_cleanly_and_the_live_file_is_not(with_db, target):
    async def body(db):
        await db.snapshot(target, never())

        with opened(target) as conn:
            assert marked_clean(conn) == 1
        assert await db.read(marked_clean) == 0

    with_db(body)


def test_a_database_goes_on_from_its_copy(with_db, target):
    async def body(db):
        await db.write(insert, 1)
        await db.snapshot(target, never())

    async def on_the_copy(db):
        await db.write(insert, 2)
        assert await db.read(numbers) == [1, 2]

    with_db(body)
    run_with_db(target, on_the_copy)


def test_writes_during_a_copy_go_on_and_neither_show_in_it_nor_make_it_begin_again(with_db, target):
    async def body(db):
        await db.write(big)
        stop = MidWay()
        copying = await mid_way(db, target, stop)
        for n in range(1000, 1010):  # each commit would start a copy over that is not one read transaction
            assert await db.write(insert, n) == n
        stop.go_on.set()
        await copying

        with opened(target) as conn:
            assert numbers(conn) == list(range(600))

    with_db(body)


def test_a_second_copy_waits_for_the_first(with_db, target):
    async def body(db):
        stop = MidWay()
        first = await mid_way(db, target, stop)
        second = asyncio.create_task(db.snapshot(target.with_name("second.db"), never()))
        await asyncio.sleep(0)
        stop.go_on.set()
        await asyncio.gather(first, second)

        assert sorted(os.listdir(target.parent)) == ["copy.db", "second.db"]

    with_db(body)


def test_a_copy_that_waits_for_another_can_be_cancelled_at_once(with_db, target):
    async def body(db):
        stop = MidWay()
        first = await mid_way(db, target, stop)
        second = asyncio.create_task(db.snapshot(target.with_name("second.db"), never()))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second], timeout=5)
        assert second.cancelled()

        stop.go_on.set()
        await first
        assert os.listdir(target.parent) == ["copy.db"]

    with_db(body)


# --- copies that do not come about ---


def test_a_copy_that_is_told_to_stop_leaves_nothing(with_db, target):
    async def body(db):
        await db.write(big)
        stop = MidWay()
        copying = await mid_way(db, target, stop)
        stop.set()
        stop.go_on.set()

        with pytest.raises(SnapshotStopped):
            await copying
        assert os.listdir(target.parent) == []

    with_db(body)


def test_a_copy_that_is_cancelled_leaves_nothing_and_the_next_one_is_whole(with_db, target):
    async def body(db):
        await db.write(big)
        stop = MidWay()
        copying = await mid_way(db, target, stop)
        copying.cancel()
        asyncio.get_running_loop().call_later(0.05, stop.go_on.set)

        with pytest.raises(asyncio.CancelledError):
            await copying
        assert os.listdir(target.parent) == []
        await db.snapshot(target, never())
        with opened(target) as conn:
            assert count(conn) == 600

    with_db(body)


def test_the_end_of_the_database_stops_a_copy(path, target):
    async def main():
        async with Database(path) as db:
            stop = MidWay()
            copying = await mid_way(db, target, stop)
            asyncio.get_running_loop().call_later(0.02, stop.go_on.set)

        with pytest.raises(SnapshotStopped):
            await copying
        assert os.listdir(target.parent) == []
        with pytest.raises(StorageFailed, match="closed"):
            await db.snapshot(target, never())

    asyncio.run(main())


def test_a_file_in_the_place_of_the_copy_is_left_alone(with_db, target):
    async def body(db):
        target.write_text("mine")
        with pytest.raises(FileExistsError):
            await db.snapshot(target, never())
        assert target.read_text() == "mine"

    with_db(body)


def test_a_copy_into_no_folder_is_refused_and_breaks_nothing(with_db, target):
    async def body(db):
        with pytest.raises(StorageFailed, match="No such file"):
            await db.snapshot(target / "copy.db", never())
        assert db.broken is None

    with_db(body)


FULL = """
import asyncio, os, sys, threading
from pathlib import Path
from whisperd.db import Database
from whisperd.task import StorageFull

def fill(conn):
    conn.execute("create table note (n integer primary key, text)")
    conn.executemany("insert into note values (?, zeroblob(100000))", ((n,) for n in range(25)))

async def main(folder):
    async with Database(folder / "q.db", idle_seconds=3600) as db:
        await db.write(fill)
        await db.tend()
        try:
            await db.snapshot(folder / "copy.db", threading.Event())
        except StorageFull as error:
            await db.write(lambda conn: conn.execute("insert into note values (99, 'after')") and None)
            print(error, sorted(os.listdir(folder)), db.broken)

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_disk_that_fills_during_a_copy_leaves_nothing_of_it_and_the_database_goes_on(target):
    out = on_a_small_disk(target.parent, FULL, megabytes=7)

    assert out == "no disk space is left for the queue ['q.db', 'q.db-shm', 'q.db-wal'] None\n"


def test_a_copy_is_on_the_disk_before_anyone_is_told(with_db, path, target, monkeypatch):
    synced = []

    def noting(descriptor, fsync=os.fsync):
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)

    async def body(db):
        await db.write(insert, 1)
        await db.snapshot(target, never())

        assert synced == [(str(target), target.stat().st_size)]

    with_db(body)


def test_a_copy_knows_as_many_commits_as_its_source(with_db, target):
    async def body(db):
        for n in range(5):
            await db.write(insert, n)
        await db.snapshot(target, never())

        with opened(target) as conn:
            assert commits(conn) == await db.read(commits) >= 5

    with_db(body)


# --- copies after trouble ---


@pytest.mark.parametrize("lost", [["-wal"], ["-wal", "-shm"], [""], ["", "-wal", "-shm"]], ids=str)
def test_a_copy_saves_what_lies_in_files_that_have_lost_their_names(with_db, path, target, lost):
    async def body(db):
        for n in range(20):
            await db.write(insert, n)
        for suffix in lost:
            os.unlink(f"{path}{suffix}")
        with pytest.raises(StorageFailed, match="gone"):
            await db.write(insert, 99)
        await db.snapshot(target, never())

        with opened(target) as conn:
            assert set(range(20)) <= set(numbers(conn))
            assert pragma(conn, "integrity_check") == "ok"

    with_db(body)


def test_a_copy_after_an_io_error_holds_all_that_was_acknowledged(with_db, path, target):
    async def body(db):
        await db.write(insert, 1)
        with files_end_at(wal_size(path) + 20_000), pytest.raises(StorageFailed):
            await db.write(insert, 2, "x" * 100_000)
        await db.snapshot(target, never())

        with opened(target) as conn:
            assert numbers(conn) == [1]

    with_db(body)


# --- copies of a file that nobody has open ---


CRASH = """
import asyncio, os, signal, sys
from pathlib import Path
from whisperd.db import Database

async def main():
    async with Database(Path(sys.argv[1])) as db:
        await db.write(lambda conn: conn.execute("create table note (n integer primary key)") and None)
        await db.write(lambda conn: conn.execute("insert into note values (1)") and None)
        os._exit(0)

asyncio.run(main())
"""


def test_a_copy_of_a_crashed_database_is_whole_and_leaves_it_as_it_was(path, target):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-P", "-c", CRASH, str(path)], env=env, check=True)
    before = {
        file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith("-shm")
    }

    snapshot_of(path, target, never())

    after = {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith("-shm")}
    assert before == after
    assert set(before) == {"q.db", "q.db-wal"}
    with opened(target) as conn:
        assert (numbers(conn), marked_clean(conn)) == ([1], 1)


def test_a_copy_of_an_old_schema_has_the_old_schema(path, target):
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("pragma journal_mode = wal")
        migrate(conn, SCRIPTS[:1])

    snapshot_of(path, target, never())

    assert os.listdir(path.parent) == [path.name]
    with opened(target) as conn:
        assert pragma(conn, "user_version") == 1


def test_a_copy_of_no_database_is_refused_and_leaves_nothing(path, target):
    path.write_text("no database " * 1000)

    with pytest.raises(StorageFailed, match="not a database"):
        snapshot_of(path, target, never())
    assert os.listdir(target.parent) == []


# --- who opens the live files ---

WATCHED = """
import asyncio, os, sys, threading
opened = []

def note(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        opened.append(os.fsdecode(args[0]))

sys.addaudithook(note)
from pathlib import Path
from whisperd.db import Database, owned

async def main(path, target):
    with owned(path):
        async with Database(path, idle_seconds=0.01) as db:
            await db.write(lambda conn: conn.execute("create table note (n integer primary key)") and None)
            await db.snapshot(target, threading.Event())
            while os.path.getsize(f"{path}-wal"):
                await asyncio.sleep(0.01)
            await db.tend()
            db.check_files()

path, target = map(Path, sys.argv[1:])
asyncio.run(main(path, target))
print(str(target) in opened, [name for name in opened if name.startswith(str(path))])
"""


def test_nobody_but_sqlite_opens_the_live_files(path, target):
    """Whoever opens one by path and closes it drops SQLite's locks."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-W", "error", "-c", WATCHED, str(path), str(target)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("True []\n", "")


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_the_kernel_sees_only_what_sqlite_opens(path, target):
    """SQLite opens with O_NOFOLLOW, and nothing of ours does."""
    trace = path.with_name("trace")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["strace", "-f", "-qq", "-e", "trace=open,openat", "-o", str(trace)]
    command += [sys.executable, "-P", "-c", WATCHED, str(path), str(target)]
    if subprocess.run(command, env=env, capture_output=True).returncode != 0:
        pytest.skip("strace may not trace here")
    seen = [line for line in trace.read_text().splitlines() if f'"{path}' in line]

    assert any(f'"{path}-wal"' in line for line in seen)
    assert [line for line in seen if "O_NOFOLLOW" not in line] == []
