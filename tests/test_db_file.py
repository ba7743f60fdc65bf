import asyncio
import os
import sqlite3
import subprocess
import threading
from contextlib import closing, contextmanager

import pytest

from tests.notes import (
    Held,
    alone,
    count,
    create,
    in_another_process,
    insert,
    marked_clean,
    numbers,
    open_and_close,
    pragma,
    run_with_db,
    until,
    wal_size,
)
from tests.trouble import files_end_at, on_a_small_disk
from whisperd import __version__
from whisperd.db import LARGEST_BATCH, Database
from whisperd.task import StorageBusy, StorageFailed, StorageFull, StorageReadOnly


@pytest.fixture
def path(tmp_path):
    return tmp_path / "q.db"


@pytest.fixture
def with_db(path):
    return lambda body, **settings: run_with_db(path, body, **settings)


# --- the file alone ---


LOOK_ALONE = """
import shutil, sqlite3, sys
shutil.copy(sys.argv[1], sys.argv[1] + ".copy")
conn = sqlite3.connect(f"file:{sys.argv[1]}.copy?immutable=1", uri=True)
mark = conn.execute("select clean, version from session").fetchone()
print(mark, [n for (n,) in conn.execute("select n from note")])
"""


def test_an_open_database_says_so_in_the_file_itself(with_db, path):
    async def body(db):
        await until(lambda: wal_size(path) == 0)
        assert in_another_process(LOOK_ALONE, path).startswith(f"(0, '{__version__}')")

    with_db(body, idle_seconds=0.01)


def test_an_orderly_end_leaves_one_file_that_is_marked_clean(with_db, path, tmp_path):
    async def body(db):
        await db.write(insert, 1)

    with_db(body)

    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with alone(path, tmp_path) as conn:
        assert (marked_clean(conn), numbers(conn)) == (1, [1])


def test_a_read_that_outlives_its_caller_does_not_keep_the_end_from_being_clean(path, tmp_path):
    held = Held()

    def reads(conn):
        count(conn)
        held(conn)

    async def main():
        async with Database(path) as db:
            await db.write(create)
            reading = asyncio.create_task(db.read(reads))
            await held.under_way()
            reading.cancel()
            await asyncio.wait([reading])
            await db.write(insert, 1)
            asyncio.get_running_loop().call_later(0.05, held.go_on.set)

    asyncio.run(main())

    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with alone(path, tmp_path) as conn:
        assert (marked_clean(conn), numbers(conn)) == (1, [1])


def test_the_file_of_an_idle_database_is_complete_without_its_wal(with_db, path):
    async def body(db):
        await db.write(insert, 1)
        await until(lambda: wal_size(path) == 0)

        assert in_another_process(LOOK_ALONE, path).endswith("[1]\n")

    with_db(body, idle_seconds=0.01)


def test_a_reader_in_the_way_of_completing_the_file_is_no_trouble_and_is_outwaited(with_db, path):
    held = Held()

    def reads(conn):
        count(conn)
        held(conn)

    async def body(db):
        merges = await db.write(checkpoints_seen)
        reading = asyncio.create_task(db.read(reads))
        await held.under_way()
        await db.write(insert, 1)
        await until(lambda: len(merges) >= 3)
        assert wal_size(path) > 0
        assert db.broken is None
        assert await db.write(pragma, "busy_timeout") == 5000

        held.go_on.set()
        await reading
        await until(lambda: wal_size(path) == 0)

    with_db(body, idle_seconds=0.01)


def checkpoints_seen(conn):
    seen = []
    conn.set_trace_callback(lambda sql: seen.append(sql) if "wal_checkpoint" in sql else None)
    return seen


def test_an_idle_database_rests_once_its_file_is_complete(with_db, path):
    async def body(db):
        merges = await db.write(checkpoints_seen)
        await until(lambda: merges)
        await asyncio.sleep(0.1)  # the one thing that can be waited for is that nothing happens

        assert len(merges) == 1

    with_db(body, idle_seconds=0.01)


