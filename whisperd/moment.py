"""How a moment is written wherever whisperd tells of one: RFC 3339, UTC, milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


def timestamp(seconds: float | None) -> str | None:
    """Of Unix seconds."""
    return None if seconds is None else written(seconds)


@lru_cache(4096)  # a page of tasks has a few hundred, most of them the same as a second ago
def written(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
