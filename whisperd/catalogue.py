"""Which whisper.cpp models are published, what a model may be called, and what can be wrong with one.

Pure but for reading catalogue.toml beside it. Everything else about models builds on it: ct2.py and ggml.py
(formats), hub.py (download), models.py (the folder).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from whisperd.engine.languages import LANGUAGES

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ModelError(Exception):
    """Anything wrong with a model file, its source or its name."""


class UnknownModel(ModelError):
    """No model has this name, or none could; the message gives near names."""


class NotInstalled(ModelError):
    """The model is known but not here; the message says what brings it."""


class CorruptModel(ModelError):
    """The bytes are not the expected ones, on the disk or at the hub."""


class BadSource(ModelError, ValueError):
    """The folder is not a CTranslate2 Whisper model that can be read; the message says which part is not."""


class HubUnavailable(ModelError):
    """No answer of use from the hub. What was downloaded is kept: the next pull goes on from there."""


class NoSpace(ModelError):
    """The disk has no room for the model."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A published model. A size (bytes) or hash of None is asked of the hub when the model is pulled."""

    name: str
    repository: str
    revision: str
    languages: tuple[str, ...]  # Whisper's codes: "en" alone for English-only models
    size_bytes: int | None = None
    sha256: str | None = None

    @property
    def file(self) -> str:
        return file_name(self.name)


@cache
def catalogue() -> dict[str, Entry]:
    """The published whisper.cpp models by name."""
    data = tomllib.loads(Path(__file__).with_name("catalogue.toml").read_text())
    usual = {"repository": data["repository"], "revision": data["revision"]}
    return {
        name: Entry(name, languages=_languages(name), **{**usual, **facts})
        for name, facts in data["models"].items()
    }


def published(name: str) -> Entry:
    """The catalogue's entry of that name. Raises UnknownModel."""
    if name not in catalogue():
        raise unknown(name, catalogue())
    return catalogue()[name]


def file_name(name: str) -> str:
    """`ggml-<name>.bin`, which never leads out of a folder. Raises UnknownModel for what cannot be a name."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise UnknownModel(f"{name!r} is not a model's name: letters, digits and . _ - only")
    return f"ggml-{name}.bin"


def unknown(name: str, known: Iterable[str]) -> UnknownModel:
    """The error for a name that is none of `known`, with those that are near it."""
    near = difflib.get_close_matches(name, sorted(known))
    return UnknownModel(f"there is no model {name!r}" + (f"; near it: {', '.join(near)}" if near else ""))


def _languages(name: str) -> tuple[str, ...]:
    if ".en" in name:
        return ("en",)
    return tuple(code for code in LANGUAGES if code != "yue" or name.startswith("large-v3"))
