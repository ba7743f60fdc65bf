"""The commands `config show` and `config check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whisperd.commands import Json, Settings, command
from whisperd.terminal import complain, safe, show_json

app = typer.Typer(no_args_is_help=True, help="The settings in force, and whether a file is right.")


@command(app, "show")
def config_show(
    config: Settings = None,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Every key with its default and what it is for: a config.toml.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the settings in force as TOML, and where each came from that was set."""
    from msgspec import to_builtins

    from whisperd.config import Config, hidden, read, to_toml

    settings, sources = (Config(), None) if defaults else read(config)
    if json:
        show_json(to_builtins(hidden(settings)))
    else:
        print(to_toml(settings, sources), end="")


@command(app, "check")
def config_check(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", show_default=False)] = None,
    config: Settings = None,
) -> None:
    """Check the settings of a file and of the environment; exit status 1 when something is wrong."""
    from whisperd.config import ConfigError, find, read

    try:
        _, sources = read(file or config)
    except ConfigError as error:
        complain(error)
        raise typer.Exit(1) from None
    place = find(file or config) or "no file"
    print(f"{safe(str(place))}: right; {len(sources)} settings are set")
