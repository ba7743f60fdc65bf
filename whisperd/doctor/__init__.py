"""`whisperd doctor`: whether everything is there and right, and what to do where it is not. Looks only."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from whisperd.config import Config, ConfigError, find, read
from whisperd.doctor import installation, running, storage
from whisperd.doctor.finding import Finding
from whisperd.terminal import STYLES, safe


def examine(config_file: Path | None, url: str, environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """All findings, in the order of what depends on what. Takes about three seconds."""
    config, settings = _settings(config_file, environ)
    return [
        installation.python(sys.version_info[:3]),
        installation.sqlite(sqlite3.sqlite_version_info),
        *installation.libraries(),
        settings,
        *storage.folder(config),
        *storage.known_keys(config),
        *storage.disks(config),
        storage.database(config),
        storage.backups(config),
        *installation.offsite(config.backup.s3),
        *installation.model_files(config),
        installation.voice_detection(),
        installation.whisper(config),
        *installation.gpu(config),
        *installation.ctranslate2(config),
        *running.units(find(config_file, environ, may_be_foreign=True)),
        running.daemon(url),
    ]


def show_findings(findings: Sequence[Finding]) -> None:
    """A line each, and below it what to do."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        head = (f"{finding.status:<4}", STYLES[finding.status])
        console.print(Text.assemble(head, f"  {finding.check:<{width}}  {safe(finding.message)}"))
        if finding.advice:
            console.print(Text(f"{'':{width + 8}}-> {safe(finding.advice)}"))


def _settings(file: Path | None, environ: Mapping[str, str]) -> tuple[Config, Finding]:
    """What is in force; the defaults when it is wrong, so that the rest can still be looked at."""
    try:
        config, sources = read(file, environ, may_be_foreign=True)
    except ConfigError as error:
        return Config(), Finding(
            "config", "fail", "; ".join(error.problems), "see `whisperd config show --defaults`"
        )
    place = find(file, environ, may_be_foreign=True) or "no file"
    return config, Finding("config", "ok", f"{place}, {len(sources)} settings")
