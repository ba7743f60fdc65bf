"""Logs: one line an event, of ours and of the libraries alike.

On standard error: for people on a terminal, in the journal's manner under systemd, JSON elsewhere; and in
files that are rotated by size where `logging.dir` names a folder. Everything goes through the standard
library's loggers, so that each part has a level of its own.

A line has the `request_id` of the request and the `task_id` of the task that it is about: whoever begins to
work for one binds it (structlog.contextvars) for all that is said meanwhile. No line may have a secret, a
transcript, or what a client wrote into a task.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from queue import SimpleQueue

import structlog
from structlog.typing import EventDict, Processor

from whisperd.config import Logging

OURS = "whisperd"
FILE = "whisperd.log"
MOST_WAITING = 10_000  # lines for the file, while its disk is slow
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # sd-daemon(3)

_handlers: list[logging.Handler] = []  # ours, of the root logger
_levelled: set[str] = set()  # the loggers whose level we have set


def configure(config: Logging, *, in_files: bool = False) -> None:
    """Begin to log so; in files only where nobody else does. Raises OSError if they cannot be written."""
    close()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    # No line has them, and each record would be given them.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    _handlers.append(_standard_error(config))
    if config.dir and in_files:
        _handlers.append(_Behind(_files(config), _formatter(structlog.processors.JSONRenderer())))
    for handler in _handlers:
        logging.getLogger().addHandler(handler)
    set_levels(config)


def set_levels(config: Logging) -> None:
    """Of ours as it is set, of the libraries from warning up, and of single parts as `levels` has it."""
    levels = {OURS: config.level, **{_logger_name(part): level for part, level in config.levels.items()}}
    for name in _levelled - levels.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)  # as what it is a part of
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level.upper())
    _levelled.update(levels)


def close() -> None:
    """Write to the file what waits for it, and log nothing more."""
    while _handlers:
        handler = _handlers.pop()
        logging.getLogger().removeHandler(handler)
        handler.close()


def _logger_name(part: str) -> str:
    """`queue` is whisperd/queue.py; what is no part of ours is a library."""
    ours = Path(__file__).parent / part.replace(".", "/")
    return f"{OURS}.{part}" if ours.is_dir() or ours.with_suffix(".py").exists() else part


def _standard_error(config: Logging) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    if config.format == "console" or (config.format == "auto" and sys.stderr.isatty()):
        handler.setFormatter(_formatter(_console(colors=sys.stderr.isatty())))
    elif _is_journal():
        # Which has a clock of its own, and takes the level from the front of each line.
        renderer = _as_json_for_journal if config.format == "json" else _for_journal
        handler.setFormatter(_formatter(renderer, timestamp=False))
    else:
        handler.setFormatter(_formatter(structlog.processors.JSONRenderer()))
    return handler


def _is_journal() -> bool:
    """Whether standard error is what systemd connected to the journal: systemd.exec(5), $JOURNAL_STREAM."""
    with suppress(OSError, ValueError):
        found = os.fstat(sys.stderr.fileno())
        return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
    return False


def _formatter(renderer: Processor, *, timestamp: bool = True) -> logging.Formatter:
    about: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _add_part,
        *([structlog.processors.TimeStamper(fmt="iso", utc=True)] if timestamp else []),
    ]
    if not isinstance(renderer, structlog.dev.ConsoleRenderer):  # which shows tracebacks itself
        about.append(structlog.processors.format_exc_info)
    return structlog.stdlib.ProcessorFormatter(
        processors=[*about, structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    )


def _console(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    """Tracebacks without the values of variables: they hold what people said and sent."""
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


def _add_part(logger: object, name: str, event: EventDict) -> EventDict:
    """`part`: what `levels` calls it."""
    event["part"] = event["_record"].name.removeprefix(f"{OURS}.")
    return event


def _for_journal(logger: object, name: str, event: EventDict) -> str:
    text, level = str(event.pop("event")), event.pop("level")
    exception = event.pop("exception", "")
    line = " ".join([text, *(f"{key}={_word(value)}" for key, value in event.items())])
    return _prefixed(level, f"{line}\n{exception}" if exception else line)


def _as_json_for_journal(logger: object, name: str, event: EventDict) -> str:
    return _prefixed(event["level"], str(structlog.processors.JSONRenderer()(logger, name, event)))


def _prefixed(level: str, text: str) -> str:
    """Each line of it, since each becomes an entry."""
    return "\n".join(f"<{_PRIORITIES.get(level, 6)}>{line}" for line in text.splitlines())


def _word(value: object) -> str:
    """In quotes where it is more than one word: a value cannot look like another field, or another line."""
    text = value if isinstance(value, str) else str(value)
    return text if text.isprintable() and not set(text) & set(" \"'=") and text else json.dumps(text)


class _Behind(QueueHandler):
    """Hands lines to a thread, which writes them: the loop waits for no disk.

    A disk that is too slow for long costs lines of the file, and then says so; standard error has them.
    """

    def __init__(self, files: logging.Handler, formatter: logging.Formatter) -> None:
        self._waiting: SimpleQueue[logging.LogRecord] = SimpleQueue()
        super().__init__(self._waiting)
        self.setFormatter(formatter)
        self._lost = 0
        self._listener = QueueListener(self._waiting, files)
        self._files = files
        self._listener.start()

    def enqueue(self, record: logging.LogRecord) -> None:
        if self._waiting.qsize() >= MOST_WAITING:
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            words = f"{lost} lines were lost here: the disk of the log was too slow"
            about = {"name": __name__, "msg": words, "levelname": "WARNING"}
            super().enqueue(self.prepare(logging.makeLogRecord(about)))
        super().enqueue(record)

    def close(self) -> None:
        super().close()
        self._listener.stop()
        with suppress(OSError):  # what is left in a buffer, and the disk is full
            self._files.close()


class _Files(RotatingFileHandler):
    """What its disk does not take is lost to it, which standard error is told once; the daemon goes on."""

    def __init__(self, path: Path, config: Logging) -> None:
        super().__init__(path, maxBytes=config.max_bytes, backupCount=config.keep, encoding="utf-8")
        self._failing = False

    def emit(self, record: logging.LogRecord) -> None:
        failed, self._failing = self._failing, False
        super().emit(record)
        if self._failing and not failed:
            print(f"whisperd: the log cannot be written to {self.baseFilename}", file=sys.stderr)

    def handleError(self, record: logging.LogRecord) -> None:
        self._failing = True


def _files(config: Logging) -> _Files:
    folder = Path(config.dir).expanduser()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _Files(folder / FILE, config)
