"""The commands that take files: transcribe, submit."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from whisperd.commands import (
    DEFAULT_URL,
    Format,
    Json,
    JsonFormat,
    Options,
    Settings,
    Url,
    client,
    command,
    each,
    with_submission,
)
from whisperd.terminal import progress_bar, safe

if TYPE_CHECKING:
    from whisperd.batch import Job
    from whisperd.client import Client, Task
    from whisperd.config import Config
    from whisperd.recordings import Recording

app = typer.Typer()

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE", help="Audio or video files.", show_default=False)
]
FilesOrFolders = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE", help="Audio or video files, or folders of them at any depth.", show_default=False
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Transcribe again what is done already, by this command or before.")
]
OutputDir = Annotated[
    Path | None,
    typer.Option("--output-dir", "-o", metavar="DIR", help="A file for each, here.", show_default=False),
]
Priority = Annotated[
    int | None,
    typer.Option(min=-100, max=100, help="Higher runs first; 0 when not given.", show_default=False),
]
Plan = Annotated[
    Literal["FREE", "PRO", "PAYG"] | None, typer.Option(help="A named priority.", show_default=False)
]
Tenant = Annotated[str | None, typer.Option(help="Whose task it is.", show_default=False)]
CallbackUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Is told when it is over: a webhook.", show_default=False),
]
ResultUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Where the transcript is written to: s3://bucket/key.", show_default=False
    ),
]


@command(app, "transcribe", "Transcripts")
@with_submission
def transcribe(
    files: FilesOrFolders,
    format: Format = "text",
    output_dir: OutputDir = None,
    force: Force = False,
    *,
    options: Options,
    url: Url = DEFAULT_URL,
    config: Settings = None,
    json: JsonFormat = False,
) -> None:
    """Transcribe files and print what was said.

    The running daemon does it; where none answers, this process does, with the same machinery. A file that
    fails is told on standard error and listed at the end, and the others go on. Exit status 1 if one failed.

    With --output-dir, what has a transcript there in this format that is newer than the audio is passed
    over, whatever the other options are: --force writes it with those of now. What comes from a folder lies
    there as it does in the folder. Of a folder are taken the files that are named as audio
    or video, and none whose name begins with a dot.

    Ctrl-C cancels what is not finished. The same command again goes on where it was: with the daemon also
    within a file, for a day.

      $ whisperd transcribe talk.mp3 > talk.txt
      $ whisperd transcribe --format srt --output-dir subtitles *.mp4 recordings/
      $ whisperd transcribe --channels split --json call.wav | jq '.segments[]'
    """
    wanted = "json" if json else format
    jobs = _jobs(files, wanted, output_dir, force)
    failed = True
    with suppress(asyncio.CancelledError):  # SIGTERM, SIGHUP
        failed = asyncio.run(_transcribe(jobs, options, wanted, url, config, force)) > 0 if jobs else False
    raise typer.Exit(failed)


def _jobs(paths: Sequence[Path], format: str, output_dir: Path | None, force: bool) -> Sequence[Job]:
    """What is to be done; raises BadParameter before anything is."""
    from whisperd.batch import is_done, jobs_for

    try:
        jobs = jobs_for(recordings(paths), format, output_dir)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if len(jobs) > 1 and output_dir is None and format in ("srt", "vtt", "tsv"):
        raise typer.BadParameter(f"{format} of several files needs --output-dir")
    todo = [job for job in jobs if force or not is_done(job)]
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} are done already", file=sys.stderr)
    return todo


async def _transcribe(
    jobs: Sequence[Job], options: dict[str, Any], format: str, url: str, file: Path | None, force: bool
) -> int:
    from whisperd import batch
    from whisperd.config import load

    def settings() -> Config:
        return load(file, {"WHISPERD_LOGGING__LEVEL": "warning", **os.environ}, may_be_foreign=True)

    with client(url) as daemon:
        async with batch.service(daemon, settings, afresh=force) as service:
            return await batch.transcribe(service, jobs, options, format)


@command(app, "submit", "Transcripts")
@with_submission
def submit(
    files: Files,
    *,
    options: Options,
    priority: Priority = None,
    plan: Plan = None,
    tenant: Tenant = None,
    callback_url: CallbackUrl = None,
    result_url: ResultUrl = None,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Leave files with the daemon and print the id of each task.

    Does not wait. The ids come in the order of the files, one a line.

      $ whisperd submit --priority 10 urgent.mp3
      $ whisperd submit *.mp3 | xargs -n 1 whisperd show
    """
    options |= {"priority": priority, "plan": plan, "tenant": tenant}
    options |= {"callback_url": callback_url, "result_url": result_url}
    with client(url) as daemon:
        each(_readable(files), lambda path: _sent(daemon, path, options), json, lambda task: [task.task_id])


def _sent(daemon: Client, path: Path, options: dict[str, Any]) -> Task:
    with progress_bar(path.name) as report:
        return daemon.submit(path, on_sent=report, **options)


def recordings(paths: Sequence[Path]) -> Sequence[Recording]:
    """The files, and those in the folders; wrong usage when one is none, or a folder has none."""
    from whisperd.recordings import found

    _readable([path for path in paths if not path.is_dir()])
    try:
        return found(paths)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _readable(files: Sequence[Path]) -> Sequence[Path]:
    """The files; wrong usage when one of them is none, before anything is done with the others."""
    for path in files:
        if not path.is_file() or not os.access(path, os.R_OK):
            what = "is a folder" if path.is_dir() else "cannot be read" if path.exists() else "does not exist"
            raise typer.BadParameter(f"{safe(str(path))} {what}")
    return files
