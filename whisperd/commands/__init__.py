"""What the commands share: how one is declared, the options that several have, the client they talk through.

The commands import what costs time (HTTP, rich, the daemon itself) when they run, so that --help is quick.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

import typer

from whisperd.terminal import complain, safe, show_json

if TYPE_CHECKING:
    from whisperd.client import Client, Task

T = TypeVar("T", str, Path)
F = TypeVar("F", bound=Callable[..., None])

SHORTEST_ID = 10  # letters, from which on the daemon looks for the beginning of an id
DEFAULT_URL = "http://127.0.0.1:8002"  # as in client.py, which takes too long to import for --help


def _ids(incomplete: str) -> Sequence[tuple[str, str]]:
    """Tasks whose ids begin so, with their names, for the shell: of a short beginning the newest hundred are
    looked at. Nothing where none can be had.
    """
    from whisperd.client import ClientError

    try:
        with client(os.environ.get("WHISPERD_URL") or DEFAULT_URL, patience=1.0) as daemon:
            tasks = daemon.list(q=incomplete if len(incomplete) >= SHORTEST_ID else None, limit=100)
    except ClientError:
        return ()
    return [(task.task_id, safe(task.audio.name)) for task in tasks if task.task_id.startswith(incomplete)]


Ids = Annotated[
    list[str],
    typer.Argument(metavar="ID", help="Of tasks.", show_default=False, autocompletion=_ids),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="Of a task.", show_default=False, autocompletion=_ids)]
Url = Annotated[
    str,
    typer.Option("--url", envvar=["WHISPERD_URL", "QUEUE_SERVICE_URL"], metavar="URL", help="The daemon."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JsonFormat = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
Settings = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The config.toml to read.", show_default=False)
]
DataDir = Annotated[
    str | None,
    typer.Option("--data-dir", metavar="DIR", help="Where everything is kept.", show_default=False),
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
    typer.Option(metavar="CODE", help="en, german, ...; found out when not given.", show_default=False),
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


Options = dict[str, Any]  # of a submission


def submission(
    model: Model = None,
    language: Language = None,
    translate: Translate = False,
    prompt: Prompt = None,
    word_timestamps: Words = False,
    channels: Channels = "mix",
    no_vad: NoVad = False,
) -> Options:
    """The submit options that differ from the daemon's own defaults."""
    given = {
        "model": model,
        "language": _language(language),
        "translate": translate or None,
        "prompt": prompt,
        "word_timestamps": word_timestamps or None,
        "channels": channels if channels != "mix" else None,
        "vad": False if no_vad else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _language(text: str | None) -> str | None:
    if text is None:
        return None
    from whisperd.transcript import language_code

    if (code := language_code(text)) is None:
        raise typer.BadParameter(
            f"--language {text!a}: no language that Whisper knows; en, german, ... or auto"
        )
    return code


def with_submission(function: F) -> F:
    """Gives a command the options of `submission`, in place of a parameter `options` for what they say."""
    theirs = inspect.signature(submission, eval_str=True).parameters
    parameters: list[inspect.Parameter] = []
    for own in inspect.signature(function, eval_str=True).parameters.values():
        parameters += theirs.values() if own.name == "options" else [own]

    @wraps(function)
    def wrapped(**given: Any) -> None:
        options = submission(**{name: given.pop(name) for name in theirs})
        function(**given, options=options)

    named = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    wrapped.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]  # what typer reads
    return cast(F, wrapped)


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

    return Client(url, patience=patience, retries=0)  # who sits before it decides


def each(
    subjects: Sequence[T], verb: Callable[[T], Task], json: bool, row: Callable[[Task], Sequence[str]]
) -> None:
    """Does it to each and prints the tasks; what is refused is told and makes the exit status 1."""
    from whisperd.client import ApiError

    tasks, failed = [], False
    for subject in subjects:
        try:
            tasks.append(verb(subject))
        except (ApiError, OSError) as error:
            failed = True
            complain(f"{subject}: {error}")
        else:
            if not json:
                print("\t".join(row(tasks[-1])), flush=True)
    if json:
        show_json(tasks)
    raise typer.Exit(failed)