def test_tending_refreshes_the_statistics_and_is_refused_after_the_end(path):
    async def main():
        async with Database(path) as db:
            await db.write(create)
            seen = await db.write(statements_seen)
            await db.tend()

            assert "pragma optimize" in seen
            assert "pragma wal_checkpoint(passive)" in seen
        with pytest.raises(StorageFailed, match="closed"):
            await db.tend()

    asyncio.run(main())


def statements_seen(conn):
    seen = []
    conn.set_trace_callback(seen.append)
    return seen


# --- files that lose their names in mid-run ---


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_file_that_was_removed_or_replaced_is_seen_and_nothing_is_written_after(
    with_db, path, suffix, replaced
):
    async def body(db):
        await db.write(insert, 1)
        assert db.check_files() is None
        os.rename(f"{path}{suffix}", f"{path}.gone")
        if replaced:
            open(f"{path}{suffix}", "x").close()  # noqa: ASYNC230

        with pytest.raises(StorageFailed, match="q.db" + suffix):
            await db.write(insert, 2)
        assert db.check_files() is db.broken is not None
        assert ("another file" if replaced else "is gone") in db.broken
        assert await db.read(count) >= 1  # reads go on

    with_db(body)


def test_a_look_at_the_files_is_enough_to_stop_all_writing(with_db, path):
    async def body(db):
        os.rename(f"{path}-wal", f"{path}-gone")
        assert "is gone" in db.check_files()
        os.rename(f"{path}-gone", f"{path}-wal")  # what was written in between nobody knows

        with pytest.raises(StorageFailed, match="is gone"):
            await db.write(insert, 1)

    with_db(body)


def test_an_end_that_cannot_mark_the_file_leaves_the_wal_to_the_next_start(with_db, path, tmp_path):
    async def body(db):
        await db.write(insert, 1)
        await db._on(db._writing, lambda conn: conn.execute("pragma query_only = on") and None)

    with_db(body)

    assert wal_size(path) > 0
    with alone(path, tmp_path) as conn:
        assert marked_clean(conn) == 0


def test_a_commit_into_a_wal_that_has_no_name_any_more_is_not_acknowledged(with_db, path):
    def loses_its_wal(conn):
        insert(conn, 1)
        os.rename(f"{path}-wal", f"{path}-gone")

    async def body(db):
        told = []
        with pytest.raises(StorageFailed, match="is gone"):
            await db.write(loses_its_wal, then=told.append)
        assert told == []

    with_db(body)


SHELL = """
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1])
print(conn.execute("select count(*) from note").fetchone())
conn.close()
"""


def test_nothing_acknowledged_is_lost_to_a_shell_after_our_locks_were_dropped(with_db, path, tmp_path):
    """https://sqlite.org/howtocorrupt.html, 2.2: the shell takes itself for the last one, and tidies up."""

    async def body(db):
        kept = []
        for n in range(20):
            kept.append(await db.write(insert, n))
        path.open("rb").close()  # what must never be done: all locks of this process are gone
        in_another_process(SHELL, path)
        with pytest.raises(StorageFailed, match="wal is gone"):
            await db.write(insert, 99)

        with alone(path, tmp_path) as conn:
            assert numbers(conn) == kept

    with_db(body)


def test_after_trouble_the_end_writes_nothing_and_leaves_the_wal_to_the_next_start(with_db, path, tmp_path):
    async def body(db):
        await db.write(insert, 1)
        await until(lambda: wal_size(path) == 0)
        await db.write(insert, 2)
        with files_end_at(wal_size(path) + 20_000), pytest.raises(StorageFailed):
            await db.write(insert, 3, "x" * 100_000)

    with_db(body, idle_seconds=0.05)

    assert wal_size(path) > 0
    with alone(path, tmp_path) as conn:
        assert (marked_clean(conn), numbers(conn)) == (0, [1])

    async def after_a_restart(db):
        assert await db.read(numbers) == [1, 2]

    with_db(after_a_restart)


