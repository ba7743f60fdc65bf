"""The search: tasks are found by what is said in them and what they are called, by nobody else's words."""

import asyncio
import sqlite3
from contextlib import closing

import pytest

from tests.conftest import a_task
from whisperd.db import SCRIPTS, Database, migrate
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.sql import search
from whisperd.task import Cut, IndexDamaged, ListQuery, Piece, Plan, Segment, State


def segments(*texts):
    return [Segment(start=n * 2.5, end=n * 2.5 + 2, text=text) for n, text in enumerate(texts)]


async def planned(queue, chunks=1, **fields):
    task, _ = await queue.submit(a_task(**fields))
    cuts = tuple(Cut(pieces=(Piece(n * 16_000, (n + 1) * 16_000),)) for n in range(chunks))
    await queue.plan(await queue.claim(), Plan(fingerprint="f", cuts=cuts, duration=9.0, language="en"))
    return task


async def said(queue, *texts, **fields):
    """A completed task that says this."""
    task = await planned(queue, **fields)
    await queue.finish(await queue.claim(), segments(*texts))
    return task


async def indexed(queue):
    while await queue.index():
        pass


async def found(queue, text, **query):
    page = await queue.search(ListQuery(text=text, **query))
    return [hit.task.id for hit in page.hits]


async def match(queue, text):
    (hit,) = (await queue.search(ListQuery(text=text))).hits
    return hit.match


# --- what is found ---


def test_a_task_is_found_by_what_is_said_in_it(with_queue):
    async def body(queue):
        ask = await said(queue, "Ask not what your country", "can do for you.")
        other = await said(queue, "Nothing of the kind.")
        await indexed(queue)

        assert await found(queue, "country") == [ask.id]
        assert await found(queue, "COUNTRY ask") == [ask.id]
        assert await found(queue, "count") == [ask.id]  # it may go on
        assert await found(queue, "count ") == []
        assert await found(queue, '"country can do"') == [ask.id]  # from one segment into the next
        assert await found(queue, '"country do"') == []
        assert await found(queue, "country kind") == []
        assert await found(queue, "not") == [other.id, ask.id]
        assert await found(queue, "not ") == [ask.id]

    with_queue(body)


def test_a_task_is_found_by_its_name_in_every_state(with_queue):
    async def body(queue):
        waiting, _ = await queue.submit(a_task("Board meeting 2026-11-28.mp3"))
        await indexed(queue)

        assert await found(queue, "meeting board") == await found(queue, "2026-11-28") == [waiting.id]
        assert (await queue.search(ListQuery(text="meeting"))).hits[0].match is None

    with_queue(body)


def test_accents_and_case_make_no_difference(with_queue):
    async def body(queue):
        task = await said(queue, "Die Prüfung im Café war ÄRGERLICH.")
        await indexed(queue)

        assert await found(queue, "prufung cafe argerlich") == await found(queue, "PRÜFUNG café") == [task.id]

    with_queue(body)


def test_a_task_is_found_by_its_id_and_by_the_start_of_it(with_queue):
    async def body(queue):
        task, _ = await queue.submit(a_task(id="01J8ZQ5V3K9X7W2M4N6P8R0T1B"))

        assert await found(queue, task.id) == await found(queue, task.id[:12]) == [task.id]
        assert await found(queue, task.id[:5]) == await found(queue, task.id[1:]) == []

    with_queue(body)


@pytest.mark.parametrize("text", ["", " ", "%", "*", '"', "()", "\x00", "' or 1=1 --", "name:a"])
def test_what_says_nothing_finds_nothing(with_queue, text):
    async def body(queue):
        await said(queue, "hello")
        await indexed(queue)

        assert await found(queue, text) == []

    with_queue(body)


# --- where it is said ---


