"""Logs: one line an event, on standard error; for people on a terminal, JSON elsewhere."""

from __future__ import annotations

import logging
import sys

import structlog

from whisperd.config import Log


def configure(config: Log) -> None:
    """Set up structlog, and let the standard library's loggers of others speak from warning up."""
    as_json = config.format == "json" or (config.format == "auto" and not sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if as_json else _unchanged,
            structlog.processors.JSONRenderer() if as_json else _console(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(config.level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    plain = "%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=plain)


def _console() -> structlog.dev.ConsoleRenderer:
    """Tracebacks without the values of variables: they hold what people said and sent."""
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def _unchanged(logger: object, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return event
