"""The command line: its entry point, its manual, and what an error looks like."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from whisperd import __version__
from whisperd.commands import (
    backups,
    bench,
    daemon,
    drain,
    estimate,
    files,
    keys,
    manual,
    models,
    restore,
    rules,
    service,
    settings,
    tasks,
    usage,
    webhooks,
)
from whisperd.terminal import complain

app = typer.Typer(
    name="whisperd",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(files.app)
app.add_typer(estimate.app)
app.add_typer(tasks.app)
app.add_typer(daemon.app)
app.add_typer(drain.app)
app.add_typer(bench.app)
app.add_typer(backups.app)
app.add_typer(restore.app)
app.add_typer(usage.app)
app.add_typer(models.app, name="models", rich_help_panel="The daemon")
app.add_typer(rules.app, name="rules", rich_help_panel="The daemon")
app.add_typer(webhooks.app, name="webhooks", rich_help_panel="The daemon")
app.add_typer(keys.app, name="keys", rich_help_panel="The daemon")
app.add_typer(service.app, name="service", rich_help_panel="The daemon")
app.add_typer(settings.app, name="config", rich_help_panel="The daemon")


def main() -> None:
    """The entry point. Exit status: 0 done, 1 failed, 2 wrong usage or settings."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # no UTF-8 here? never a crash
    try:
        app(prog_name="whisperd")
    except Exception as error:
        sys.exit(_explained(error))


def _explained(error: BaseException) -> int:
    """Tells an error without a traceback; returns the exit status."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if os.environ.get("WHISPERD_DEBUG"):
        raise error
    if isinstance(error, OSError) and error.filename is not None:
        complain(f"{error.filename}: {error.strerror}")
    elif type(error).__name__ == "Unauthorized":  # by name: its module takes time to import
        complain(f"{error}; commands send the one in WHISPERD_KEY, `whisperd keys add` makes one")
    else:
        complain(str(error) or type(error).__name__)
    return 2 if type(error).__name__ == "ConfigError" else 1


def _version(wanted: bool) -> None:
    if wanted:
        print(f"whisperd {__version__}")
        raise typer.Exit


def _man(wanted: bool) -> None:
    if wanted:
        from whisperd.commands.man_page import man_page

        print(man_page(typer.main.get_command(app)), end="")
        raise typer.Exit


@app.callback(
    help=manual("""Speech to text on this machine: a durable queue in front of whisper.cpp.

    One process runs as the daemon (serve); every other command talks to it over HTTP, and transcribe also
    works without it. Transcripts go to standard output, everything else to standard error. Into a pipe,
    tables go as tab-separated lines without a head. Exit status: 0 done, 1 failed, 2 wrong usage or settings.
    """),
    epilog=manual("""Examples:

      $ whisperd transcribe talk.mp3                print what was said
      $ whisperd transcribe -f srt -o subs *.mp4    a file of subtitles for each
      $ whisperd serve                              run the daemon
      $ id=$(whisperd submit talk.mp3)              leave a file with the daemon ...
      $ whisperd result $id                         ... and fetch the transcript

    Environment: WHISPERD_URL, WHISPERD_CONFIG, WHISPERD_SECTION__KEY for every key of config.toml, NO_COLOR,
    and WHISPERD_DEBUG=1 for tracebacks.
    """),
)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    man: Annotated[
        bool,
        typer.Option("--man", callback=_man, is_eager=True, help="Print all of the manual, for `man -l -`."),
    ] = False,
) -> None: ...
