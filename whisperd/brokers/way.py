"""What a way to a broker is, whichever it is, and how much is asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from whisperd.brokers.inbox import Letter, Settle

AT_A_TIME = 8  # messages that are being submitted, whose audio may have to be fetched
CLOSE_SECONDS = 5.0
CONFIRM_SECONDS = 15.0
ENDING_SECONDS = 3.0  # for a message that is being settled when it is cut off
LOOK_SECONDS = 1.0  # between one look whether it is still there and the next

Pause = Callable[[float], float]  # how long to take nothing, at least so many seconds


class BrokerAway(Exception):
    """The connection is lost."""


class Way(Protocol):
    """To a broker, while it is open. Whatever goes wrong raises what the libraries raise."""

    async def watch(self) -> None:
        """Raises BrokerAway once it is lost."""

    async def take(self, settle: Settle, pause: Pause) -> None:
        """Messages, each to be settled; what cannot be now waits, or goes back, as long as `pause` says."""

    async def bury(self, letter: Letter, why: Mapping[str, str]) -> None:
        """Among the dead letters. Returns when it is there to stay."""

    async def tell(self, event: str, body: bytes, message_id: str) -> None: ...


async def stopped(one: Any) -> bool:
    """Whether it could be in order, and in time."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await one.stop()
    except Exception:  # an edge: its connection may be gone already
        return False
    return True


async def finished(settling: Coroutine[Any, Any, bool], lost: asyncio.Event) -> bool:
    """What it says. Cut off, it has a moment more, so that a task that is on the disk is acknowledged, too.

    Not once the connection is lost: over that nothing can be, and the message comes again.
    """
    work = asyncio.ensure_future(settling)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if not lost.is_set():
            await asyncio.wait([work], timeout=ENDING_SECONDS)
        raise
    finally:
        work.cancel()
        await asyncio.wait([work])
