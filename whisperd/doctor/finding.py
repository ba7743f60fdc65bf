"""What an examination finds."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    check: str
    status: Literal["ok", "warn", "fail"]
    message: str
    advice: str = ""  # what to do; empty when there is nothing to do
