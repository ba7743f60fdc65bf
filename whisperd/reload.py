"""What SIGHUP changes in a running daemon, and what has to wait for a restart.

Pure: which keys can change is declared with them (`reload`, in config/), and whoever calls does the
changing. A file with an error in it changes nothing: reading it raises ConfigError, before anything here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from whisperd.config import KEYS, Config, hidden, with_values


class Change(NamedTuple):
    """One key that differs. Fit for a log: a secret reads `***` before and after."""

    key: str
    old: Any
    new: Any


class Changes(NamedTuple):
    applied: tuple[Change, ...]
    needs_restart: tuple[Change, ...]


def merged(old: Config, new: Config) -> Config:
    """`old` with those keys of `new` that can be changed while the daemon runs."""
    return with_values(old, {key.name: key.of(new) for key in KEYS.values() if key.reload})


def changes(old: Config, new: Config) -> Changes:
    """What `merged` takes over, and what it leaves as it was, in the order of the keys."""
    return Changes(tuple(_changes(old, new, reload=True)), tuple(_changes(old, new, reload=False)))


def _changes(old: Config, new: Config, *, reload: bool) -> Iterator[Change]:
    before, after = hidden(old), hidden(new)
    for key in KEYS.values():
        if key.reload is reload and key.of(old) != key.of(new):
            yield Change(key.name, key.of(before), key.of(after))
