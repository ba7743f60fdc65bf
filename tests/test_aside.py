import asyncio
import threading

import pytest

from whisperd.aside import LITTLE, worked_out


@pytest.mark.parametrize(("pieces", "here"), [(0, True), (LITTLE, True), (LITTLE + 1, False)])
def test_little_is_done_at_once_and_much_on_a_thread(pieces, here):
    assert (asyncio.run(worked_out(threading.get_ident, pieces)) == threading.get_ident()) is here


@pytest.mark.parametrize("pieces", [1, LITTLE + 1])
def test_what_goes_wrong_is_raised_either_way(pieces):
    with pytest.raises(ZeroDivisionError):
        asyncio.run(worked_out(lambda: 1 // 0, pieces))
