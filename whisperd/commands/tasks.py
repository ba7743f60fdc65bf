"""The commands about tasks: transcribe, submit, list, show, result, cancel, retry, clear."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from whisperd.commands import (
    DEFAULT_URL,
    Files,
    Format,
    Id,
    Ids,
    Json,
    JsonFormat,
    Options,
    Settings,
    Url,
    client,
    command,
    with_submission,
)
from whisperd.terminal import (
    age,
    clock,
    complain,
    megabytes,
    progress_bar,
    rfc3339,
    safe,
    show_fields,
    show_json,
    show_table,
    write_file,
)

if TYPE_CHECKING:
    from whisperd.batch import Job
    from whisperd.client import Client, Task
    from whisperd.config import Config

T = TypeVar("T", str, Path)

app = typer.Typer()


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
Hours = Annotated[float, typer.Option("--hours", min=0, help="Finished so long ago, or earlier.")]
Ended = Annotated[str, typer.Option(help="completed, failed, cancelled; several with commas.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@command(app, "transcribe", "Transcripts")
@with_submission
def transcribe(
    files: Files,
    format: Format = "text",
    output_dir: OutputDir = None,
    *,
    options: Options,
    url: Url = DEFAULT_URL,
    config: Settings = None,
    json: JsonFormat = False,
) -> None:
    """Transcribe files and print what was said.

    The running daemon does it; where none answers, this process does, with the same machinery. Ctrl-C
    cancels what is not finished. A file that fails is told on standard error, and the others go on.

      $ whisperd transcribe talk.mp3 > talk.txt
      $ whisperd transcribe --format srt --output-dir subtitles *.mp4
      $ whisperd transcribe --channels split --json call.wav | jq '.segments[]'
    """
    wanted = "json" if json else format
    jobs = _jobs(files, wanted, output_dir)
    failed = True
    with suppress(asyncio.CancelledError):  # SIGTERM, SIGHUP
        failed = asyncio.run(_transcribe(jobs, options, wanted, url, config)) > 0
    raise typer.Exit(failed)


def _jobs(files: Sequence[Path], format: str, output_dir: Path | None) -> Sequence[Job]:
    from whisperd.batch import jobs_for

    try:
        jobs = jobs_for(_readable(files), format, output_dir)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if len(jobs) > 1 and output_dir is None and format in ("srt", "vtt", "tsv"):
        raise typer.BadParameter(f"{format} of several files needs --output-dir")
    return jobs


async def _transcribe(
    jobs: Sequence[Job], options: dict[str, Any], format: str, url: str, file: Path | None
) -> int:
    from whisperd import batch
    from whisperd.config import load

    def settings() -> Config:
        return load(file, {"WHISPERD_LOG__LEVEL": "warning", **os.environ}, may_be_foreign=True)

    with client(url) as daemon:
        async with batch.service(daemon, settings) as service:
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
        _each(_readable(files), lambda path: _sent(daemon, path, options), json, lambda task: [task.task_id])


def _sent(daemon: Client, path: Path, options: dict[str, Any]) -> Task:
    with progress_bar(path.name) as report:
        return daemon.submit(path, on_sent=report, **options)


@command(app, "list", "Transcripts")
def list_tasks(
    status: Annotated[
        str | None,
        typer.Option(
            help="queued, processing, completed, failed, cancelled; several with commas.", show_default=False
        ),
    ] = None,
    tenant: Annotated[str | None, typer.Option(show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """List tasks, newest first.

    Columns: id, status, how far it is, length of the audio, age, name.

      $ whisperd list --status queued,processing
      $ whisperd list --status failed --limit 1000 | cut -f 1 | xargs whisperd retry
    """
    with client(url) as daemon:
        tasks = daemon.list(status=status, tenant=tenant, limit=limit)
    if json:
        show_json(tasks)
    else:
        show_table(("ID", "STATUS", "DONE", "LENGTH", "AGE", "NAME"), [_row(task) for task in tasks], "NAME")


def _row(task: Task) -> Sequence[str]:
    audio = task.audio
    done = f"{task.progress:.0%}"
    return (
        task.task_id,
        task.status,
        done,
        clock(audio.duration),
        age(task.created_at),
        audio.name,
    )


@command(app, "show", "Transcripts")
def show(task_id: Id, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Show one task: where it stands, and why it failed if it did."""
    with client(url) as daemon:
        task = daemon.task(task_id)
    if json:
        show_json(task)
    else:
        show_fields(_fields(task))


