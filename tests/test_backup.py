"""The folder of backups: each is whole or absent, holds all that was acknowledged; the right ones stay."""

import asyncio
import fcntl
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import a_task
from tests.test_durable import told_to_the_disk
from tests.trouble import on_a_small_disk
from whisperd import archive, durable
from whisperd import backup as backup_module
from whisperd.archive import BackupError, Stopped
from whisperd.backup import BackupFailed, BackupStore, Entry, Keep, doomed, name_of, time_of
from whisperd.db import owned
from whisperd.task import StorageFailed

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def store(tmp_path, clock):
    return BackupStore(tmp_path / "backups", now=clock)


def names(store):
    return sorted(path.name for path in store.folder.iterdir())


def tasks_in(backup, tmp_path):
    target = tmp_path / f"{backup.name}.back"
    archive.unpack(backup.path, target)
    with closing(sqlite3.connect(target)) as conn:
        assert conn.execute("pragma integrity_check").fetchone() == ("ok",)
        return [row[0] for row in conn.execute("select id from task order by seq")]


def some_tasks(with_queue, n=3):
    ids = []

    async def body(queue):
        ids.extend([(await queue.submit(a_task()))[0].id for _ in range(n)])

    with_queue(body)
    return ids


# --- taking ---


def test_a_backup_holds_what_was_submitted(with_queue, store, tmp_path):
    async def body(queue):
        ids = [(await queue.submit(a_task()))[0].id for _ in range(3)]
        backup = await store.take(queue.db, "manual")

        assert tasks_in(backup, tmp_path) == ids
        assert (backup.tasks, backup.reason, backup.verified, backup.restored) == (3, "manual", True, False)
        assert backup.bytes == backup.path.stat().st_size
        assert backup.seconds == pytest.approx(sum(backup.phases.values()))
        assert list(backup.phases) == ["snapshot", "check", "pack", "verify"]
        assert store.last == backup

    with_queue(body)


def test_only_its_owner_may_look_into_the_folder(with_queue, store):
    async def body(queue):
        await store.take(queue.db, "manual")

    with_queue(body)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.folder.iterdir()}
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert set(modes.values()) == {0o600}
    assert set(modes) == {"whisperd-19700112T134640.000Z.db.zst", "latest.db", ".lock"}


def test_latest_is_a_database_that_may_be_copied_and_opened_where_nothing_may_be_written(
    with_queue, store, tmp_path
):
    ids = []

    async def body(queue):
        for _ in range(2):
            ids.append((await queue.submit(a_task()))[0].id)
            await store.take(queue.db, "interval")

    with_queue(body)

    uri = f"{(store.folder / 'latest.db').as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as conn:
        assert [row[0] for row in conn.execute("select id from task order by seq")] == ids
    assert not list(store.folder.glob("latest.db-*"))


def test_side_files_of_an_older_latest_do_not_meet_the_new_one(with_queue, store):
    """A journal left by somebody's shell would be rolled back into it."""

    async def body(queue):
        await store.take(queue.db, "manual")
        (store.folder / "latest.db-journal").write_bytes(b"old")
        await store.take(queue.db, "manual")

    with_queue(body)

    assert not (store.folder / "latest.db-journal").exists()


