"""What a message has when it is cut off while it is being settled."""

import asyncio

import pytest

from whisperd.brokers import way
from whisperd.brokers.way import finished


def cut_off(settle, lost=False):
    """Once it has begun."""

    async def main():
        begun, gone = asyncio.Event(), asyncio.Event()
        if lost:
            gone.set()
        async with asyncio.timeout(10):
            task = asyncio.create_task(finished(settle(begun), gone))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.mark.parametrize(("lost", "acknowledged"), [(False, ["ack"]), (True, [])])
def test_what_is_on_the_disk_is_acknowledged_though_it_is_cut_off_unless_the_connection_is_lost(
    lost, acknowledged
):
    done = []

    async def settle(begun):
        begun.set()
        await asyncio.sleep(0.05)
        done.append("ack")
        return True

    cut_off(settle, lost)

    assert done == acknowledged


def test_what_takes_long_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(way, "ENDING_SECONDS", 0.05)

    cut_off(forever)


def test_what_fails_when_it_is_cut_off_is_heard_by_nobody():
    async def settle(begun):
        begun.set()
        await asyncio.sleep(0.05)
        raise ValueError

    cut_off(settle)


async def forever(begun):
    begun.set()
    await asyncio.Event().wait()
