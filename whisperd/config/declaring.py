"""What the declarations of keys are made of: their meaning and bounds, and what many share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

DAY_SECONDS = 24 * 3600
YEAR_SECONDS = 366 * DAY_SECONDS
DECADE_DAYS = 10 * 366
DECADE_HOURS = DECADE_DAYS * 24

# A user and a password in it would be printed wherever the address is.
PLAIN_URL = r"^(https?://[^@/?#\s]+(/[^@?#\s]*)?)?$"

NotEmpty = Annotated[str, Meta(min_length=1)]


def key(about: str, least: float | None = None, most: float | None = None, **marks: bool) -> Meta:
    """What holds for a key. A number has both bounds: a lone lower one would let "nan" through.

    `reload`: SIGHUP changes it in the running daemon. `secret`: never printed. `networks`: a list of them.
    """
    return Meta(description=about, ge=least, le=most, extra=marks)
