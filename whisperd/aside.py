"""Work for a thread, unless there is so little of it that the way there and back would take longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

LITTLE = 32  # pieces, of some 30 µs each: a millisecond of the loop

Outcome = TypeVar("Outcome")


async def worked_out(work: Callable[[], Outcome], pieces: int) -> Outcome:
    """What it returns, or raises; `pieces`: the segments, tasks or files that it goes over."""
    return work() if pieces <= LITTLE else await asyncio.to_thread(work)
