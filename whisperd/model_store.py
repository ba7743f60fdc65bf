"""The installed models as the daemon sees them: found by name, checked before anything loads them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import structlog

from whisperd import models
from whisperd.config import Config
from whisperd.task import ModelUnusable
from whisperd.together import Together, attempt
from whisperd.worker_pool import Model

log = structlog.get_logger(__name__)

ASKED_AT_ONCE = 64  # names of models, on one hop to a thread

Found = TypeVar("Found")
_Stamp: TypeAlias = tuple[int, ...]


class ModelStore:
    """Finds models for the pool and the routes, checked against their hash before anything loads them."""

    def __init__(self, config: Config) -> None:
        self._folder = config.models_dir
        self._sound: dict[tuple[str, int, int], Model] = {}
        self._looks = _Remembered(self._stamp, _together(self._look))
        self._hashes = _Remembered(self._stamp, _together(self._known_sha256))
        self._models = _Remembered(self._stamp, self._looked_for)

    async def find(self, name: str) -> Model:
        """The model file, as it was when it came here. Raises ModelUnusable. Costs a stat, as a rule."""
        return await self._models.ask(name)

    async def multilingual(self, name: str) -> bool:
        """Whether the model knows more than English. Raises ModelUnusable. Costs a stat, as a rule."""
        look = await self._looks.ask(name)
        return look.multilingual

    async def seems_multilingual(self, name: str) -> bool:
        """The same for a host that runs none: one that is not here is judged by its name."""
        try:
            return await self.multilingual(name)
        except ModelUnusable:
            return ".en" not in name

    async def installed(self) -> Mapping[str, float]:
        """When each model came here, by name: Unix seconds."""
        return await asyncio.to_thread(self._list)

    async def _looked_for(self, name: str) -> Model:
        """By itself: to hash a large file takes seconds, for which nobody else shall wait."""
        return await asyncio.to_thread(self._find, name)

    def _list(self) -> Mapping[str, float]:
        found = {}
        for model in models.installed(self._folder):
            with suppress(OSError):  # removed a moment ago
                found[model.name] = model.path.stat().st_mtime
        return found

    async def known_sha256(self, name: str) -> str | None:
        """The SHA-256 of the model file as it is now; None where nobody has asked for it since it came.

        Never hashes, which takes seconds: `find` does, before the first chunk. Costs a stat, as a rule.
        """
        return await self._hashes.ask(name)

    def _stamp(self, name: str) -> _Stamp | None:
        """What changes with the file of that model; None where there is none that could be remembered."""
        try:
            stat = os.stat(self._folder / models.file_name(name))
        except (models.ModelError, OSError):
            return None
        return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino

    def _known_sha256(self, name: str) -> str | None:
        try:
            path = models.find(name, self._folder).path
            sound = self._sound.get(_seen(name, path))
            return sound.sha256 if sound else models.known_sha256(path)
        except (models.ModelError, OSError):
            return None

    def _look(self, name: str) -> models.ModelFile:
        try:
            return self._installed(name)
        except models.NotInstalled as error:
            raise ModelUnusable(str(error)) from error
        except (models.ModelError, OSError) as error:
            raise ModelUnusable(f"the model {name} cannot be used: see `whisperd models list`") from error

    def _installed(self, name: str) -> models.ModelFile:
        try:
            return models.find(name, self._folder)
        except models.NotInstalled:
            if name != models.DEFAULT:
                raise
        models.ensure_default(self._folder)
        return models.find(name, self._folder)

    def _find(self, name: str) -> Model:
        path = self._look(name).path
        try:
            seen = _seen(name, path)
            if seen not in self._sound:
                self._sound[seen] = Model(str(path), self._checked(name, path))
        except OSError as error:
            raise ModelUnusable(f"the model {name} cannot be read: {error.strerror}") from error
        return self._sound[seen]

    def _checked(self, name: str, path: Path) -> str:
        verdict = models.verify(path)
        if verdict is models.Verdict.UNKNOWN:
            log.warning("a model of unknown origin is used as it is", model=name)
            with suppress(OSError):  # a folder that may only be read keeps no record of it
                models.trust(path)
        elif verdict is not models.Verdict.OK:
            raise ModelUnusable(f"the model {name} is damaged: `whisperd models verify` says more")
        return models.sha256(path)


class _Remembered(Generic[Found]):
    """What a look at a model's file finds, for as long as the file stays as it is.

    Each submission asks, and each chunk: a hop to a thread takes far longer than a stat. None, and what is
    raised, may be otherwise the next time, and is not kept.
    """

    def __init__(
        self, stamp: Callable[[str], _Stamp | None], look: Callable[[str], Awaitable[Found]]
    ) -> None:
        self._stamp = stamp
        self._look = look
        self._found: dict[str, tuple[_Stamp, Found]] = {}  # by name: as many as there are files at most

    async def ask(self, name: str) -> Found:
        stamp = self._stamp(name)  # before the look, never after: else an older file is told for a newer one
        if stamp is None:
            self._found.pop(name, None)
        elif (known := self._found.get(name)) and known[0] == stamp:
            return known[1]
        found = await self._look(name)
        if stamp is not None and found is not None:
            self._found[name] = stamp, found
        return found


def _together(look: Callable[[str], Found]) -> Callable[[str], Awaitable[Found]]:
    """The look, on a thread, of many who ask at once."""
    return Together(partial(_of_each, look), ASKED_AT_ONCE).ask


async def _of_each(look: Callable[[str], object], names: Sequence[str]) -> Sequence[object]:
    """What a look at the folder tells of each: one hop to a thread for many that are submitted at once."""
    found = await asyncio.to_thread(lambda: {name: attempt(partial(look, name)) for name in {*names}})
    return [found[name] for name in names]


def _seen(name: str, path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return name, stat.st_size, stat.st_mtime_ns
