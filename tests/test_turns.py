"""Turns at something of which there is little, shared between tenants."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from whisperd.turns import NoTurn, Turns

LONG = 60.0  # seconds; nothing here takes them


def run(body, most=8):
    async def main():
        async with asyncio.timeout(LONG), AsyncExitStack() as stack:
            await body(Turns(most), stack)

    asyncio.run(main())


async def holds(turns, stack, tenant):
    """Whether it gets one, and keeps it, without waiting."""
    try:
        await stack.enter_async_context(turns.hold(tenant, 0))
    except NoTurn:
        return False
    return True


async def held(turns, stack, tenant):
    """How many it gets that takes all it can."""
    n = 0
    while await holds(turns, stack, tenant):
        n += 1
    return n


def waits(turns, tenant):
    """A task that waits for one, and gives it back at once."""

    async def one():
        async with turns.hold(tenant, LONG):
            return tenant

    return asyncio.create_task(one())


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


def test_no_tenant_takes_what_others_need():
    async def body(turns, stack):
        assert [await held(turns, stack, tenant) for tenant in "abcde"] == [4, 2, 1, 1, 0]

    run(body)


def test_of_one_there_is_one():
    async def body(turns, stack):
        assert [await held(turns, stack, tenant) for tenant in "ab"] == [1, 0]

    run(body, most=1)


def test_who_waits_gets_the_next_of_its_own_in_the_order_of_coming():
    async def body(turns, stack):
        await held(turns, stack, "a")
        others = AsyncExitStack()
        await held(turns, others, "b")
        tasks = [waits(turns, "a"), waits(turns, "b"), waits(turns, "b")]
        await settle()
        assert not any(task.done() for task in tasks)

        await others.aclose()
        assert await asyncio.gather(*tasks[1:]) == ["b", "b"]
        assert not tasks[0].done()  # it has its half

        await stack.aclose()
        assert await tasks[0] == "a"
        assert not turns._held
        assert not turns._waiting

    run(body)


def test_who_waits_too_long_is_told_whether_it_is_to_wait_for_its_own():
    async def body(turns, stack):
        for tenant in "abcd":
            await held(turns, stack, tenant)
        for tenant, own in (("a", True), ("new", False)):
            with pytest.raises(NoTurn) as error:
                async with turns.hold(tenant, 0.01):
                    pass
            assert error.value.own is own
        assert not turns._waiting

    run(body)


def test_who_is_cancelled_as_its_turn_comes_gives_it_back():
    async def body(turns, stack):
        await held(turns, stack, "a")
        late, next_one = waits(turns, "a"), waits(turns, "a")
        await settle()
        await stack.aclose()  # both have theirs now, and have not run yet
        late.cancel()
        await asyncio.wait([late, next_one])

        assert (late.cancelled(), next_one.result()) == (True, "a")
        assert not turns._held

    run(body)
