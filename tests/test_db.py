import asyncio
import inspect
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from importlib import resources

import aiosqlite
import pytest

from tests.notes import (
    ROOT,
    Held,
    commits_seen,
    count,
    create,
    insert,
    numbers,
    open_and_close,
    pragma,
    run_with_db,
    wal_size,
)
from whisperd.condition import commits
from whisperd.db import (
    LARGEST_BATCH,
    Database,
    DatabaseInUse,
    DatabaseTooNew,
    _hop,
    migrate,
    owned,
    transaction,
)
from whisperd.task import StorageFailed, StorageReadOnly


@pytest.fixture
def path(tmp_path):
    return tmp_path / "q.db"


@pytest.fixture
def with_db(path):
    return lambda body, **settings: run_with_db(path, body, **settings)


def test_all_that_one_read_sees_is_of_one_moment(with_db, path):
    """The forecast of the line read a plan as running, and a moment later its task as planned."""

    def twice(conn):
        before = count(conn)
        with closing(sqlite3.connect(path)) as other, transaction(other):
            insert(other, 2)
        return before, count(conn)

    async def body(db):
        await db.write(create)
        await db.write(insert, 1)

        assert await db.read(twice) == (1, 1)
        assert await db.read(count) == 2

    with_db(body)


# --- group commit ---


def test_writes_that_wait_together_share_one_commit(with_db):
    async def body(db):
        seen = await db.write(commits_seen)
        await asyncio.gather(*(db.write(insert, n) for n in range(100)))

        assert await db.read(count) == 100
        assert len(seen) == 2  # the first is that of `commits_seen` itself

    with_db(body)


def test_a_batch_has_a_largest_size_and_the_rest_waits_for_the_next_commit(with_db):
    async def body(db):
        seen = await db.write(commits_seen)
        await asyncio.gather(*(db.write(insert, n) for n in range(2 * LARGEST_BATCH + 1)))

        assert await db.read(count) == 2 * LARGEST_BATCH + 1
        assert len(seen) == 1 + 3

    with_db(body)


def test_a_write_is_told_and_answered_only_after_its_commit_reached_the_file(with_db, path):
    async def body(db):
        with closing(sqlite3.connect(path)) as other:

            def committed(n):
                return n in numbers(other)

            told = []

            async def write(n):
                await db.write(insert, n, then=lambda n: told.append((n, committed(n))))
                assert told[n][0] == n  # before its answer, and in the order of the commits
                assert committed(n)

            await asyncio.gather(*(write(n) for n in range(20)))

        assert told == [(n, True) for n in range(20)]

    with_db(body)


def test_a_write_returns_what_its_function_returns(with_db):
    async def body(db):
        assert await db.write(insert, 7) == 7
        assert await db.write(lambda conn: None) is None

    with_db(body)


# --- how much has happened ---


def commits_in(path):
    with closing(sqlite3.connect(path)) as conn:
        return commits(conn)


def test_commits_that_change_something_are_counted_and_not_what_shares_them(with_db, path):
    async def body(db):
        before = await db.read(commits)
        await db.write(insert, 1)
        await asyncio.gather(*(db.write(insert, n) for n in range(2, 100)))

        assert await db.read(commits) == before + 2

    with_db(body)
    before = commits_in(path)
    asyncio.run(open_and_close(path))
    assert commits_in(path) == before > 0  # to open it changes nothing, and forgets nothing


def test_what_changes_no_row_leaves_the_file_alone(with_db, path):
    async def body(db):
        await db.write(insert, 1)
        size, known = wal_size(path), await db.read(commits)
        for _ in range(3):
            await db.changes()
            await db.write(lambda conn: conn.execute("update note set n = 9 where n = 10") and None)

        assert (wal_size(path), await db.read(commits)) == (size, known)

    with_db(body, idle_seconds=3600)


# --- failures of one function ---


def fails_after_its_insert(conn, n, error):
    insert(conn, n)
    raise error


@pytest.mark.parametrize("error", [ValueError("mine"), sqlite3.IntegrityError("mine")])
def test_a_failing_function_undoes_only_itself(with_db, error):
    async def body(db):
        told = []
        answers = await asyncio.gather(
            db.write(insert, 1),
            db.write(fails_after_its_insert, 2, error, then=told.append),
            db.write(insert, 1),  # a second 1: not unique
            db.write(insert, 3),
            return_exceptions=True,
        )

        assert answers[0] == 1
        assert answers[1] is error
        assert isinstance(answers[2], sqlite3.IntegrityError)
        assert answers[3] == 3
        assert await db.read(numbers) == [1, 3]
        assert told == []

    with_db(body)


JOBS_OWN = {
    "a bug in its SQL": "select nothing from nowhere",
    "more values than are asked for": "select 1",
    "text that is not UTF-8": "select cast(x'ff' as text), ?",
    "a value too large": "select zeroblob(2000000000), ?",
}


