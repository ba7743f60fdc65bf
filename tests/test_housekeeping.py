"""What is done beside the work: nothing that somebody still needs may go."""

import pytest

from tests.conftest import a_task
from whisperd.housekeeping import clean_spool
from whisperd.spool import Spool


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
