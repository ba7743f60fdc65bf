"""Every schema there was, with data in it, becomes today's."""

import asyncio
import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import a_task
from tests.notes import marked_clean, pragma
from whisperd.db import NEWEST_SCHEMA, SCRIPTS, Database, DatabaseTooNew, migrate
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.sql.rows import TaskRow
from whisperd.task import PLAN, START, State

DATA = Path(__file__).parent / "data" / "schema"
OLDER = range(1, NEWEST_SCHEMA)
SEARCHABLE, CHECKED_BY_LISTS, LOOKED_THROUGH, REPORTED_ONLY = 18, 22, 25, 31
DUE = "select place, min(due_at) from outbox where state = 'waiting' group by place"
SEQS = "select seq from task order by seq"
LOOKS = """
insert into task (
  id, kind, state, priority, tenant, model, options, audio_name, audio_size, audio_sha256,
  waiting, max_retries, created_at, finished_at, ready
) select id || '-{name}', 'risk_detection', state, {priority}, tenant, 'rules', '{{}}', '', 0, '',
  0, 3, created_at, finished_at, 1
from task where kind = 'transcription'
"""
COUNTED = """
select state,
  iif(kind = 'risk_detection', 3, iif(state <> 'queued', 0, iif(run_at is not null, 1, 2 * (waiting = 0)))),
  tenant, priority, count(*)
from task group by 1, 2, 3, 4 order by 1, 2, 3, 4
"""
BROKEN = "create table half (n); insert into half values (1); create table task (mine);"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "q.db"


def build(path, schema):
    """A database as a whisperd of that schema left it, with tasks in every state."""
    with opened(path) as conn:
        conn.execute("pragma journal_mode = wal")
        for number in range(1, schema + 1):
            migrate(conn, SCRIPTS[:number])
            if (data := DATA / f"{number:04}.sql").exists():
                conn.executescript(data.read_text())


def opened(path):
    return closing(sqlite3.connect(path, isolation_level=None))


def columns(conn):
    """Every table's columns, but for those of the settings of the index of words: they are nobody's rows."""
    tables = conn.execute(
        """
        select name from sqlite_schema
        where type = 'table' and name not like 'sqlite_%' and name <> 'search_config'
        """
    )
    return {
        name: [row[1] for row in conn.execute(f"pragma table_info({name})")] for (name,) in tables.fetchall()
    }


def rows(conn, wanted):
    return {
        table: conn.execute(
            f"select {', '.join(names)} from {table} order by {', '.join(names[:2])}"
        ).fetchall()
        for table, names in wanted.items()
    }


def everything(conn):
    return list(conn.iterdump()), pragma(conn, "user_version")


def test_the_columns_of_a_task_are_in_the_order_in_which_rows_are_read(path):
    with opened(path) as conn:
        migrate(conn)

        assert columns(conn)["task"] == list(TaskRow._fields)


@pytest.mark.parametrize("schema", OLDER)
def test_an_older_database_has_a_task_in_every_state(path, schema):
    build(path, schema)

    with opened(path) as conn:
        assert pragma(conn, "user_version") == schema
        states = {state for (state,) in conn.execute("select state from task")}
        assert states == set(State)
        assert {state for (state,) in conn.execute("select state from chunk")} == {
            "waiting",
            "running",
            "done",
        }


@pytest.mark.parametrize("schema", OLDER)
def test_an_older_database_becomes_todays_with_every_row_as_it_was(path, schema):
    build(path, schema)
    with opened(path) as conn:
        wanted = columns(conn)
        del wanted["tally"]  # of which the next test is
        before = rows(conn, wanted)
        migrate(conn)

        assert rows(conn, wanted) == before
        assert pragma(conn, "user_version") == NEWEST_SCHEMA
        assert pragma(conn, "integrity_check") == "ok"
        assert conn.execute("pragma foreign_key_check").fetchall() == []
        assert schema_of(conn) == schema_of_a_new_one()


@pytest.mark.parametrize("schema", OLDER)
def test_tasks_are_counted_and_what_looks_for_risk_apart_from_them(path, schema):
    build(path, schema)
    with opened(path) as conn:
        if schema >= LOOKED_THROUGH:
            for name, priority in (
                ("look", "priority"),
                ("alone", "50"),
            ):  # beside others of its state, or not
                conn.execute(LOOKS.format(name=name, priority=priority))
        migrate(conn)
        counted = conn.execute(COUNTED).fetchall()

        assert {delayed for _, delayed, *_ in counted} >= {0, 3}
        assert conn.execute("select * from tally order by 1, 2, 3, 4").fetchall() == counted


@pytest.mark.parametrize("schema", OLDER)
def test_what_waited_when_an_older_one_stopped_is_found(path, schema):
    """Tables that a trigger fills from now on are filled once from what is there."""
    build(path, schema)
    with opened(path) as conn:
        migrate(conn)

        assert set(conn.execute("select place, due_at from outbox_place")) == set(conn.execute(DUE))
        if schema < SEARCHABLE:
            assert conn.execute("select task from unsearched").fetchall() == conn.execute(SEQS).fetchall()