def test_who_copies_latest_while_it_is_replaced_gets_the_old_one_whole(
    with_queue, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(durable, "PORTION", 4096)

    async def body(queue):
        await queue.submit(a_task())
        await store.take(queue.db, "manual")
        latest = store.folder / "latest.db"
        whole = latest.read_bytes()
        (tmp_path / "link.db").hardlink_to(latest)
        await store.take(queue.db, "manual")
        copied = os.open(latest, os.O_RDONLY)
        await store.take(queue.db, "manual")

        assert os.read(copied, 2 * len(whole)) == whole
        os.close(copied)
        assert (tmp_path / "link.db").read_bytes() == whole
        assert len(store.list()) == 3
        assert [name for name in names(store) if name.startswith(".whisperd")] == []

    with_queue(body)


def test_one_that_is_let_go_loses_its_name_before_its_content(with_queue, store, monkeypatch):
    """Killed in between, it was a broken backup for ever."""
    monkeypatch.setattr(durable, "PORTION", 1024)
    seen = []

    def look(_):
        seen.extend(name for name in names(store) if name.startswith(".whisperd-"))
        assert all(backup.verified for backup in store.list())

    async def body(queue):
        await queue.submit(a_task(metadata={"x": random.randbytes(8000).hex()}))
        for _ in range(2):
            await store.take(queue.db, "manual")
        first = store.list()[1].path
        first.rename(f"{first}.restored")
        store.keep = Keep(1, 0, 0)
        monkeypatch.setattr(durable, "sleep", look)
        await store.take(queue.db, "manual")
        await store.take(queue.db, "manual")

    with_queue(body)

    gone = {name for name in seen if name.endswith(".part")}
    assert {name.endswith(".restored.part") for name in gone} == {True, False}
    (store.folder / max(gone, key=len)).touch()  # as if killed there: the next one clears it
    with backup_module.alone_in(store.folder):
        assert not [name for name in names(store) if name.startswith(".whisperd-")]


def test_the_folder_is_made_for_good(tmp_path):
    with told_to_the_disk() as told, backup_module.alone_in(tmp_path / "backups"):
        assert told == [f"sync {tmp_path.name}/"]


def test_everything_acknowledged_before_it_began_is_in_it_while_others_go_on_writing(
    with_queue, store, tmp_path
):
    async def body(queue):
        acknowledged, under_way, stop = [], asyncio.Event(), asyncio.Event()

        async def submit():
            while not stop.is_set():
                acknowledged.append((await queue.submit(a_task()))[0].id)
                under_way.set()

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(submit())
            await under_way.wait()
            for _ in range(5):
                before = set(acknowledged)
                backup = await store.take(queue.db, "manual")
                held = tasks_in(backup, tmp_path)
                assert before <= set(held)
                assert len(held) == backup.tasks
            stop.set()

    with_queue(body)


def test_a_second_caller_gets_a_later_snapshot_of_its_own(with_queue, store, tmp_path):
    async def body(queue):
        first = asyncio.create_task(store.take(queue.db, "interval"))
        await asyncio.sleep(0)
        task, _ = await queue.submit(a_task())
        second = await store.take(queue.db, "manual")

        assert task.id in tasks_in(second, tmp_path)
        assert (await first).name < second.name
        assert len(store.list()) == 2

    with_queue(body)


def test_a_clock_that_was_set_back_does_not_make_an_older_backup_the_newest(with_queue, store, clock):
    async def body(queue):
        first = await store.take(queue.db, "interval")
        clock.now -= 86_400
        second = await store.take(queue.db, "interval")

        assert second.name > first.name
        assert store.list()[0].name == second.name

    with_queue(body)


def test_a_new_store_knows_the_last_backup_of_the_old_one(with_queue, store, tmp_path):
    async def body(queue):
        backup = await store.take(queue.db, "shutdown")

        assert BackupStore(store.folder).last.name == backup.name
        assert BackupStore(tmp_path / "none").last is None

    with_queue(body)


def test_a_database_that_is_not_open_is_backed_up_with_what_a_crash_left_in_its_wal(tmp_path, store):
    path = tmp_path / "q.db"
    run(CRASH, path)
    before = {file.name: file.read_bytes() for file in tmp_path.glob("q.db*") if file.name != "q.db-shm"}
    assert len(before["q.db-wal"]) > 0

    with owned(path):
        backup = store.take_file(path, "upgrade")

    assert backup.tasks == 7
    after = {file.name: file.read_bytes() for file in tmp_path.glob("q.db*") if file.name != "q.db-shm"}
    assert after == before


# --- stopping ---


def large(with_queue):
    """A database whose backup takes a while."""

    async def body(queue):
        for _ in range(16):
            await asyncio.gather(
                *(queue.submit(a_task(metadata={"x": random.randbytes(8000).hex()})) for _ in range(50))
            )

    with_queue(body)


@pytest.mark.parametrize("delay", [0, 0.001, 0.01, 0.05, 0.1])
def test_a_cancelled_backup_ends_at_once_and_leaves_nothing(with_queue, store, delay):
    large(with_queue)

    async def body(queue):
        taking = asyncio.create_task(store.take(queue.db, "interval"))
        await asyncio.sleep(delay)
        since = monotonic()
        taking.cancel()
        await asyncio.wait([taking])

        assert monotonic() - since < 0.5
        assert taking.cancelled()
        assert set(names(store) if store.folder.exists() else []) <= {".lock"}
        assert not [thread for thread in threading.enumerate() if thread.name == "backup-stop"]
        assert store.trouble is None
        assert (await store.take(queue.db, "shutdown")).tasks == 800

    with_queue(body)


def test_one_that_takes_too_long_is_given_up_and_said(with_queue, store):
    large(with_queue)

    async def body(queue):
        with pytest.raises(BackupFailed, match=r"0\.02 s"):
            await store.take(queue.db, "shutdown", seconds=0.02)

        assert set(names(store)) <= {".lock"}
        assert "0.02 s" in store.trouble
        await store.take(queue.db, "shutdown")
        assert store.trouble is None

    with_queue(body)


# --- large ones, which a process of its own packs ---


@pytest.fixture
def apart(monkeypatch):
    """As if every database were large."""
    monkeypatch.setattr(backup_module, "_SMALL", 0)


@pytest.mark.usefixtures("apart")
def test_a_large_backup_is_packed_by_another_process_and_is_as_any_other(with_queue, store, tmp_path):
    ids = some_tasks(with_queue)

    async def body(queue):
        backup = await store.take(queue.db, "manual")

        assert tasks_in(backup, tmp_path) == ids
        assert list(backup.phases) == ["snapshot", "check", "pack", "verify"]
        assert store.last == backup == replace(store.list()[0], seconds=backup.seconds, phases=backup.phases)
        assert names(store) == [".lock", "latest.db", backup.name]

    with_queue(body)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("delay", [0.1, 0.3])
def test_a_cancelled_backup_ends_the_process_that_packs_it(with_queue, store, delay):
    large(with_queue)

    async def body(queue):
        taking = asyncio.create_task(store.take(queue.db, "interval"))
        await asyncio.sleep(delay)
        since = monotonic()
        taking.cancel()
        await asyncio.wait([taking])

        assert monotonic() - since < 0.5
        assert not [name for name in names(store) if name.startswith(".whisperd")]
        assert all(backup.verified for backup in store.list())

    with_queue(body)


@pytest.mark.usefixtures("apart")
def test_what_goes_wrong_in_the_process_that_packs_is_told_as_it_is(with_queue, store, monkeypatch):
    async def body(queue):
        monkeypatch.setattr(BackupStore, "_target", lambda self, at: self.folder / "none" / "x.db.zst")
        with pytest.raises(BackupError, match="No such file"):
            await store.take(queue.db, "manual")
        monkeypatch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(BackupError, match="ended with 1"):
            await store.take(queue.db, "manual")
        assert names(store) == [".lock"]

    with_queue(body)


# --- two processes, and killed ones ---

CRASH = """
import asyncio, os, sys
from pathlib import Path
from tests.conftest import a_task
from whisperd.db import Database
from whisperd.events import Events
from whisperd.queue import SqliteQueue

async def main():
    async with Database(Path(sys.argv[1])) as db:
        queue = SqliteQueue(db, Events())
        await asyncio.gather(*(queue.submit(a_task()) for _ in range(7)))
        os.kill(os.getpid(), 9)

asyncio.run(main())
"""

TAKE = """
import asyncio, sys
from pathlib import Path
from tests.conftest import a_task
from whisperd.backup import BackupStore, Keep
from whisperd.db import Database
from whisperd.events import Events
from whisperd.queue import SqliteQueue

async def main(folder):
    store = BackupStore(folder / "backups", Keep(newest=3, hourly=0, daily=0))
    async with Database(folder / "q.db") as db:
        queue = SqliteQueue(db, Events())
        print("open", flush=True)
        for n in range(1000):
            await queue.submit(a_task())
            await store.take(db, "interval")

asyncio.run(main(Path(sys.argv[1])))
"""


def run(code, *args):
    command = [sys.executable, "-P", "-c", code, *map(str, args)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=-1, timeout=60)


def start(code, *args):
    command = [sys.executable, "-P", "-c", code, *map(str, args)]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=-1, stdout=-1, text=True
    )


