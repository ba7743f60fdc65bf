"""The commands about tasks: list, show, explain, result, link, cancel, retry, clear."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from whisperd.commands import (
    DEFAULT_URL,
    Format,
    Id,
    Ids,
    Json,
    JsonFormat,
    Url,
    client,
    command,
    each,
)
from whisperd.terminal import (
    age,
    clock,
    complain,
    is_wide,
    moment,
    rfc3339,
    safe,
    show_fields,
    show_json,
    show_sheet,
    show_table,
    spell,
    write_file,
)

if TYPE_CHECKING:
    from datetime import datetime

    from whisperd.client import Client, Findings, Task
    from whisperd.client.results import Likely

app = typer.Typer()


Hours = Annotated[float, typer.Option("--hours", min=0, help="Finished so long ago, or earlier.")]
Ended = Annotated[str, typer.Option(help="completed, failed, cancelled; several with commas.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Statuses = ("queued", "processing", "completed", "failed", "cancelled")
Kinds = ("transcription", "risk_detection")


def _parsed_moment(text: str | None) -> str | None:
    """Wrong usage, where it is no time: before anything is asked."""
    if text is not None:
        try:
            moment(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    return text


def _one_of(names: Sequence[str]) -> Callable[[str], Iterable[str]]:
    """Completes what stands after the last comma."""

    def complete(incomplete: str) -> Iterable[str]:
        before, comma, _ = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names]

    return complete


Status = Annotated[
    str | None,
    typer.Option(
        help=", ".join(Statuses) + "; several with commas.",
        show_default=False,
        autocompletion=_one_of(Statuses),
    ),
]
KindOf = Annotated[
    str | None,
    typer.Option(help=" or ".join(Kinds) + ".", show_default=False, autocompletion=_one_of(Kinds)),
]
TenantOf = Annotated[str | None, typer.Option(help="Of this tenant only.", show_default=False)]
Text = Annotated[
    str | None,
    typer.Option(
        help="All of these words in the name of the audio or the transcript, the last one maybe not to its "
        'end, or a "phrase"; or the first ten letters of an id, or more.',
        show_default=False,
    ),
]
Redacted = Annotated[
    bool | None,
    typer.Option(
        "--redacted/--plain",
        help="Without, or with, what rules want out of it; else as its submitter asked.",
        show_default=False,
    ),
]
Linked = Annotated[
    Literal["text", "srt", "vtt", "tsv", "json"],
    typer.Option("--format", "-f", help="How the transcript is written."),
]
AT_A_TIME = 100  # tasks that are run again by one request
SINCE = "90s, 30m, 12h, 7d ago; or a time: 2026-11-28, 2026-11-28T14:00."
Since = Annotated[
    str | None,
    typer.Option(
        help=f"Submitted since then: {SINCE}", metavar="WHEN", show_default=False, callback=_parsed_moment
    ),
]


@command(app, "list", "Transcripts")
def list_tasks(
    status: Status = None,
    kind: KindOf = None,
    tenant: TenantOf = None,
    text: Text = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """List tasks, newest first.

    Columns: id, status, how far it is, length of the audio, age, name; on a terminal of 120 columns or more
    also priority, tenant and error code. Into a pipe go the first six, whole.

      $ whisperd list --status queued,processing
      $ whisperd list --status failed --since 12h --text interview
      $ whisperd list --status completed --limit 1000 | cut -f 1 | xargs -n 1 whisperd result
    """
    with client(url) as daemon:
        wanted = {"status": status, "kind": kind, "tenant": tenant, "q": text}
        tasks = _first(daemon.list_all(**wanted), limit + 1, moment(since) if since else None)
    shown, more = tasks[:limit], len(tasks) > limit
    if json:
        show_json(shown)
        return
    head = ("ID", "STATUS", "DONE", "LENGTH", "AGE", "NAME")
    wide = is_wide()
    rows = [(*_row(task), *(_more(task) if wide else ())) for task in shown]
    show_table((*head, "PRIORITY", "TENANT", "ERROR") if wide else head, rows, "NAME")
    if more and sys.stdout.isatty():
        print(
            f"There are more: --limit {10 * limit} shows them, --status, --text, --since fewer.",
            file=sys.stderr,
        )


def _first(tasks: Iterable[Task], limit: int, since: datetime | None) -> Sequence[Task]:
    """They come newest first, so that the first one that is too old is the end."""
    found: list[Task] = []
    for task in tasks:
        if len(found) == limit or (since is not None and task.created_at < since):
            break
        found.append(task)
    return found


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


def _more(task: Task) -> Sequence[str]:
    return (str(task.priority), task.tenant, task.error.code if task.error else "")


@command(app, "show", "Transcripts")
def show(task_id: Id, redacted: Redacted = None, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Show all of one task: where it stands, why it failed if it did, what was found in what was said, and
    what happened to it.

    $ whisperd show 01JD...
    """
    from whisperd.commands.findings import show_findings
    from whisperd.commands.timeline import show_timeline
    from whisperd.sheet import sheet

    with client(url) as daemon:
        task, timeline = daemon.task(task_id), daemon.timeline(task_id)
        found = _found(daemon, task, redacted)
    if json:
        fields = {name: getattr(task, name) for name in task.__struct_fields__}
        show_json({**fields, "timeline": timeline.events, **({"risk": found} if found else {})})
        return
    show_sheet(sheet(task))
    print()
    if found:
        show_findings(found)
        print()
    show_timeline(timeline)


def _found(daemon: Client, task: Task, redacted: bool | None) -> Findings | None:
    from whisperd.client import NotFound

    try:
        return daemon.findings(task.task_id, redacted=redacted) if task.status == "completed" else None
    except NotFound:  # nobody asked, or the daemon is an older one
        return None