def test_an_opening_that_is_cut_off_does_not_look_like_a_copy(path, tmp_path):
    async def cut_off(seconds):
        opening = asyncio.create_task(Database(path).__aenter__())
        await asyncio.sleep(seconds)
        opening.cancel()
        await asyncio.wait([opening])
        if not opening.cancelled():
            await opening.result().__aexit__()

    asyncio.run(open_and_close(path))
    before = set(threading.enumerate())
    for tenths in range(40):
        asyncio.run(cut_off(tenths / 10_000))

        for thread in set(threading.enumerate()) - before:
            thread.join(10)
            assert not thread.is_alive()  # or a connection is left that would tidy up one day
        with alone(path, tmp_path) as conn:
            assert marked_clean(conn) or os.path.exists(f"{path}-wal")


# --- trouble with the disk ---


def test_a_full_disk_refuses_the_write_and_keeps_the_rest_until_there_is_room(with_db):
    async def body(db):
        await db.write(insert, 1)

        def pages(conn, n):
            conn.execute(f"pragma max_page_count = {n}")

        await db.write(pages, await db.write(pragma, "page_count") + 2)
        answers = await asyncio.gather(
            db.write(insert, 2), db.write(insert, 3, "x" * 100_000), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [StorageFull] * 2  # they shared the transaction
        assert await db.read(numbers) == [1]
        assert await db.write(insert, 2) == 2  # there is room for a small one
        assert db.broken is None

        await db.write(pages, 1_000_000)
        assert await db.write(insert, 3, "x" * 100_000) == 3
        assert await db.read(numbers) == [1, 2, 3]

    with_db(body)


def test_a_database_that_another_program_holds_is_busy_and_free_again_after_it(with_db, path):
    async def body(db):
        await db.write(lambda conn: conn.execute("pragma busy_timeout = 10") and None)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("begin immediate")
            with pytest.raises(StorageBusy):
                await db.write(insert, 1)
            other.execute("rollback")

        assert db.broken is None
        assert await db.write(insert, 1) == 1
        assert await db.read(numbers) == [1]

    with_db(body)


FILL = """
import asyncio, sys
from pathlib import Path
from whisperd.db import Database
from whisperd.task import StorageFull

def insert(conn, n):
    conn.execute("insert into note values (?, zeroblob(50000))", (n,))

def numbers(conn):
    return [row[0] for row in conn.execute("select n from note order by n")]

async def main(folder):
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(500_000))
    async with Database(folder / "q.db") as db:
        await db.write(lambda conn: conn.execute("create table note (n integer primary key, text)") and None)
        kept = []
        try:
            while True:
                await db.write(insert, len(kept))
                kept.append(len(kept))
        except StorageFull:
            ballast.unlink()
        await db.write(insert, len(kept))
        print(len(kept), await db.read(numbers) == [*kept, len(kept)])

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_disk_that_was_really_full_takes_writes_again_once_there_is_room(tmp_path):
    kept, nothing_lost = on_a_small_disk(tmp_path, FILL, megabytes=2).split()

    assert int(kept) > 0
    assert nothing_lost == "True"


SHM = """
import asyncio, os, sys
from pathlib import Path
from whisperd.db import Database
from whisperd.task import StorageFull

def insert(conn, n):
    conn.execute("insert into note values (?)", (n,))

def without_checkpoints(conn):
    conn.execute("create table note (n integer primary key)")

async def main(folder):
    ballast = folder / "ballast"
    async with Database(folder / "q.db", idle_seconds=3600) as db:
        await db.write(without_checkpoints)
        await db._on(db._writing, lambda conn: conn.execute("pragma wal_autocheckpoint = 0") and None)
        n = 0
        while os.path.getsize(folder / "q.db-wal") // 4120 < 4060:  # its -shm is full at 4,062 frames
            await db.write(insert, n)
            n += 1
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, os.statvfs(folder).f_bavail * 4096 - 28_672)
        seen = None
        while not seen:
            try:
                await db.write(insert, n)
                n += 1
            except StorageFull as error:
                seen = repr(error.__cause__.sqlite_errorname)
        ballast.unlink()
        await db.write(insert, n)
        found = await db.read(lambda conn: conn.execute("select count(*) from note").fetchone()[0])
        print(seen, db.broken, found - n)