# Forks, so that not each of them has to import first; from a process with no threads.
KILL = """
import asyncio, os, sys
from pathlib import Path
from time import monotonic, sleep
from tests.conftest import a_task
from whisperd.backup import BackupStore, Keep
from whisperd.db import Database
from whisperd.events import Events
from whisperd.queue import SqliteQueue

async def back_up_for_ever(folder, started):
    store = BackupStore(folder / "backups", Keep(newest=3, hourly=0, daily=0))
    async with Database(folder / "q.db") as db:
        queue = SqliteQueue(db, Events())
        os.write(started, b"x")
        while True:
            await queue.submit(a_task(id=f"{os.getpid()}-{monotonic()}"))
            await store.take(db, "interval")

for delay in sys.stdin:
    begun, started = os.pipe()
    if (child := os.fork()) == 0:
        asyncio.run(back_up_for_ever(Path(sys.argv[1]), started))
    os.read(begun, 1)
    sleep(float(delay))
    os.kill(child, 9)
    print(os.waitpid(child, 0)[1], flush=True)
    os.close(begun)
    os.close(started)
"""


def test_a_backup_that_is_killed_50_times_never_leaves_a_broken_file_under_a_final_name(tmp_path):
    chance, folder, cut_off = random.Random(3), tmp_path / "backups", 0
    with start(KILL, tmp_path) as killer:
        for _ in range(50):
            killer.stdin.write(f"{chance.random() * 0.06}\n")
            killer.stdin.flush()
            assert killer.stdout.readline() == f"{signal.SIGKILL.value}\n"

            cut_off += len(list(folder.glob(".whisperd-*")))
            for backup in BackupStore(folder).list():
                assert backup.problem is None
                assert len(tasks_in(backup, tmp_path)) == backup.tasks
                (tmp_path / f"{backup.name}.back").unlink()
            if (folder / "latest.db").exists():
                assert archive.take_census(folder / "latest.db").tasks > 0
        killer.stdin.close()

    assert cut_off > 5  # else no kill met a backup
    with owned(tmp_path / "q.db"):
        BackupStore(folder).take_file(tmp_path / "q.db", "manual")
    assert not list(folder.glob(".whisperd-*"))