def _fields(task: Task) -> Sequence[tuple[str, object]]:
    audio, error = task.audio, task.error
    return (
        ("task", task.task_id),
        ("status", task.status),
        ("error", error and f"{error.message} ({error.code})"),
        ("position", task.position),
        ("done", f"{task.progress:.0%}"),
        ("file", audio.name),
        ("length", clock(audio.duration)),
        ("size", megabytes(audio.size)),
        ("language", task.language),
        ("warnings", ", ".join(task.warnings) or None),
        ("model", task.model),
        ("priority", task.priority),
        ("tenant", task.tenant),
        ("attempt", f"{task.attempt} of {task.max_retries + 1}"),
        ("submitted", rfc3339(task.created_at)),
        ("runs at", rfc3339(task.run_at)),
        ("started", rfc3339(task.started_at)),
        ("finished", rfc3339(task.finished_at)),
    )


@command(app, "result", "Transcripts")
def result(
    task_id: Id,
    format: Format = "text",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it here.", show_default=False)
    ] = None,
    url: Url = DEFAULT_URL,
    json: JsonFormat = False,
) -> None:
    """Print the transcript of a completed task.

    whisperd result 01JD... --format srt --output talk.srt
    """
    with client(url) as daemon:
        text = daemon.result_as(task_id, "json" if json else format)
    if output:
        write_file(output, text)
    else:
        print(text, end="" if text.endswith("\n") else "\n")


@command(app, "cancel", "Transcripts")
def cancel(ids: Ids, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Cancel tasks that are not finished."""
    with client(url) as daemon:
        _each(ids, daemon.cancel, json, lambda task: [task.task_id, task.status])


@command(app, "retry", "Transcripts")
def retry(ids: Ids, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Run failed or cancelled tasks again."""
    with client(url) as daemon:
        _each(ids, daemon.retry, json, lambda task: [task.task_id, task.status])


@command(app, "clear", "Transcripts")
def clear(
    hours: Hours,
    status: Ended = "completed",
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Delete finished tasks for good, with their transcripts and their audio.

    Asks first on a terminal. Whatever is not deleted so, the daemon deletes by itself after
    retention.job_hours and retention.failed_job_hours.

      $ whisperd clear --hours 24
      $ whisperd clear --hours 0 --status completed,failed,cancelled --yes
    """
    states = _final_states(status)
    if not yes and sys.stdin.isatty():
        _confirm_clearing(states, hours)
    with client(url) as daemon:
        deleted = daemon.clear(states, hours)
    if json:
        show_json({"deleted": deleted})
    else:
        print(f"deleted {deleted} tasks")


def _confirm_clearing(states: Sequence[str], hours: float) -> None:
    old = f" that finished {hours:g} hours ago or earlier" if hours else ""
    question = f"Delete all {' and '.join(states)} tasks{old}, with their transcripts and audio?"
    typer.confirm(question, abort=True, err=True)


def _final_states(text: str) -> Sequence[str]:
    from whisperd.client import FINAL

    states = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in states:
        if name not in FINAL:
            raise typer.BadParameter(f"--status {name!a}: must be one of {', '.join(FINAL)}")
    return states


def _readable(files: Sequence[Path]) -> Sequence[Path]:
    """The files; wrong usage when one of them is none, before anything is done with the others."""
    for path in files:
        if not path.is_file() or not os.access(path, os.R_OK):
            what = "is a folder" if path.is_dir() else "cannot be read" if path.exists() else "does not exist"
            raise typer.BadParameter(f"{safe(str(path))} {what}")
    return files


def _each(
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
