"""Recordings in which some of the audio is silent: made by a child when somebody wants one, and kept a while.

What is to be silent others decide. A file is named after that, so nobody is given one that was made for
something else. The spool's tidying removes it; then it is made again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

from whisperd import children, orders
from whisperd.children import ChildDied
from whisperd.engine.protocol import Muted, Refused
from whisperd.orders import PoolSettings
from whisperd.spool import Spool
from whisperd.task import Piece, StorageFull, Task, TaskError
from whisperd.turns import NoTurn, Turns

AT_ONCE = 4  # children that mute, each a process that decodes
WAIT_SECONDS = 30.0  # for a turn


class AudioMissing(TaskError):
    """The submitted audio is not kept any more."""


class CannotMute(TaskError):
    """No recording could be made; a later try may go well."""


class Muting:
    def __init__(self, spool: Spool, settings: PoolSettings) -> None:
        self._spool = spool
        self._settings = settings
        self._turns = Turns(AT_ONCE)
        self._making: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    async def recording(self, task: Task, silent: Sequence[Piece]) -> Path:
        """A WAV file of the task's audio in which these stretches are silent, whole. Its name says which.

        Raises AudioMissing, CannotMute, StorageFull. Safe to cancel.
        """
        path = self._spool.muted(task.id, _name(task, silent))
        async with self._making.setdefault(path, asyncio.Lock()):
            if not await asyncio.to_thread(path.is_file):
                await self._make(task, silent, path)
        return path

    async def _make(self, task: Task, silent: Sequence[Piece], path: Path) -> None:
        try:
            async with self._turns.hold(task.tenant, WAIT_SECONDS):
                await asyncio.to_thread(self._make_room, task, path)
                answer = await self._asked(task, silent, path)
        except NoTurn:
            raise CannotMute("too many recordings are being made; try again soon") from None
        except ChildDied as died:
            raise CannotMute(f"the recording could not be made: {died.problem.message}") from died
        if isinstance(answer, Refused):
            raise _refusal(answer)

    def _make_room(self, task: Task, path: Path) -> None:
        self._spool.check_room(int((task.audio.duration or 0.0) * orders.PCM_BYTES))
        path.parent.mkdir(mode=0o700, exist_ok=True)

    async def _asked(self, task: Task, silent: Sequence[Piece], path: Path) -> Muted | Refused:
        """The last word of a child that is asked for nothing else. Raises ChildDied."""
        request = orders.mute_request(task, silent, path, self._spool, self._settings)
        settings = orders.muting_settings(self._settings)
        async with (
            children.started(settings, self._settings.command) as child,
            aclosing(child.answer(request, orders.limits(self._settings))) as answers,
        ):
            async for answer in answers:
                if isinstance(answer, Muted | Refused):
                    return answer
        raise AssertionError("nobody aborts it")


def _name(task: Task, silent: Sequence[Piece]) -> str:
    return hashlib.sha256(msgspec.json.encode((task.audio.sha256, silent))).hexdigest()[:32]


def _refusal(refused: Refused) -> TaskError:
    match refused.code:
        case "audio_missing":
            return AudioMissing("the audio of this task is not kept any more")
        case "storage_full":
            return StorageFull("no disk space is left for the recording")
    return CannotMute(f"the recording could not be made: {refused.message}")