def test_two_processes_do_not_back_up_to_one_folder_at_once(with_queue, tmp_path, store):
    """The second would take the first one's temporary files for those of a killed one."""
    some_tasks(with_queue)
    (tmp_path / "other" / "backups").mkdir(parents=True)
    with start(TAKE, tmp_path / "other") as other:
        try:
            assert other.stdout.readline() == "open\n"
            (tmp_path / "backups").symlink_to(tmp_path / "other" / "backups")
            with owned(tmp_path / "q.db"):
                for _ in range(3):
                    assert store.take_file(tmp_path / "q.db", "manual").tasks == 3
            assert other.poll() is None
        finally:
            other.kill()


def test_a_wait_for_another_process_can_be_stopped(with_queue, tmp_path, store):
    some_tasks(with_queue)
    stop = threading.Event()
    stop.set()
    store.folder.mkdir()
    with open(store.folder / ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Stopped, match="another process"):
            store.take_file(tmp_path / "q.db", "manual", stop)


# --- trouble ---


def test_a_damaged_database_gives_no_backup_and_the_trouble_is_kept(with_queue, tmp_path, store):
    some_tasks(with_queue)
    with open(tmp_path / "q.db", "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)

    with pytest.raises((BackupError, StorageFailed)) as found:
        store.take_file(tmp_path / "q.db", "manual")
    assert store.trouble == str(found.value)
    assert names(store) == [".lock"]
    assert store.last is None


def test_a_folder_that_cannot_be_made_is_a_failed_backup(with_queue, tmp_path, store):
    store.folder.write_text("a file is in the way")

    async def body(queue):
        with pytest.raises(BackupFailed, match="File exists"):
            await store.take(queue.db, "manual")
        assert "File exists" in store.trouble
        await queue.submit(a_task())

    with_queue(body)


def test_a_backup_stands_though_latest_cannot_be_written(with_queue, store):
    async def body(queue):
        (store.folder / "latest.db").mkdir(parents=True)
        backup = await store.take(queue.db, "manual")

        assert backup.path.exists()
        assert "what follows it" in store.trouble
        assert [name for name in names(store) if name.startswith(".whisperd")] == []

    with_queue(body)


FULL = """
import asyncio, sys
from pathlib import Path
from tests.conftest import a_task
from whisperd.backup import BackupStore
from whisperd.db import Database
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.task import StorageFull

async def main(folder):
    store = BackupStore(folder / "backups")
    ballast = folder / "ballast"
    async with Database(folder.parent / "q.db") as db:
        queue = SqliteQueue(db, Events())
        await queue.submit(a_task(metadata={"x": "y" * 50_000}))
        first = await store.take(db, "manual")
        for pages in (0, 2, 10, 30):
            ballast.write_bytes(b"")
            used = sum(f.stat().st_blocks * 512 for f in folder.rglob("*") if f.is_file())
            ballast.write_bytes(bytes(2**20 - used - pages * 4096))
            try:
                await store.take(db, "interval")
                print("taken")
            except StorageFull:
                print("full", bool(store.trouble), len(list((folder / "backups").iterdir())))
        ballast.unlink()
        await queue.submit(a_task())
        print((await store.take(db, "interval")).tasks, store.trouble, len(store.list()))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_full_disk_fails_the_backup_and_nothing_else(tmp_path):
    (tmp_path / "disk").mkdir()

    *refusals, after = on_a_small_disk(tmp_path / "disk", FULL).splitlines()
    assert refusals == ["full True 3"] * 4
    assert after == "2 None 2"


# --- the list ---


def test_the_newest_is_first_and_the_broken_and_the_used_are_listed_as_what_they_are(with_queue, store):
    async def body(queue):
        taken = [await store.take(queue.db, "interval") for _ in range(3)]
        taken[0].path.rename(taken[0].path.with_name(f"{taken[0].name}.restored"))
        os.truncate(taken[1].path, 5000)

        newest, broken, used = store.list()
        assert newest.verified
        assert (broken.verified, broken.tasks) == (False, None)
        assert "5000 bytes" in broken.problem
        assert used.restored
        assert BackupStore(store.folder).last.name == newest.name

    with_queue(body)


def test_what_is_not_ours_is_not_listed_and_not_touched(with_queue, store, tmp_path):
    store.folder.mkdir()
    mine = {"notes.txt", "old.db.zst", ".whisperd-note", "whisperd-x.db.zst"}
    mine |= {f"whisperd-20261123T045454.123Z.db{end}" for end in ("", ".zst.bak")}
    mine |= {"whisperd-20269923T045454.123Z.db.zst"}
    for name in mine:
        (store.folder / name).write_text("mine")
    (store.folder / "whisperd-20251123T045454.123Z.db.zst").mkdir()
    (store.folder / "whisperd-20251123T045454.124Z.db.zst").symlink_to(tmp_path)

    async def body(queue):
        for _ in range(3):
            await store.take(queue.db, "interval")

    with_queue(body)

    assert mine < set(names(store))
    assert len(store.list()) == 3
    assert (store.folder / "whisperd-20251123T045454.124Z.db.zst").is_symlink()


def test_names_sort_by_time_and_tell_it():
    for moment in (0.0, 1_795_409_694.123, 1_795_409_694.999, 4_000_000_000.001):
        assert time_of(name_of(moment)) == pytest.approx(moment, abs=0.0005)
    assert name_of(1_795_409_694.123) == "whisperd-20261123T045454.123Z.db.zst"
    assert time_of("whisperd-20260631T045454.123Z.db.zst") is None


@given(st.floats(0, 4e9), st.floats(0, 4e9))
def test_a_later_name_is_never_smaller(one, other):
    one, other = sorted((round(one, 3), round(other, 3)))

    assert name_of(one) <= name_of(other)


@given(st.integers(0, 4 * 10**12))
def test_a_name_tells_its_millisecond(milliseconds):
    assert round(time_of(name_of(milliseconds / 1000)) * 1000) == milliseconds


# --- what stays ---

HOUR, DAY = 3600, 86_400
NOON = 1_795_435_200  # 2026-11-23T12:00:00Z


def entries(*ages):
    """By their age in seconds at noon."""
    return [Entry(str(age), NOON - age) for age in ages]


def kept(found, *keep):
    gone = doomed(found, Keep(*keep))
    return [entry.name for entry in found if entry.name not in gone]


@pytest.mark.parametrize(
    ("ages", "keep", "left"),
    [
        ([], (2, 0, 0), []),
        ([0], (1, 0, 0), [0]),
        ([0], (0, 0, 0), [0]),  # never none
        ([0, 1, 2, 3], (2, 0, 0), [0, 1]),
        ([1, 301, 601, 3601, 3901, 7201], (1, 2, 0), [1, 3601]),  # the last of each hour
        ([1, 301, 601, 3601, 3901, 7201], (2, 3, 0), [1, 301, 3601, 7201]),
        ([1, HOUR + 1, 13 * HOUR, 14 * HOUR, 37 * HOUR], (1, 0, 3), [1, 13 * HOUR, 37 * HOUR]),
        ([0, 90 * DAY, 91 * DAY], (1, 2, 2), [0, 90 * DAY]),  # a long stop deletes nothing that counts
    ],
)
def test_the_newest_and_the_last_of_each_hour_and_day_stay(ages, keep, left):
    assert kept(entries(*ages), *keep) == [str(age) for age in left]


def test_a_year_of_backups_every_five_minutes_leaves_what_was_asked_for():
    year = [Entry(str(n), NOON + n * 300) for n in range(365 * 288)]
    left = kept(year, 12, 24, 14)

    ages = sorted((len(year) - 1 - int(name)) * 300 for name in left)
    assert len(left) <= 12 + 24 + 14
    assert ages[:12] == [n * 300 for n in range(12)]
    assert ages[-1] >= 12 * DAY
    assert len([age for age in ages if age < DAY]) >= 12 + 22


def test_broken_and_restored_ones_take_no_place_and_go_when_enough_usable_ones_are_newer():
    found = [
        Entry("broken, newest", 60, usable=False),
        Entry("a", 50),
        Entry("broken, newer", 40, usable=False),
        Entry("b", 30),
        Entry("broken, older", 20, usable=False),
        Entry("c", 10),
    ]

    assert kept(found, 2, 0, 0) == ["broken, newest", "a", "broken, newer", "b"]
    assert kept(found, 4, 0, 0) == [entry.name for entry in found]


def test_the_last_backup_before_an_upgrade_stays():
    found = [Entry("3", 30), Entry("2", 20), Entry("up", 10, upgrade=True), Entry("earlier", 5, upgrade=True)]

    assert kept(found, 1, 0, 0) == ["3", "up"]


some_entries = st.lists(
    st.builds(Entry, st.uuids().map(str), st.integers(0, 10**6).map(float), st.booleans(), st.booleans()),
    unique_by=lambda entry: entry.taken_at,
)
some_keep = st.builds(Keep, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))


@given(some_entries, some_keep)
def test_the_newest_usable_one_always_stays_and_letting_go_twice_changes_nothing(found, keep):
    gone = doomed(found, keep)
    left = [entry for entry in found if entry.name not in gone]
    usable = sorted((entry for entry in found if entry.usable), key=lambda entry: -entry.taken_at)

    assert {entry.name for entry in usable[: max(1, keep.newest)]} <= {entry.name for entry in left}
    assert doomed(left, keep) == set()
    assert (
        len([entry for entry in left if entry.usable]) <= max(1, keep.newest) + keep.hourly + keep.daily + 1
    )


@given(some_entries, some_keep)
def test_what_stays_depends_on_no_order(found, keep):
    assert doomed(found, keep) == doomed(list(reversed(found)), keep)