def test_a_hit_shows_where_it_is_said(with_queue):
    async def body(queue):
        await said(queue, "Nothing yet.", "And so, my fellow Americans,", "ask not what your country")
        await indexed(queue)
        hit = await match(queue, "fellow ask")

        assert hit.snippet == "Nothing yet. And so, my fellow Americans, ask not what your country"
        assert [hit.snippet[start:end] for start, end in hit.ranges] == ["fellow", "ask"]
        assert hit.start == 2.5

    with_queue(body)


def test_a_snippet_is_short_and_shows_the_most_of_what_was_looked_for(with_queue):
    async def body(queue):
        filler = [f"filler number {n} of many more to come" for n in range(100)]
        await said(queue, "zebra alone", *filler, "the zebra and the yak", *filler)
        await indexed(queue)
        hit = await match(queue, "zebra yak")

        assert [hit.snippet[start:end] for start, end in hit.ranges] == ["zebra", "yak"]
        assert len(hit.snippet) <= search.SNIPPET
        assert hit.start == 101 * 2.5

    with_queue(body)


def test_ranges_count_as_javascript_does(with_queue):
    async def body(queue):
        await said(queue, "🎤🎤 hello")
        await indexed(queue)

        assert (await match(queue, "hello")).ranges == ((5, 10),)

    with_queue(body)


def test_text_without_any_space_has_a_snippet_too(with_queue):
    async def body(queue):
        await said(queue, "字" * 500, "x" * 1000)
        await indexed(queue)
        hit = await match(queue, "字" * 500)

        assert 0 < len(hit.snippet) <= search.SNIPPET + 1

    with_queue(body)


def test_channels_are_searched_in_the_order_of_time(with_queue):
    async def body(queue):
        await planned(queue, chunks=2)
        first, second = await queue.claim(), await queue.claim()
        await queue.finish(first, [Segment(start=0, end=1, text="good"), Segment(start=4, end=5, text="day")])
        await queue.finish(second, [Segment(start=2, end=3, text="morning")])
        await indexed(queue)

        assert (await match(queue, '"good morning day"')).start == 0

    with_queue(body)


# --- whose it is, and pages ---


def test_a_tenant_finds_its_own_only(with_queue):
    async def body(queue):
        mine = await said(queue, "hello there", tenant="acme")
        await said(queue, "hello there", tenant="acme corp")
        await indexed(queue)

        assert await found(queue, "hello", tenant="acme") == [mine.id]
        assert await found(queue, "hello", tenant="nobody") == []
        for word in ("acme", "corp", search.tenant_word("acme")):
            assert await found(queue, word) == []  # the tenant's name is no word that is said

    with_queue(body)


def test_other_filters_hold(with_queue):
    async def body(queue):
        done = await said(queue, "hello", name="hello.wav")
        waits, _ = await queue.submit(a_task("hello.wav"))
        await indexed(queue)

        assert await found(queue, "hello") == [waits.id, done.id]
        assert await found(queue, "hello", states=frozenset({State.COMPLETED, State.FAILED})) == [done.id]
        assert await found(queue, "hello", kind="risk_detection") == []

    with_queue(body)


@pytest.mark.parametrize("walk", [2, 3, 2000])
def test_pages_go_through_all_hits_once_the_newest_first(with_queue, monkeypatch, walk):
    monkeypatch.setattr(search, "WALK", walk)

    async def body(queue):
        ids = [(await said(queue, "hello", tenant=f"t{n % 2}")).id for n in range(9)]
        for _ in range(9):
            await queue.submit(a_task("hello.wav"))
        await indexed(queue)
        seen, before = [], None
        for _ in range(20):
            query = ListQuery(text="hello", states=frozenset({State.COMPLETED}), limit=2, before=before)
            page = await queue.search(query)
            seen += [hit.task.id for hit in page.hits]
            if (before := page.before) is None:
                break

        assert seen == ids[::-1]

    with_queue(body)


# --- it follows the tasks ---


