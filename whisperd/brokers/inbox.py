"""What becomes of a message: a task, or a dead letter; while neither can be, it is kept and tried again.

It is acknowledged only when its task is on the disk, or its dead letter is with the broker. One that comes
again, since an acknowledgement was lost, is known by its id, which is the Idempotency-Key of its call.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import structlog

log = structlog.get_logger(__name__)
LATER_SECONDS = 2.0  # before a message is tried again, and ever longer up to
LATEST_SECONDS = 60.0
_NOT_NOW = frozenset({401, 408, 429, 503, 507})  # what may be taken later
_KEY = re.compile(r"[ -~]{1,255}")  # what the API takes as an Idempotency-Key


class Answer(NamedTuple):
    """Of the API."""

    status: int
    body: bytes


class Letter(Protocol):
    """A message as it came."""

    body: bytes
    id: str | None  # of its sender

    async def ack(self) -> None: ...


Call = Callable[[bytes, Mapping[str, str]], Awaitable[Answer]]  # with this body and these headers
Bury = Callable[[Letter, Mapping[str, str]], Awaitable[None]]  # as a dead letter, with its reason


class Inbox:
    """`trouble`: why a message waits; safe to show."""

    def __init__(self, call: Call, key_file: str) -> None:
        self._call = call
        self._key_file = key_file
        self.trouble: str | None = None

    async def take(self, letter: Letter, bury: Bury) -> None:
        """Until it is acknowledged. Cut off before, or raising what the broker raises, it comes again."""
        later = LATER_SECONDS
        while _is_not_now(answer := await self._submitted(letter)):
            self._note(answer)
            await asyncio.sleep(later)
            later = min(2 * later, LATEST_SECONDS)
        self.trouble = None
        if answer.status >= 400:
            why = _why(answer)
            log.warning("a message was refused", code=why["code"])
            await bury(letter, why)
        await letter.ack()

    async def _submitted(self, letter: Letter) -> Answer:
        headers = {"content-type": "application/json", **_same(letter.id)}
        if self._key_file:
            try:
                key = (await asyncio.to_thread(Path(self._key_file).read_text, "ascii")).strip()
            except (OSError, UnicodeError):
                return _NO_KEY
            headers["authorization"] = f"Bearer {key}"
        return await self._call(letter.body, headers)

    def _note(self, answer: Answer) -> None:
        why = _why(answer)
        if self.trouble is None:
            log.warning("messages wait to become tasks", code=why["code"])
        self.trouble = f"messages wait to become tasks: {why['message']}"


def _is_not_now(answer: Answer) -> bool:
    """So is a key that may not submit: what the operator gave, as one that is missing."""
    return answer.status in _NOT_NOW or (answer.status == 403 and _why(answer)["code"] == "missing_scope")


def _same(message_id: str | None) -> Mapping[str, str]:
    """By which a message that comes twice is known."""
    if not message_id:
        return {}
    fits = _KEY.fullmatch(message_id) is not None
    return {"idempotency-key": message_id if fits else hashlib.sha256(message_id.encode()).hexdigest()}


def _why(answer: Answer) -> dict[str, str]:
    """What the API says of an error, which is safe to show."""
    said = msgspec.json.decode(answer.body)["error"]
    return {"code": said["code"], "message": said["message"]}


_NO_KEY = Answer(401, b'{"error": {"code": "no_key", "message": "brokers.key_file cannot be read"}}')
