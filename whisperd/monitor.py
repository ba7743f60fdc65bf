"""`whisperd watch`: the queue and the workers, drawn anew at every look.

`look` asks, `screen` draws (pure), `watch` repeats both until q or Ctrl-C. A daemon that goes away costs a
line on the screen, not the view: it comes back when the daemon does.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from whisperd.client import Client, ClientError, Stats, Task, Worker
from whisperd.terminal import STYLES, age, clock, megabytes, safe, spell

AT_MOST = 50  # tasks of a state that are asked for
HEAD = 4  # lines above the sections
ROOMY = 20  # lines from which on there are empty ones between the sections


class Look(NamedTuple):
    """What there was to see at one moment."""

    stats: Stats
    workers: Sequence[Worker]
    processing: Sequence[Task]
    queued: Sequence[Task]
    failed: Sequence[Task]


class Section(NamedTuple):
    title: str
    total: int
    rows: Sequence[Sequence[RenderableType]]
    flexible: int  # the column that takes the room the others leave
    nothing: str  # said when there are no rows


def look(client: Client) -> Look:
    """Raises ClientError."""
    return Look(
        client.stats(),
        client.workers(),
        client.list(status="processing", limit=AT_MOST),
        client.list(status="queued", limit=AT_MOST),
        client.list(status="failed", limit=AT_MOST),
    )


def tried(client: Client, before: Look | None) -> tuple[Look | None, str]:
    """A new look, or the one before and why there is no new one."""
    try:
        return look(client), ""
    except ClientError as error:
        return before, str(error).partition(". ")[0]


def watch(client: Client, interval: float) -> None:
    """Draws every `interval` seconds until q or Ctrl-C; once where standard output is no terminal."""
    console = Console()
    if not console.is_terminal:
        console.print(screen(look(client), client.url, 1000))
        return
    seen, trouble = tried(client, None)
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(screen(seen, client.url, console.height, trouble), refresh=True)
            if pressed(interval) in ("q", "Q"):
                return
            seen, trouble = tried(client, seen)


def screen(seen: Look | None, url: str, height: int, trouble: str = "") -> RenderableType:
    """One screen of at most `height` lines, as wide as it is printed."""
    head = Text.assemble(
        ("whisperd", "bold"), f"  {url}  ", (f"{time.strftime('%H:%M:%S')}  q quits", "dim"), no_wrap=True
    )
    told = Text(f"waiting for the daemon: {trouble}", "bold yellow", no_wrap=True, overflow="ellipsis")
    if seen is None:
        return Group(head, Text(), told)
    sections = [_workers(seen), _processing(seen), _queued(seen), _failed(seen)]
    gap = height >= ROOMY
    room = _shared(height - HEAD - len(sections) * (1 + gap), [max(1, len(part.rows)) for part in sections])
    parts = [_drawn(section, rows, gap) for section, rows in zip(sections, room, strict=True)]
    return Group(head, _counts(seen.stats), _speeds(seen.stats), told if trouble else Text(), *parts)


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits for a key for so many seconds and returns it, or "" when none came."""
    if not sys.stdin.isatty():
        yield _slept
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSADRAIN)  # keys struck before are not lost
    try:
        yield lambda seconds: _key(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _slept(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _key(descriptor: int, seconds: float) -> str:
    if select.select([descriptor], [], [], seconds)[0]:
        return os.read(descriptor, 1).decode(errors="replace") or "q"  # nothing read: the terminal is gone
    return ""


def _shared(lines: int, wanted: Sequence[int]) -> list[int]:
    """Deals the lines out, one each in turn, until all have what they want or none are left."""
    dealt = [0] * len(wanted)
    while lines > 0 and dealt != list(wanted):
        for number, want in enumerate(wanted):
            if dealt[number] < want and lines > 0:
                dealt[number] += 1
                lines -= 1
    return dealt


def _drawn(section: Section, rows: int, gap: bool) -> RenderableType:
    title = f"{section.title}  {section.total}" + (f"  ({rows} shown)" if rows < section.total else "")
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for number in range(max((len(row) for row in section.rows), default=1)):
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1 if number == section.flexible else None)
    for row in section.rows[:rows]:
        table.add_row(*row)
    if not section.rows and rows:
        table.add_row(Text(section.nothing, "dim"))
    return Group(Text(title, "bold"), table, *([Text()] if gap else []))


def _counts(stats: Stats) -> Text:
    parts: list[Any] = [("PAUSED  ", "bold yellow")] if stats.paused else []
    for state in ("queued", "processing", "completed", "failed", "cancelled"):
        parts += [(str(getattr(stats, state)), STYLES[state]), f" {state}   "]
    if stats.delayed:
        parts.append(f"({stats.delayed} delayed)")
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _speeds(stats: Stats) -> Text:
    rate, wait, oldest = stats.throughput, stats.wait_seconds, stats.oldest_queued_seconds
    parts = [f"{rate.tasks_per_minute:.0f} a minute, {rate.audio_seconds_per_second:.1f}x real time"]
    if wait.p50 is not None and wait.p95 is not None:
        parts.append(f"wait {spell(wait.p50)}, 95 % within {spell(wait.p95)}")
    if oldest is not None:
        parts.append(f"the oldest for {spell(oldest)}")
    return Text("   ".join(parts), no_wrap=True, overflow="ellipsis")


def _workers(seen: Look) -> Section:
    rows = [_worker(worker, seen.processing) for worker in seen.workers]
    return Section("WORKERS", len(rows), rows, 5, "none")


def _worker(worker: Worker, tasks: Sequence[Task]) -> Sequence[RenderableType]:
    names = {task.task_id: task.audio.name for task in tasks}
    at_work = names.get(worker.task_id or "", worker.task_id) or ""
    factor, restarts = worker.real_time_factor, worker.restarts
    return (
        str(worker.id),
        Text(worker.state, {"busy": "yellow", "idle": "green"}.get(worker.state, "dim")),
        Text(worker.model or "-"),
        f"{1 / factor:.1f}x" if factor else "-",
        megabytes(worker.rss_bytes) if worker.rss_bytes else "-",
        Text(safe(at_work)),
        f"{worker.tasks_done} done" + (f", {restarts} restarts" if restarts else ""),
    )


def _processing(seen: Look) -> Section:
    rows = [
        (
            Text(safe(task.audio.name)),
            clock(task.audio.duration),
            ProgressBar(total=1.0, completed=task.progress, width=20),
            f"{task.progress:4.0%}",
            f"for {age(task.started_at)}",
        )
        for task in seen.processing
    ]
    return Section("IN WORK", seen.stats.processing, rows, 0, "nothing")


def _queued(seen: Look) -> Section:
    waiting = sorted(seen.queued, key=lambda task: task.position or sys.maxsize)
    rows = [
        (
            str(task.position or "-"),
            Text(safe(task.audio.name)),
            clock(task.audio.duration),
            f"priority {task.priority}",
            f"attempt {task.attempt}" if task.attempt > 1 else "",
            f"for {age(task.created_at)}",
        )
        for task in waiting
    ]
    return Section("WAITING", seen.stats.queued, rows, 1, "nothing")


def _failed(seen: Look) -> Section:
    rows = [
        (
            Text(safe(task.audio.name[:30])),
            Text(safe(task.error.message if task.error else ""), "red"),
            f"{age(task.finished_at)} ago",
        )
        for task in seen.failed
    ]
    return Section("FAILED", seen.stats.failed, rows, 1, "nothing")