def test_a_task_that_is_deleted_is_found_no_more_and_nothing_of_it_is_left(with_queue):
    async def body(queue):
        await said(queue, "hello")
        await indexed(queue)
        await queue.clear([State.COMPLETED], float("inf"))
        before = await found(queue, "hello")
        await indexed(queue)

        assert before == await found(queue, "hello") == []
        assert await queue.db.read(lambda conn: conn.execute("select * from search_content").fetchall()) == []

    with_queue(body)


def test_what_was_never_indexed_is_forgotten_at_once(with_queue):
    async def body(queue):
        await said(queue, "hello")
        await queue.clear([State.COMPLETED], float("inf"))

        assert not await queue.index()

    with_queue(body)


def test_an_index_that_is_not_wanted_is_emptied_and_filled_again_when_it_is(with_queue):
    async def body(queue):
        task = await said(queue, "hello")
        gone = await said(queue, "hello")
        await indexed(queue)
        while await queue.index(wanted=False):
            pass
        off = await found(queue, "hello")
        await queue.db.write(lambda conn: conn.execute("delete from task where id = ?", (gone.id,)))
        await indexed(queue)

        assert off == []
        assert await found(queue, "hello") == [task.id]

    with_queue(body)


def test_a_step_is_bounded_by_tasks_and_by_what_is_said(with_queue, monkeypatch):
    async def body(queue):
        for _ in range(5):
            await said(queue, "hello " * 10)
        monkeypatch.setattr(search, "MOST_CHARACTERS", 100)
        by_text = await queue.db.write(search.index)
        monkeypatch.setattr(search, "MOST_CHARACTERS", 10**6)
        monkeypatch.setattr(search, "MOST_TASKS", 1)
        by_tasks = await queue.db.write(search.index)

        assert (by_text.entries, by_tasks.entries) == (2, 1)

    with_queue(body)


def test_a_database_of_before_the_index_is_filled_in_steps(tmp_path):
    path = tmp_path / "q.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        migrate(conn, SCRIPTS[:17])
        conn.execute(
            """
            insert into task (id, kind, state, priority, tenant, model, options, audio_name, audio_size,
                              audio_sha256, waiting, max_retries, created_at, finished_at)
            values ('old', 'transcription', 'completed', 0, 'default', 'm', '{}', 'a.wav', 1, '', 0, 0, 1, 2)
            """
        )
        conn.execute(
            "insert into chunk (task, number, state, segments) values (1, 1, 'done', ?)",
            ('[{"start":0,"end":1,"text":"hello of old","tokens":[1]}]',),
        )

    async def main():
        async with Database(path) as db:
            queue = SqliteQueue(db, Events())
            await indexed(queue)
            assert await found(queue, "old") == ["old"]

    asyncio.run(main())


# --- what is damaged ---


async def spoil(queue, sql, *values):
    await queue.db.write(lambda conn: conn.execute(sql, values).rowcount)


