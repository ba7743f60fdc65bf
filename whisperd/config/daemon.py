"""The keys of the process: how it stops, what it says."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from whisperd.config.declaring import PLAIN_URL, key


class Shutdown(Struct, frozen=True, kw_only=True):
    """SIGTERM and SIGINT stop the daemon; a second one stops it at once."""

    grace_seconds: Annotated[
        float, key("Running chunks may go on for so long; then they are handed back.", 0, 86_400, reload=True)
    ] = 30


Level = Literal["debug", "info", "warning", "error"]


class Logging(Struct, frozen=True, kw_only=True):
    """What the daemon says on standard error, and in files: see docs/logging.md."""

    level: Annotated[Level, key("debug, info, warning or error.", reload=True)] = "info"
    levels: Annotated[
        dict[str, Level],
        key('Of single parts, as lines name theirs: { slot = "debug", access = "warning" }', reload=True),
    ] = {}
    format: Annotated[
        Literal["auto", "console", "json"],
        key("auto: console on a terminal, the journal's form where systemd reads it, json elsewhere."),
    ] = "auto"
    dir: Annotated[str, key('A folder for the same lines as JSON, in whisperd.log. "": no file.')] = ""
    max_bytes: Annotated[int, key("A larger file is put aside, as whisperd.log.1 (50 MiB).", 4096, 2**40)] = (
        50 * 2**20
    )
    keep: Annotated[int, key("So many of those are kept.", 1, 1000)] = 5


class Tracing(Struct, frozen=True, kw_only=True):
    """OpenTelemetry: see docs/tracing.md. Needs the extra otel: pip install 'whisperd[otel]'."""

    endpoint: Annotated[
        str,
        Meta(pattern=PLAIN_URL),
        key('Where a collector takes OTLP over HTTP: "http://127.0.0.1:4318". "": nothing is traced.'),
    ] = ""


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
