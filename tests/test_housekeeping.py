"""What is done beside the work: nothing that somebody still needs may go."""

import asyncio
from contextlib import suppress

import pytest
import structlog

from tests.conftest import a_task
from whisperd import housekeeping
from whisperd.housekeeping import clean_spool, keep_searchable
from whisperd.spool import Spool
from whisperd.sql import search
from whisperd.task import IndexDamaged, ListQuery


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", max_bytes=1000)


def left_in(spool):
    return sorted(spool.owners())


def test_the_files_of_no_task_go(spool, with_queue):
    spool.audio("nobody").touch()
    spool.pcm("nobody").touch()

    async def body(queue):
        await clean_spool(queue, spool)

    with_queue(body)
    assert left_in(spool) == []


def test_an_orphan_goes_only_at_the_second_look_while_submissions_come_in(spool, with_queue):
    """Between the file on the disk and the commit of its row it looks like one."""
    spool.audio("arriving").touch()

    async def body(queue):
        suspects = await clean_spool(queue, spool, lambda task_id: False)
        assert (suspects, left_in(spool)) == ({"arriving"}, ["arriving"])

        suspects = await clean_spool(queue, spool, suspects.__contains__)
        assert (suspects, left_in(spool)) == (set(), [])

    with_queue(body)


def test_a_task_keeps_its_audio_and_loses_its_pcm_when_it_is_over(spool, with_queue):
    async def body(queue):
        waiting, over = [(await queue.submit(a_task()))[0].id for _ in range(2)]
        for task_id in (waiting, over):
            spool.audio(task_id).touch()
            spool.pcm(task_id).touch()
        await queue.cancel(over)

        await clean_spool(queue, spool)

        assert spool.audio(waiting).exists()
        assert spool.pcm(waiting).exists()
        assert spool.audio(over).exists()
        assert not spool.pcm(over).exists()

    with_queue(body)


# --- the index of words ---


def test_the_index_follows_the_tasks_and_is_emptied_when_it_is_switched_off(with_queue, monkeypatch):
    monkeypatch.setattr(housekeeping, "INDEX_SECONDS", 0.01)
    wanted = True

    async def body(queue):
        nonlocal wanted
        following = asyncio.create_task(keep_searchable(queue, lambda: wanted))
        await queue.submit(a_task("talk.wav"))

        async def until(names):
            async with asyncio.timeout(20):
                while len((await queue.search(ListQuery(text="talk"))).hits) != names:  # noqa: ASYNC110 - it signals nothing
                    await asyncio.sleep(0.01)

        await until(1)
        wanted = False
        await until(0)
        wanted = True
        await until(1)
        following.cancel()
        await asyncio.wait([following])

    with_queue(body)


def test_an_index_that_a_search_finds_damaged_is_made_anew_though_nothing_is_new(with_queue, monkeypatch):
    monkeypatch.setattr(housekeeping, "INDEX_SECONDS", 0.01)
    monkeypatch.setattr(housekeeping, "INDEX_TROUBLE_SECONDS", 0.01)

    async def body(queue):
        task, _ = await queue.submit(a_task("talk.wav"))
        while await queue.index():
            pass
        damage = "update search_data set block = x'00112233445566'"
        await queue.db.write(lambda conn: conn.execute(damage).rowcount)
        following = asyncio.create_task(keep_searchable(queue, lambda: True))
        hits = ()
        async with asyncio.timeout(20):
            while not hits:
                with suppress(IndexDamaged):
                    hits = (await queue.search(ListQuery(text="talk"))).hits
                await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.wait([following])

        assert [hit.task.id for hit in hits] == [task.id]

    with_queue(body)


def test_a_damaged_index_and_a_task_that_cannot_be_read_are_logged_and_the_rest_is_found(
    with_queue, monkeypatch
):
    monkeypatch.setattr(housekeeping, "INDEX_SECONDS", 0.01)
    monkeypatch.setattr(housekeeping, "INDEX_TROUBLE_SECONDS", 0.01)

    async def body(queue):
        good, _ = await queue.submit(a_task("talk.wav"))
        while await queue.index():
            pass
        bad, _ = await queue.submit(a_task("talk.wav"))
        other, _ = await queue.submit(a_task("talk.wav"))
        for damage in (
            "update search_data set block = x'00112233445566'",
            f"update task set audio_name = cast(x'ff' as text) where seq = {bad.seq}",
        ):
            await queue.db.write(lambda conn, damage: conn.execute(damage).rowcount, damage)
        following = asyncio.create_task(keep_searchable(queue, lambda: True))
        async with asyncio.timeout(20):
            while await queue.db.read(search.is_behind) or len(logs) < 2:  # noqa: ASYNC110 - it signals nothing
                await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.wait([following])

        assert [hit.task.id for hit in (await queue.search(ListQuery(text="talk"))).hits] == [
            other.id,
            good.id,
        ]
        assert [(line["event"], line.get("seq")) for line in logs] == [
            ("the index of words does not follow the tasks", None),
            ("a task cannot be read, and is not found by words", bad.seq),
        ]

    with structlog.testing.capture_logs() as logs:
        with_queue(body)