asyncio.run(main(Path(sys.argv[1])))
"""


def test_no_room_for_the_shm_is_a_full_disk_and_no_io_error(tmp_path):
    assert on_a_small_disk(tmp_path, SHM, megabytes=20) == "'SQLITE_IOERR_SHMSIZE' None 1\n"


def test_a_database_that_may_not_be_written_refuses_writes_only_and_recovers_by_itself(with_db):
    async def body(db):
        await db.write(insert, 1)
        await db._on(db._writing, lambda conn: conn.execute("pragma query_only = on") and None)
        with pytest.raises(StorageReadOnly, match="cannot be written"):
            await db.write(insert, 2)
        assert await db.read(numbers) == [1]
        assert db.broken is None

        await db._on(db._writing, lambda conn: conn.execute("pragma query_only = off") and None)
        assert await db.write(insert, 2) == 2

    with_db(body)


def test_a_file_made_immutable_in_mid_run_refuses_writes_only_and_recovers_by_itself(with_db, path):
    async def body(db):
        await db.write(insert, 1)
        with immutable(f"{path}-wal"):
            with pytest.raises(StorageReadOnly, match="-wal is read-only"):
                await db.write(insert, 2)
            assert await db.read(numbers) == [1]
            assert db.broken is None
        assert await db.write(insert, 2) == 2

    with_db(body)


@contextmanager
def immutable(name):
    if subprocess.run(["chattr", "+i", name], capture_output=True).returncode != 0:
        pytest.skip("only root may make a file immutable, and not on every file system")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", name], check=True)


READ_ONLY = """
import asyncio, subprocess, sys
from pathlib import Path
from whisperd.db import Database
from whisperd.task import StorageReadOnly

async def open_and_close(path):
    async with Database(path):
        pass

def remount(how):
    subprocess.run(["mount", "-o", "remount," + how, sys.argv[1]], check=True)

path = Path(sys.argv[1]) / "q.db"
asyncio.run(open_and_close(path))
remount("ro")
try:
    asyncio.run(open_and_close(path))
except StorageReadOnly as error:
    print(error)
remount("rw")
asyncio.run(open_and_close(path))
"""


def test_a_start_on_a_disk_that_is_read_only_says_so(tmp_path):
    assert "cannot be written" in on_a_small_disk(tmp_path, READ_ONLY, megabytes=2)


def test_after_an_io_error_nothing_is_written_until_a_restart(with_db, path):
    async def body(db):
        await db.write(insert, 1)
        with files_end_at(wal_size(path) + 20_000), pytest.raises(StorageFailed, match="I/O"):
            await db.write(insert, 2, "x" * 100_000)

        assert "I/O" in db.broken
        with pytest.raises(StorageFailed, match="I/O"):
            await db.write(insert, 3)
        assert await db.read(numbers) == [1]

    async def after_a_restart(db):
        assert db.broken is None
        await db.write(insert, 3)
        assert await db.read(numbers) == [1, 3]

    with_db(body)
    with_db(after_a_restart)


def test_what_waited_behind_an_io_error_is_not_written_either(with_db, path):
    async def body(db):
        held = Held()
        first = asyncio.create_task(db.write(held))
        await held.under_way()
        fails = [asyncio.create_task(db.write(insert, n, "x" * 1000)) for n in range(LARGEST_BATCH)]
        waits = asyncio.create_task(db.write(insert, 1000))  # in the batch after that of `fails`
        await asyncio.sleep(0)
        with files_end_at(wal_size(path) + 20_000):
            held.go_on.set()
            await asyncio.wait([first, *fails])
        await asyncio.wait([waits])

        assert first.exception() is None
        assert {type(write.exception()) for write in (*fails, waits)} == {StorageFailed}
        assert await db.read(count) == 0

    with_db(body)
