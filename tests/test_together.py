"""Calls that are made together."""

import asyncio
from functools import partial

import pytest

from whisperd.together import Together, attempt


class Slow:
    """A call that ends when it may, and doubles numbers."""

    def __init__(self):
        self.batches = []
        self.may = asyncio.Event()

    async def __call__(self, jobs):
        self.batches.append(list(jobs))
        await self.may.wait()
        return [attempt(partial(self._double, job)) for job in jobs]

    def _double(self, job):
        if job == 13:
            raise ValueError(job)
        return 2 * job


def asked(slow, together, jobs):
    """The answers to the jobs, of which all but the first came while that was under way."""
    answers = [together.ask(job) for job in jobs]
    slow.may.set()
    return asyncio.gather(*answers, return_exceptions=True)


def test_what_comes_while_a_call_is_under_way_shares_the_next_one():
    async def body():
        slow = Slow()
        assert await asked(slow, Together(slow, 3), range(6)) == [0, 2, 4, 6, 8, 10]
        assert slow.batches == [[0], [1, 2, 3], [4, 5]]

    asyncio.run(body())


def test_the_error_of_one_is_not_that_of_those_beside_it():
    async def body():
        slow = Slow()
        first, wrong, last = await asked(slow, Together(slow, 3), [1, 13, 2])

        assert (first, last) == (2, 4)
        assert isinstance(wrong, ValueError)

    asyncio.run(body())


def test_trouble_of_the_call_is_that_of_all_who_shared_it_and_of_no_others():
    async def body():
        async def failing(jobs):
            await asyncio.sleep(0)
            if 13 in jobs:
                raise OSError("the disk")
            return jobs

        together = Together(failing, 2)
        outcomes = await asyncio.gather(*map(together.ask, [1, 13, 2, 3]), return_exceptions=True)

        assert [isinstance(outcome, OSError) for outcome in outcomes] == [False, True, True, False]

    asyncio.run(body())


def test_who_is_cancelled_holds_up_nobody():
    async def body():
        slow = Slow()
        together = Together(slow, 2)
        answers = [together.ask(job) for job in (1, 2, 3)]
        answers[1].cancel()
        slow.may.set()

        assert await answers[2] == 6
        with pytest.raises(asyncio.CancelledError):
            await answers[1]

    asyncio.run(body())