NO_UTF8 = "cast(x'ff' || substr({0}, 2) as text)"
DAMAGES = {
    "the transcript is not UTF-8": f"update chunk set segments = {NO_UTF8.format('segments')} where task = ?",
    "the transcript is no JSON": "update chunk set segments = '[{\"start\";0}]' where task = ?",
    "the transcript is another thing": "update chunk set segments = '{}' where task = ?",
    "the name is not UTF-8": f"update task set audio_name = {NO_UTF8.format('audio_name')} where seq = ?",
    "the correction is not UTF-8": "insert into edit values (?, 'a', cast(x'ff' as text))",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_one_task_that_cannot_be_read_keeps_no_others_from_being_found(with_queue, damage):
    """It counted as trouble of the disk: nothing was written any more, and again after each restart."""

    async def body(queue):
        good = await said(queue, "hello")
        bad = await said(queue, "hello")
        newest = await said(queue, "hello")
        await spoil(queue, damage, bad.seq)
        step = await queue.index()

        assert (step.entries, step.unreadable) == (3, (bad.seq,))
        assert await queue.index() is None
        assert await found(queue, "hello") == [newest.id, good.id]
        assert queue.db.broken is None

    with_queue(body)


DAMAGED_INDEX = ["update search_data set block = x'00112233445566'", "delete from search_data where id = 10"]


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("damage", DAMAGED_INDEX)
def test_a_damaged_index_is_no_damaged_database_and_is_made_anew(with_queue, damage, wanted):
    async def body(queue):
        first = await said(queue, "hello")
        await indexed(queue)
        await spoil(queue, damage)
        second = await said(queue, "hello")
        with pytest.raises(IndexDamaged):
            await queue.index(wanted)
        accepted = await said(queue, "hello")
        await queue.index_anew()
        await indexed(queue)

        assert await found(queue, "hello") == [accepted.id, second.id, first.id]
        assert await found(queue, "hel") == [accepted.id, second.id, first.id]
        assert queue.db.broken is None

    with_queue(body)


@pytest.mark.parametrize("damage", DAMAGED_INDEX)
def test_a_search_that_finds_the_index_damaged_has_it_made_anew(with_queue, damage):
    """It counted as trouble of the disk until the next task was indexed."""

    async def body(queue):
        task = await said(queue, "hello")
        await indexed(queue)
        await spoil(queue, damage)
        assert await queue.db.read(search.is_behind) is False
        with pytest.raises(IndexDamaged):
            await found(queue, "hello")
        with pytest.raises(IndexDamaged):
            await queue.index()
        await queue.index_anew()
        await indexed(queue)

        assert await found(queue, "hello") == [task.id]

    with_queue(body)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_making_it_anew_goes_in_steps_and_is_begun_again_where_it_was_cut_off(with_queue, monkeypatch, steps):
    monkeypatch.setattr(search, "MOST_ROWS", 1)
    monkeypatch.setattr(search, "MOST_NOTED", 2)

    async def cut_off(queue):
        for _ in range(5):
            await said(queue, "hello")
        await indexed(queue)
        making = asyncio.create_task(queue.index_anew())
        for _ in range(steps):
            await queue.db.changes()  # each waits for no more than a step
        making.cancel()
        await asyncio.wait([making])

        assert making.cancelled()

    async def body(queue):
        with pytest.raises(IndexDamaged):
            await found(queue, "hello")
        await queue.index_anew()
        await indexed(queue)

        assert len(await found(queue, "hello")) == 5

    with_queue(cut_off)
    with_queue(body)


def test_what_is_written_is_merged_by_steps_of_its_own(with_queue):
    """FTS5 did it in the middle of a step that wrote, which then took six times as long."""

    def parts(conn):
        return conn.execute("select count(distinct segid) from search_idx").fetchone()[0]

    def by_itself(conn):
        return conn.execute("select v from search_config where k = 'automerge'").fetchone()[0]

    async def body(queue):
        for n in range(12):
            await said(queue, f"hello number{n}")
            await indexed(queue)

        assert await queue.db.read(parts) <= 4
        assert await queue.db.read(by_itself) == 0
        assert len(await found(queue, "hello")) == 12

    with_queue(body)


def test_a_damaged_index_is_made_anew_after_a_restart_too(with_queue):
    """It cannot even be opened then, and so not be dropped."""

    async def damage(queue):
        await said(queue, "hello")
        await indexed(queue)
        await spoil(queue, "delete from search_data where id = 10")
        await said(queue, "hello")

    async def body(queue):
        with pytest.raises(IndexDamaged):
            await queue.index()
        await queue.index_anew()
        await indexed(queue)

        assert len(await found(queue, "hello")) == 2

    with_queue(damage)
    with_queue(body)


def test_an_index_made_anew_is_like_the_first_one(with_queue):
    def made(conn):
        schema = conn.execute("select name, sql from sqlite_schema order by name").fetchall()
        return [tuple(row) for row in schema + conn.execute("select * from search_config").fetchall()]

    async def body(queue):
        before = await queue.db.read(made)
        await queue.index_anew()

        assert await queue.db.read(made) == before

    with_queue(body)