def test_what_reports_want_redacted_is_taken_out_of_those_that_are_there(path):
    build(path, REPORTED_ONLY)
    report = '{"findings":[],"places":[[0,3,9,"CARD"]],"rules_errors":[]}'
    with opened(path) as conn:
        conn.execute(LOOKS.format(name="look", priority=0))
        conn.execute(
            "insert into detection (task, asked, report) select seq, '{}', iif(state = 'completed', ?, null) "
            "from task where kind = 'risk_detection'",
            (report,),
        )
        migrate(conn)
        hidden = conn.execute("select distinct state, what from hidden join task on task = seq")

        assert hidden.fetchall() == [(State.COMPLETED, '[[[0,3,9,"CARD"]],[]]')]


def schema_of(conn):
    return conn.execute("select type, name, sql from sqlite_schema order by type, name").fetchall()


def schema_of_a_new_one():
    with opened(":memory:") as conn:
        migrate(conn)
        return schema_of(conn)


@pytest.mark.parametrize("schema", OLDER)
def test_the_queue_goes_on_where_the_older_one_stopped(path, schema):
    build(path, schema)

    async def main():
        async with Database(path) as db:
            queue = SqliteQueue(db, Events(), now=lambda: 2000.0)
            await queue.recover()
            assert [str(mark) for mark, _ in await queue.segments("t-again", START)] == ["1.1"]

            new, _ = await queue.submit(a_task())
            ids, chunks = [], []
            for _ in range(5):
                chunks.append(await queue.claim())
                ids.append(chunks[-1].task.id)
            assert ids == [
                "t-urgent",
                new.id,
                "t-processing",
                "t-processing",
                "t-again",
            ]  # priority, then LIFO
            assert chunks[0].number == PLAN
            assert [chunk.number for chunk in chunks[2:]] == [2, 3, 2]

    asyncio.run(main())
    with opened(path) as conn:
        assert marked_clean(conn) == 1


@pytest.mark.parametrize("schema", [*OLDER, NEWEST_SCHEMA])
def test_a_migration_that_fails_in_the_middle_leaves_the_version_before_it_whole(path, schema):
    build(path, schema)
    with opened(path) as conn:
        before = everything(conn)
        with pytest.raises(sqlite3.OperationalError, match="table task already exists"):
            migrate(conn, [*SCRIPTS[:schema], BROKEN])

        assert everything(conn) == before
        assert not conn.in_transaction

    with opened(path) as conn:  # nor is anything left for the next one who opens it
        assert everything(conn) == before


def test_migrations_that_went_well_before_one_that_fails_are_kept(path):
    build(path, 1)
    with opened(path) as conn:
        with pytest.raises(sqlite3.OperationalError):
            migrate(conn, [*SCRIPTS, BROKEN])

        assert pragma(conn, "user_version") == NEWEST_SCHEMA
        assert schema_of(conn) == schema_of_a_new_one()


def test_a_database_of_a_newer_whisperd_is_refused_with_what_to_do(path):
    build(path, NEWEST_SCHEMA)
    with opened(path) as conn:
        conn.execute(f"pragma user_version = {NEWEST_SCHEMA + 1}")
        before = everything(conn)
        known = f"schema {NEWEST_SCHEMA + 1}, this whisperd knows {NEWEST_SCHEMA}: upgrade it"
        with pytest.raises(DatabaseTooNew, match=known):
            migrate(conn)

        assert everything(conn) == before


# What is out in the world stays as it is: a file that was changed would never run where it has run already.
RELEASED = {1: "71c319f6f2dd9f2c35cd2367044da1c27da7e00263bd91fc6cb07816148a34a9"}


@pytest.mark.parametrize("number", RELEASED)
def test_a_migration_that_was_released_never_changes(number):
    assert hashlib.sha256(SCRIPTS[number - 1].encode()).hexdigest() == RELEASED[number]


@pytest.mark.parametrize("damage", ["select 1", "delete from search_data"], ids=["whole", "damaged"])
def test_the_index_of_words_merges_no_more_by_itself_even_if_it_is_damaged(path, damage):
    build(path, SEARCHABLE)
    with opened(path) as conn:
        conn.execute(damage)
    with opened(path) as conn:
        migrate(conn)

        assert conn.execute("select v from search_config where k = 'automerge'").fetchall() == [(0,)]


@pytest.mark.parametrize("table", ["task", "chunk"])
def test_states_are_checked_as_they_were_by_comparisons(path, table):
    build(path, CHECKED_BY_LISTS)
    with opened(path) as conn:
        migrate(conn)

        with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed: state = "):
            conn.execute(f"update {table} set state = 'lost'")
        assert conn.execute("pragma integrity_check").fetchall() == [("ok",)]
