"""The keys of the process: how it stops, what it says."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Struct

from whisperd.config.declaring import key


class Shutdown(Struct, frozen=True, kw_only=True):
    """SIGTERM and SIGINT stop the daemon; a second one stops it at once."""

    grace_seconds: Annotated[
        float, key("Running chunks may go on for so long; then they are handed back.", 0, 86_400, reload=True)
    ] = 30


class Log(Struct, frozen=True, kw_only=True):
    """What the daemon says on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], key("debug, info, warning or error.", reload=True)
    ] = "info"
    format: Annotated[
        Literal["auto", "console", "json"], key("auto: console on a terminal, json elsewhere.")
    ] = "auto"


class Metrics(Struct, frozen=True, kw_only=True):
    """What /metrics tells: see docs/metrics.md."""

    tenants: Annotated[
        int,
        key(
            "How many tenants are named, those with the most queued tasks; 0: none, so that names stay here.",
            0,
            100,
            reload=True,
        ),
    ] = 0
