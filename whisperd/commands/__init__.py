"""What the commands share: how one is declared, the options that several have, the client they talk through.

The commands import what costs time (HTTP, rich, the daemon itself) when they run, so that --help is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

if TYPE_CHECKING:
    from whisperd.client import Client

F = TypeVar("F", bound=Callable[..., None])

DEFAULT_URL = "http://127.0.0.1:8002"  # as in client.py, which takes too long to import for --help

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE", help="Audio or video files.", show_default=False)
]
Ids = Annotated[list[str], typer.Argument(metavar="ID", show_default=False)]
Id = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
Url = Annotated[
    str,
    typer.Option("--url", envvar=["WHISPERD_URL", "QUEUE_SERVICE_URL"], metavar="URL", help="The daemon."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Settings = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The config.toml to read.", show_default=False)
]
ModelsDir = Annotated[
    str | None, typer.Option("--models-dir", metavar="DIR", help="Where the models are.", show_default=False)
]
Format = Annotated[
    Literal["text", "srt", "vtt", "tsv", "json", "verbose_json"],
    typer.Option("--format", "-f", help="How the transcript is written."),
]
Model = Annotated[str | None, typer.Option(help="Its name; see `whisperd models list`.", show_default=False)]
Language = Annotated[
    str | None,
    typer.Option(metavar="CODE", help="en, de, ...; found out when not given.", show_default=False),
]
Translate = Annotated[bool, typer.Option("--translate", help="Into English.")]
Prompt = Annotated[
    str | None, typer.Option(help="Names and terms that will be heard, in a sentence.", show_default=False)
]
Words = Annotated[bool, typer.Option("--word-timestamps", help="Times for each word, in the JSON formats.")]
Channels = Annotated[
    Literal["mix", "split"], typer.Option(help="split: each channel is a speaker of its own.")
]
NoVad = Annotated[bool, typer.Option("--no-vad", help="Transcribe what sounds like no speech, too.")]


def command(group: typer.Typer, name: str, panel: str | None = None) -> Callable[[F], F]:
    """Registers a command whose docstring is its manual."""

    def register(function: F) -> F:
        group.command(name, help=manual(function.__doc__ or ""), rich_help_panel=panel)(function)
        return function

    return register


def manual(docstring: str) -> str:
    """Help text in which paragraphs fill the terminal and lines of examples (`$ …`) stay as they are."""
    paragraphs = [[line.strip() for line in text.split("\n")] for text in docstring.strip().split("\n\n")]
    return "\n\n".join(("\n" if lines[0].startswith("$ ") else " ").join(lines) for lines in paragraphs)


def quick_httpx() -> None:
    """Keep httpx from importing its own command line, which takes longer than all the rest of it."""
    modules: dict[str, Any] = sys.modules
    modules.setdefault("httpx._main", None)  # httpx does without when the import fails


def client(url: str, patience: float = 30.0) -> Client:
    quick_httpx()
    from whisperd.client import Client

    return Client(url, patience=patience)
