"""whisperd, with its probe of the loop's lag looking a hundred times as often, and writing what it sees.

    python -m benchmarks.probed serve …

A line a look in the file WHISPERD_PROBE: the monotonic clock, and the lag, both in seconds.
"""

from __future__ import annotations

import os
from functools import partialmethod
from pathlib import Path
from time import monotonic
from typing import TextIO

from whisperd import cli, lag

FILE = "WHISPERD_PROBE"
EACH = 0.01
LINES = 50  # that are written at a time: the probe is not to be what is measured


def main() -> None:
    lag.EACH = EACH
    with Path(os.environ.pop(FILE)).open("w") as file:
        lag.Lag.note = partialmethod(_note, Seen(file))  # type: ignore[assignment,method-assign]
        cli.main()


class Seen:
    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lines: list[str] = []

    def note(self, seconds: float) -> None:
        self._lines.append(f"{monotonic()} {seconds}\n")
        if len(self._lines) == LINES:
            self._file.writelines(self._lines)
            self._file.flush()
            self._lines.clear()


def _note(probe: lag.Lag, seen: Seen, seconds: float) -> None:
    seen.note(seconds)


if __name__ == "__main__":
    main()