@pytest.mark.parametrize("sql", JOBS_OWN.values(), ids=JOBS_OWN)
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in company"])
def test_what_one_function_does_wrong_is_no_trouble_of_the_disk(with_db, sql, alone):
    """The whole batch was lost, and nothing was written any more until a restart, and then again."""

    def wrong(conn):
        insert(conn, 2)
        return conn.execute(sql, (1,)).fetchall()

    async def body(db):
        others = [] if alone else [db.write(insert, 1), db.write(insert, 3)]
        first, *rest = await asyncio.gather(db.write(wrong), *others, return_exceptions=True)

        assert isinstance(first, StorageFailed)
        assert (rest, db.broken) == ([] if alone else [1, 3], None)
        assert await db.write(insert, 4) == 4
        assert await db.read(numbers) == [*rest, 4]

    with_db(body)


@pytest.mark.parametrize("error", [ValueError("mine"), sqlite3.IntegrityError("mine")])
def test_a_failing_function_that_has_a_commit_to_itself_is_undone_too(with_db, error):
    async def body(db):
        with pytest.raises(type(error), match="mine"):
            await db.write(fails_after_its_insert, 1, error)

        assert await db.read(count) == 0
        assert await db.write(insert, 1) == 1

    with_db(body)


def test_a_failed_commit_leaves_nothing_behind(with_db):
    async def body(db):
        def orphan(conn):  # found at the commit only
            conn.execute("insert into reply values (99)")

        answers = await asyncio.gather(db.write(insert, 1), db.write(orphan), return_exceptions=True)
        assert [type(answer) for answer in answers] == [StorageFailed] * 2
        assert await db.read(count) == 0

    with_db(body)


def test_a_failed_commit_leaves_no_transaction_open(path):
    """Unlike a full disk, which has rolled back already."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("pragma foreign_keys = on")
        create(conn)
        with pytest.raises(sqlite3.IntegrityError), transaction(conn):
            conn.execute("insert into reply values (99)")

        assert not conn.in_transaction


def test_the_writer_outlives_a_listener_that_raises(with_db):
    async def body(db):
        def listener(n):
            raise RuntimeError("bad listener")

        with pytest.raises(RuntimeError, match="bad listener"):
            await db.write(insert, 1, then=listener)

        assert await db.write(insert, 2) == 2
        assert await db.read(numbers) == [1, 2]

    with_db(body)


# --- cancelling ---


@pytest.mark.parametrize("ticks", range(6))
def test_a_cancelled_write_is_all_or_nothing_and_is_still_told(with_db, ticks):
    async def body(db):
        told = []
        writing = asyncio.create_task(db.write(insert, 1, then=told.append))
        for _ in range(ticks):
            await asyncio.sleep(0)
        cancelled = writing.cancel()
        await asyncio.wait([writing])
        await db.write(lambda conn: None)  # whatever came before it is settled

        assert writing.cancelled() == cancelled
        assert await db.read(numbers) == told

    with_db(body)


def test_a_cancelled_write_does_not_disturb_those_in_its_batch(with_db):
    async def body(db):
        writes = [asyncio.create_task(db.write(insert, n)) for n in range(9)]
        await asyncio.sleep(0)
        writes[4].cancel()
        answers = await asyncio.gather(*writes, return_exceptions=True)

        assert [n for n, answer in enumerate(answers) if answer == n] == [0, 1, 2, 3, 5, 6, 7, 8]
        assert isinstance(answers[4], asyncio.CancelledError)

    with_db(body)


# --- the end ---


def test_a_close_waits_until_every_write_is_answered(path):
    async def main():
        async with Database(path) as db:
            await db.write(create)
            writes = [asyncio.create_task(db.write(insert, n)) for n in range(2 * LARGEST_BATCH)]
            await asyncio.sleep(0)
        assert [write.result() for write in writes] == list(range(2 * LARGEST_BATCH))
        async with Database(path) as db:
            assert await db.read(count) == 2 * LARGEST_BATCH

    asyncio.run(main())


def test_a_write_during_or_after_the_close_is_refused_and_does_not_wait_for_ever(path):
    async def main():
        db = await Database(path).__aenter__()
        held = Held()
        writing = asyncio.create_task(db.write(held))
        await held.under_way()
        closing = asyncio.create_task(db.__aexit__(None, None, None))
        await asyncio.sleep(0)

        with pytest.raises(StorageFailed, match="closed"):
            await db.write(create)
        held.go_on.set()
        await asyncio.gather(writing, closing)
        with pytest.raises(StorageFailed, match="closed"):
            await db.write(create)

    asyncio.run(main())


def test_a_close_that_is_cancelled_still_lets_go_of_the_file(path):
    async def main():
        db = await Database(path).__aenter__()
        held = Held()
        writing = asyncio.create_task(db.write(held))
        await held.under_way()
        closing = asyncio.create_task(db.__aexit__(None, None, None))
        await asyncio.sleep(0)
        closing.cancel()
        held.go_on.set()
        await asyncio.wait([closing], timeout=10)
        writing.cancel()

        async with Database(path):
            pass

    before = set(threading.enumerate())
    asyncio.run(main())
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()  # it would keep the process from ending


def test_what_the_body_raises_comes_out_as_it_is(path):
    async def main():
        async with Database(path):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(main())


# --- one daemon a file ---


def other_ways(path):
    """The same file, called by other names."""
    link, folder = path.with_name("link.db"), path.parent / "folder"
    link.symlink_to(path)
    folder.symlink_to(path.parent)
    return [path, link, folder / path.name, path.parent / "folder" / ".." / path.parent.name / path.name]


def test_a_second_owner_of_the_file_is_refused_by_every_name_and_the_pid_is_named(path):
    with owned(path):
        for name in other_ways(path):
            with pytest.raises(DatabaseInUse, match=f"pid {os.getpid()}$"), owned(name):
                pass
    with owned(path):
        pass


HOLD = """
import asyncio, sys
from pathlib import Path
from whisperd.db import Database, owned