@command(app, "explain", "Transcripts")
def explain(task_id: Id, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Say why a task waits, and when it is thought to begin and to be done.

    $ whisperd explain 01JD...
    3rd in line; 2 PRO tasks ahead; tenant at 1 of 1; starts in about 4 min
    """
    with client(url) as daemon:
        found = daemon.explain(task_id)
    if json:
        show_json(found)
        return
    print(safe(found.summary))
    show_fields(
        [
            ("status", found.status),
            *((reason.code, reason.message) for reason in found.reasons),
            ("begins in", _between(found.starts_in_seconds)),
            ("done in", _between(found.eta_seconds)),
        ]
    )


def _between(found: Likely | None) -> str | None:
    if found is None:
        return None
    likely, late = spell(found.p50), spell(found.p90)
    return f"about {likely}" if likely == late else f"about {likely}, {late} if all goes slowly"


@command(app, "result", "Transcripts")
def result(
    task_id: Id,
    format: Format = "text",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it here.", show_default=False)
    ] = None,
    redacted: Redacted = None,
    url: Url = DEFAULT_URL,
    json: JsonFormat = False,
) -> None:
    """Print the transcript of a completed task.

    whisperd result 01JD... --format srt --output talk.srt
    """
    with client(url) as daemon:
        text = daemon.result_as(task_id, "json" if json else format, redacted=redacted)
    if output:
        write_file(output, text)
    else:
        print(text, end="" if text.endswith("\n") else "\n")


@command(app, "link", "Transcripts")
def link(
    task_id: Id,
    format: Linked = "text",
    seconds: Annotated[
        int | None,
        typer.Option(
            min=1, help="How long it works; else as long as the daemon lets links.", show_default=False
        ),
    ] = None,
    redacted: Annotated[bool, typer.Option("--redacted", help="Without what rules want out of it.")] = False,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Print a URL of a transcript that whoever has it can read without a key, until it expires.

    The daemon writes the transcript to a bucket of S3, as it is shown now: its setting s3.links says where. A
    link cannot be taken back, and shows the id of the access key to the bucket, though not its secret.

      $ whisperd link 01JD... --format srt --seconds 600
      $ whisperd link 01JD... | mail -s "your call" ann@example.org
    """
    with client(url) as daemon:
        made = daemon.link(task_id, format, seconds=seconds, redacted=redacted)
    if json:
        show_json(made)
        return
    print(safe(made.url), flush=True)
    print(f"works until {rfc3339(made.expires_at)}", file=sys.stderr)


@command(app, "cancel", "Transcripts")
def cancel(ids: Ids, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Cancel tasks that are not finished.

    Prints the id and the status of each. One at work stops within two seconds.

      $ whisperd cancel 01JD... 01JE...
      $ whisperd list --status queued --tenant acme -n 1000 | cut -f 1 | xargs whisperd cancel
    """
    with client(url) as daemon:
        each(ids, daemon.cancel, json, lambda task: [task.task_id, task.status])


@command(app, "retry", "Transcripts")
def retry(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", show_default=False)] = None,
    all_failed: Annotated[bool, typer.Option("--all-failed", help="All that failed; see below.")] = False,
    code: Annotated[
        str | None, typer.Option(help="With this error code only, as `show` tells it.", show_default=False)
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help=f"Failed since then: {SINCE}", metavar="WHEN", show_default=False, callback=_parsed_moment
        ),
    ] = None,
    tenant: TenantOf = None,
    text: Text = None,
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Run failed or cancelled tasks again.

    Prints the id and the status of each; one that is refused is told, and the others go on. --all-failed
    takes all that failed, or those of them that --code, --since, --tenant and --text leave, a hundred at a
    time, and prints their ids; on a terminal it says how many they are and asks first.

      $ whisperd retry 01JD...
      $ whisperd retry --all-failed --since 2h --code worker_crashed
      $ whisperd retry --all-failed --yes
    """
    narrowed = code or since or tenant or text
    if all_failed == bool(ids) or (ids and narrowed):
        raise typer.BadParameter("give the ids of tasks, or --all-failed and what narrows it")
    with client(url) as daemon:
        if ids:
            each(ids, daemon.retry, json, lambda task: [task.task_id, task.status])
        else:
            _retry_many(daemon, _failed(daemon, code, since, tenant, text), yes, json)


def _retry_many(daemon: Client, ids: Sequence[str], yes: bool, json: bool) -> None:
    """What is refused is told and makes the exit status 1."""
    if ids and not yes and sys.stdin.isatty():
        typer.confirm(f"Run {len(ids)} failed tasks again?", abort=True, err=True)
    refused: dict[str, str] = {}
    for first in range(0, len(ids), AT_A_TIME):
        page = ids[first : first + AT_A_TIME]
        refused |= daemon.retry_many(page)
        for task_id in page:
            if task_id in refused:
                complain(f"{task_id}: {refused[task_id]}")
            elif not json:
                print(task_id, flush=True)
    if json:
        show_json({"retried": [task_id for task_id in ids if task_id not in refused], "refused": refused})
    raise typer.Exit(bool(refused))


def _failed(
    daemon: Client, code: str | None, since: str | None, tenant: str | None, text: str | None
) -> Sequence[str]:
    """The oldest first, so that they come into line as they did before."""
    after = moment(since) if since else None
    chosen = [
        task.task_id
        for task in daemon.list_all(status="failed", tenant=tenant, q=text)
        if (code is None or (task.error is not None and task.error.code == code))
        and (after is None or (task.finished_at or task.created_at) >= after)
    ]
    return chosen[::-1]


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
