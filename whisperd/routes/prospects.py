"""How times that are foretold are told, of a task and of a file that is not sent yet."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from whisperd.outlook import Prospect
from whisperd.routes import Services


class Quantiles(Struct, frozen=True, kw_only=True):
    """Seconds from now: as work mostly goes, and were all of it as slow as the slowest tenth."""

    p50: float
    p90: float


def quantiles(
    here: Services, prospect: Prospect | None, which: Literal["begins", "ends"]
) -> Quantiles | None:
    if prospect is None:
        return None
    likely, late = (max(0.0, getattr(span, which) - here.now()) for span in (prospect.likely, prospect.late))
    return Quantiles(p50=round(likely, 1), p90=round(late, 1))
