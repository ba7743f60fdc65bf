"""What becomes of a message: a task, or a dead letter; while neither can be, it goes back to the broker.

It is acknowledged only when its task is on the disk, or its dead letter is with the broker. One that comes
again, since an acknowledgement was lost, is known by its id, which is the Idempotency-Key of its call.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog

log = structlog.get_logger(__name__)
LATER_SECONDS = 2.0  # before messages are taken again, and ever longer up to
LATEST_SECONDS = 60.0
GRACE_SECONDS = 10.0  # for which a refusal is shown once they are
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
Settle = Callable[[Letter], Coroutine[Any, Any, bool]]


class Inbox:
    def __init__(self, call: Call, key_file: str) -> None:
        self._call = call
        self._key_file = key_file
        self._later = LATER_SECONDS
        self._why = ""  # of the last refusal, which counts
        self._until = 0.0  # by time.monotonic

    @property
    def trouble(self) -> str | None:
        """Why messages wait; safe to show."""
        return f"messages wait to become tasks: {self._why}" if time.monotonic() < self._until else None

    async def settle(self, letter: Letter, bury: Bury) -> bool:
        """Whether it is, and acknowledged; if not, nothing can be taken now, and it has to go back.

        Cut off before, or raising what the broker raises, it comes again.
        """
        answer = await self._submitted(letter)
        if _is_not_now(answer):
            self._note(answer)
            return False
        self._until = 0.0
        if answer.status >= 400:
            why = _why(answer)
            log.warning("a message was refused", code=why["code"])
            await bury(letter, why)
        await letter.ack()
        return True

    def pause(self, least: float = 0.0) -> float:
        """Seconds until messages may be taken again: ever longer while one refusal follows another."""
        seconds = max(self._later, least)
        self._later = min(2 * seconds, LATEST_SECONDS)
        self._until = time.monotonic() + seconds + GRACE_SECONDS
        return seconds

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
        if time.monotonic() > self._until:  # the first since something was taken, or nothing came
            log.warning("messages wait to become tasks", code=why["code"])
            self._later = LATER_SECONDS
        self._why = why["message"]
        self._until = max(self._until, time.monotonic() + GRACE_SECONDS)  # another may have begun the pause


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
