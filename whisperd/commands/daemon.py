"""The commands about the daemon: serve, stats, pause, resume, watch, doctor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from whisperd.commands import (
    DEFAULT_URL,
    DataDir,
    Json,
    ModelsDir,
    Settings,
    Url,
    client,
    command,
    quick_httpx,
)
from whisperd.terminal import show_fields, show_json, spell

if TYPE_CHECKING:
    from whisperd.client import Stats
    from whisperd.config import Config

app = typer.Typer()

Host = Annotated[str | None, typer.Option(help="Address to bind.", show_default=False)]
Port = Annotated[int | None, typer.Option(help="0 takes a free one.", show_default=False)]
Role = Annotated[
    Literal["both", "api", "worker"] | None,
    typer.Option(help="Its part among the hosts that share a queue.", show_default=False),
]
BeginAfresh = Annotated[
    bool, typer.Option("--begin-afresh", help="Start an empty queue where one is lost and no backup is left.")
]


@command(app, "serve", "The daemon")
def serve(
    config: Settings = None,
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    models_dir: ModelsDir = None,
    role: Role = None,
    begin_afresh: BeginAfresh = False,
) -> None:
    """Run the daemon in the foreground.

    Prints its URL when it is ready. SIGTERM or Ctrl-C lets the running chunks finish for
    shutdown.grace_seconds; a second one stops at once. Nothing that was accepted is lost either way. SIGHUP
    reads the settings again and says which of them need a restart.

    A database that is missing or broken is set aside, never deleted, and the newest sound backup takes its
    place. With no backup the daemon does not start, unless it is told to --begin-afresh.

    Where several hosts share a queue (redis.url), --role api takes submissions and questions and runs
    nothing, for which it needs no model; --role worker only runs tasks, and answers for its own state.

      $ whisperd serve --port 8002 --data-dir /var/lib/whisperd
    """
    at = {"http.host": host, "http.port": port, "redis.role": role}
    read = _reader(config, at | {"storage.data_dir": data_dir, "storage.models_dir": models_dir})
    settings = read()
    from whisperd.daemon import run

    raise typer.Exit(asyncio.run(run(settings, read, begin_afresh=begin_afresh)))


def _reader(config: Path | None, overrides: Mapping[str, str | int | None]) -> Callable[[], Config]:
    """What reads the settings at the start, and again at each reload: the same file each time."""
    from whisperd.config import find, load

    file = find(config)  # once: one that vanishes before a reload is an error, not a reason for the defaults
    return lambda: load(file, overrides=overrides)


@command(app, "stats", "The daemon")
def stats(url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Show how many tasks there are in each state, how fast they go and how long they wait."""
    with client(url) as daemon:
        figures = daemon.stats()
    if json:
        show_json(figures)
    else:
        show_fields(_figures(figures))


@command(app, "pause", "The daemon")
def pause(url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Hand out nothing more to the workers, until `whisperd resume` or a restart.

    What runs is finished, and tasks are still accepted.
    """
    with client(url) as daemon:
        _tell_paused(daemon.pause(), json)


@command(app, "resume", "The daemon")
def resume(url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Go on after `whisperd pause`."""
    with client(url) as daemon:
        _tell_paused(daemon.resume(), json)


def _tell_paused(paused: bool, json: bool) -> None:
    if json:
        show_json({"paused": paused})
    else:
        print("paused" if paused else "not paused")


def _figures(figures: Stats) -> Sequence[tuple[str, object]]:
    throughput, wait, rate = figures.throughput, figures.wait_seconds, figures.success_rate
    busy = sum(worker.state == "busy" for worker in figures.workers)
    oldest = figures.oldest_queued_seconds
    return (
        *(
            (state, getattr(figures, state))
            for state in ("queued", "processing", "completed", "failed", "cancelled")
        ),
        ("delayed", figures.delayed or None),
        ("priorities", _told((depth.priority, depth.queued) for depth in figures.depth.by_priority)),
        ("tenants", _told((depth.tenant, depth.queued) for depth in figures.depth.by_tenant)),
        ("success", None if rate is None else f"{rate:.1%}"),
        ("finished", f"{throughput.tasks_per_minute:.0f} a minute"),
        ("speed", f"{throughput.audio_seconds_per_second:.1f} times real time"),
        ("wait", None if wait.p50 is None else f"{spell(wait.p50)}; 95 % within {spell(wait.p95 or 0)}"),
        ("oldest", None if oldest is None else f"queued for {spell(oldest)}"),
        ("workers", f"{busy} of {len(figures.workers)} busy"),
        ("paused", "yes" if figures.paused else None),
        ("counted", figures.counted_at and f"over all hosts, {figures.counted_at}"),
    )


def _told(queued: Iterable[tuple[object, int]]) -> str | None:
    """How many wait of each, where any do."""
    return ", ".join(f"{name}: {count}" for name, count in queued if count) or None


@command(app, "watch", "The daemon")
def watch(
    interval: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")] = 1.0,
    url: Url = DEFAULT_URL,
    json: Annotated[bool, typer.Option("--json", help="Print one look as JSON.")] = False,
) -> None:
    """Watch the queue and the workers live, and act on them with keys.

    Shows how many tasks there are in each state and priority, the workers with their chunk and speed (times
    real time), the throughput, the tasks that are not over, and the last failures. ? lists the keys: select a
    task, cancel it, run it again, change its priority, see all of it; pause the queue; quit with q.

    A daemon that goes away is waited for. Where standard output is no terminal, or TERM is dumb, a line is
    printed each time instead, until somebody stops it.

      $ whisperd watch --interval 0.5
      $ whisperd watch --interval 60 >> queue.log
    """
    with client(url, patience=5.0) as daemon:
        from whisperd import monitor

        if json:
            show_json(monitor.look(daemon)._asdict())
        else:
            monitor.watch(daemon, interval)


@command(app, "doctor", "The daemon")
def doctor(config: Settings = None, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Check that everything whisperd needs is there and right, and say what to do.

    Exit status 1 when something has to be mended.
    """
    quick_httpx()
    from whisperd.doctor import examine, show_findings

    findings = examine(config, url)
    if json:
        show_json([finding._asdict() for finding in findings])
    else:
        show_findings(findings)
    raise typer.Exit(any(finding.status == "fail" for finding in findings))
