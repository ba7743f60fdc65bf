"""Events that say that there may be something to do: whoever waits for one looks now and then anyhow."""

from __future__ import annotations

import asyncio
from contextlib import suppress

AT_LEAST_SECONDS = 1.0


async def heard(event: asyncio.Event) -> None:
    """Wait for it, but not for long: it is a hint."""
    with suppress(TimeoutError):
        async with asyncio.timeout(AT_LEAST_SECONDS):
            await event.wait()
    event.clear()
