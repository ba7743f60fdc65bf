"""The recordings in folders: which files are audio or video, by their names, and where each one was found."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SUFFIXES = frozenset(
    {
        *(".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".m4b", ".mka"),
        *(".mp2", ".mp3", ".oga", ".ogg", ".opus", ".snd", ".spx", ".tta", ".w64", ".wav", ".weba", ".wma"),
        *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
        *(".ogv", ".webm", ".wmv", ".wv"),
    }
)


class Recording(NamedTuple):
    path: Path
    below: Path  # the folder it is in, seen from the one that was named; "." for a file that was named


def found(paths: Sequence[Path]) -> list[Recording]:
    """The files, as they are, and what is in the folders, sorted.

    Raises ValueError for a folder in which there is none, and OSError for one that cannot be read.
    """
    recordings: list[Recording] = []
    for path in paths:
        if not path.is_dir():
            recordings.append(Recording(path, Path()))
        elif inside := sorted(_inside(path)):
            recordings += inside
        else:
            raise ValueError(f"{str(path)!a}: there is no audio or video in this folder")
    return recordings


def _inside(folder: Path) -> Iterator[Recording]:
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            # What other systems leave beside a recording is named like it: ._talk.mp3.
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and path.is_file():
                yield Recording(path, path.parent.relative_to(folder))


def _refuse(error: OSError) -> None:
    raise error