async def main():
    with owned(Path(sys.argv[1])):
        async with Database(Path(sys.argv[1])):
            print("open", flush=True)
            await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


@contextmanager
def another_process_holds(path):
    command = [sys.executable, "-P", "-c", HOLD, str(path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stdin=-1, stdout=-1, stderr=-1, text=True) as owner:
        try:
            assert owner.stdout.readline() == "open\n"
            yield owner.pid
        finally:
            owner.send_signal(signal.SIGKILL)


def test_the_owner_may_be_another_process_and_its_death_frees_the_file(path):
    with (
        another_process_holds(path) as pid,
        pytest.raises(DatabaseInUse, match=f"pid {pid}$"),
        owned(path),
    ):
        pass

    with owned(path):
        asyncio.run(open_and_close(path))


def test_a_hard_link_to_a_file_in_use_is_refused_too_and_leaves_no_trace(path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "other.db"
    with another_process_holds(path) as pid:
        link.hardlink_to(path)
        with pytest.raises(DatabaseInUse, match=f"another name, by the process with pid {pid}$"), owned(link):
            pass

    with owned(link):
        pass


# --- the schema ---


def test_the_number_of_a_migration_is_its_place():
    """Two that were written side by side had the same one."""
    names = sorted(path.name for path in resources.files("whisperd.migrations").iterdir())
    numbers = [int(name[:4]) for name in names if name.endswith(".sql")]

    assert numbers == list(range(1, len(numbers) + 1))


def test_migrating_twice_changes_nothing():
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        schemas = []
        for _ in range(2):
            migrate(conn)
            schemas.append(conn.execute("select name, sql from sqlite_schema order by name").fetchall())

    assert schemas[0] == schemas[1] != []


def test_a_migration_that_fails_leaves_nothing(path):
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("create table chunk (mine text)")  # in the way of the second half of the first

    with pytest.raises(StorageFailed, match="already exists"):
        asyncio.run(open_and_close(path))

    with closing(sqlite3.connect(path)) as conn:
        assert [row[0] for row in conn.execute("select name from sqlite_schema")] == ["chunk"]
        assert pragma(conn, "user_version") == 0


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(path):
    asyncio.run(open_and_close(path))
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("pragma user_version = 999")

    with pytest.raises(DatabaseTooNew, match="schema 999"):
        asyncio.run(open_and_close(path))

    with closing(sqlite3.connect(path)) as conn:
        assert pragma(conn, "user_version") == 999


def test_a_file_that_is_no_database_is_refused_with_the_reason(path):
    path.write_bytes(b"something else entirely " * 1000)

    with pytest.raises(StorageFailed, match="not a database"):
        asyncio.run(open_and_close(path))


# --- the connections ---


def test_the_reading_connection_refuses_to_write(with_db):
    async def body(db):
        with pytest.raises(StorageReadOnly, match="readonly"):
            await db.read(insert, 1)
        assert await db.write(insert, 1) == 1  # which breaks nothing

    with_db(body)


SAFE = {"foreign_keys": 1, "trusted_schema": 0, "cell_size_check": 1, "busy_timeout": 5000}
PROMISED = {
    "write": {**SAFE, "journal_mode": "wal", "synchronous": 2, "query_only": 0, "temp_store": 2},
    "read": {**SAFE, "journal_mode": "wal", "wal_autocheckpoint": 0, "query_only": 1},
}


@pytest.mark.parametrize("how", ["write", "read"])
def test_the_connections_are_set_as_promised(with_db, how):
    async def body(db):
        for name, value in PROMISED[how].items():
            assert (name, await getattr(db, how)(pragma, name)) == (name, value)

    with_db(body)


def test_aiosqlite_still_has_the_private_call_that_a_hop_is_made_of():
    assert inspect.iscoroutinefunction(aiosqlite.Connection._execute)
    assert isinstance(aiosqlite.Connection._conn, property)


def test_a_hop_runs_its_function_on_the_thread_and_the_connection_of_aiosqlite(path):
    async def main():
        async with aiosqlite.connect(path) as conn:

            def where(raw):
                return raw, threading.get_ident()

            raw, thread = await _hop(conn, where)
            assert isinstance(raw, sqlite3.Connection)
            assert thread not in (None, threading.get_ident())
            assert thread == (await _hop(conn, where))[1]

    asyncio.run(main())
