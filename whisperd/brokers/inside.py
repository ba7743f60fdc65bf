"""A call of our own application without a network, as one from this machine.

The guard sees it as any other: where whisperd has keys, it has to show one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whisperd.brokers.inbox import Answer, Call

PATH = "/tasks/transcription"


def submitting(app: Any) -> Call:
    """Of an ASGI application. Safe to cancel, as a request is whose client goes."""
    import httpx

    inside = httpx.ASGITransport(app, raise_app_exceptions=False, client=("127.0.0.1", 0))

    async def submit(body: bytes, headers: Mapping[str, str]) -> Answer:
        async with httpx.AsyncClient(
            transport=inside, base_url="http://localhost", trust_env=False
        ) as client:
            answer = await client.post(PATH, content=body, headers=headers)
        return Answer(answer.status_code, answer.content)

    return submit
