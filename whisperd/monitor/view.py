"""One screen of `watch`: lines that follow from the model and the size of the terminal alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import chain

from rich.text import Text

from whisperd.client import Stats, Task, Worker
from whisperd.monitor.keys import HELP
from whisperd.monitor.model import Look, Model, Order
from whisperd.sheet import sheet
from whisperd.terminal import STYLES, age, clock, fitted, megabytes, safe, spell

ROOMY = 20  # lines from which on there are empty ones between the sections
WIDE = 120  # columns from which on a task's row has all that fits
SPARKS = 60  # looks in the sparkline
BARS = "▁▂▃▄▅▆▇█"
_IN_ASCII = str.maketrans("…━╌×↑↓" + BARS, ".=-x^v" + "_.-:=+*#")

Lines = Sequence[Text]
Row = Sequence[Text]


def screen(model: Model, width: int, height: int) -> Lines:
    """Exactly `height` lines, none wider than `width`; the last one says what was done, or what can be."""
    above = _head(model, width)
    below = _foot(model)
    room = max(0, height - len(above) - 1)
    lines = [*above, *_body(model, width, room, height >= ROOMY)][: height - 1]
    lines += [Text() for _ in range(height - 1 - len(lines))]
    lines.append(below)
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def in_ascii(line: Text) -> Text:
    """For terminals that have no more."""
    line.plain = line.plain.translate(_IN_ASCII)
    return line


def _head(model: Model, width: int) -> Lines:
    look = model.seen
    if look is None:
        return [Text.assemble(("whisperd", "bold"), f"  {model.url}"), Text()]
    title = Text.assemble(
        ("whisperd", "bold"), f"  {model.url}  ", (f"{look.at.astimezone():%H:%M:%S}", "dim")
    )
    if look.stats.paused:
        title.append("  PAUSED", "bold yellow")
    return [title, _counts(look.stats), _speeds(look, model.pace, width), *_priorities(look)]


def _counts(stats: Stats) -> Text:
    states = ("queued", "processing", "completed", "failed", "cancelled")
    counts = [Text(f"{getattr(stats, state)} {state}", STYLES[state]) for state in states]
    if stats.delayed:
        counts[0].append(f" ({stats.delayed} delayed)")
    return Text("   ").join(counts)


def _speeds(look: Look, pace: Sequence[float], width: int) -> Text:
    stats, wait = look.stats, look.stats.wait_seconds
    parts = [
        f"{stats.throughput.tasks_per_minute:.0f} a minute, "
        f"{stats.throughput.audio_seconds_per_second:.1f}× real time"
    ]
    if wait.p50 is not None:
        parts.append(f"wait {spell(wait.p50)}, 95 % within {spell(wait.p95 or 0)}")
    if (oldest := stats.oldest_queued_seconds) is not None:
        parts.append(f"oldest {spell(oldest)}")
    told = "   ".join(parts)
    return Text.assemble((sparkline(list(pace), min(SPARKS, width - len(told) - 2)), "green"), "  ", told)


def sparkline(values: Sequence[float], width: int) -> str:
    """The newest `width` values, each as a bar of the highest among them."""
    shown = list(values)[-width:] if width > 0 else []
    highest = max(shown, default=0.0) or 1.0
    return "".join(BARS[round((len(BARS) - 1) * value / highest)] for value in shown)


def _priorities(look: Look) -> Lines:
    """How many are queued at each priority, the most urgent first."""
    told = "   ".join(f"{depth.priority}: {depth.queued}" for depth in look.stats.depth.by_priority)
    return [Text(f"by priority   {told}", "cyan")] if told else []


def _body(model: Model, width: int, room: int, gaps: bool) -> Lines:
    if model.panel == "help":
        return [Text(), *fitted([[Text(keys, "bold"), Text(does)] for keys, does in HELP], 1, width)]
    if model.panel == "details":
        return [Text(), *_details(model, width)]
    if model.seen is None:
        return []
    workers = _workers(model.seen)
    failures = [] if model.shows in ("failed", "all") else _failures(model.seen)
    kept = 2 + gaps * 3 + (1 if failures else 0)  # titles, and empty lines
    at_work = min(len(workers), max(1, (room - kept) // 4))
    lost = min(len(failures), max(1, (room - kept) // 5))
    tasks = max(1, room - kept - at_work - lost)
    sections = [
        _section("WORKERS", len(workers), fitted(workers, 5, width)[:at_work] if workers else [], gaps),
        _section(*_listed(model, tasks, width), gaps),
    ]
    if failures:
        sections.append(
            _section("FAILED LAST", model.seen.stats.failed, fitted(failures, 1, width)[:lost], gaps)
        )
    return list(chain(*sections))


def _section(title: str, total: int, lines: Lines, gap: bool) -> Lines:
    told = f"{title}  {total}" + (f"  ({len(lines)} shown)" if len(lines) < total else "")
    return [*([Text()] if gap else []), Text(told, "bold"), *lines]


def _workers(look: Look) -> Sequence[Row]:
    names = {task.task_id: task.audio.name for task in look.processing}
    return [_worker(worker, names) for worker in look.stats.workers]


def _worker(worker: Worker, names: dict[str, str]) -> Row:
    factor, restarts = worker.real_time_factor, worker.restarts
    last = f" ({worker.last_restart.cause})" if worker.last_restart else ""
    at_work = names.get(worker.task_id or "", worker.task_id) or ""
    return (
        Text(str(worker.id)),
        Text(worker.state, {"busy": "yellow", "idle": "green"}.get(worker.state, "dim")),
        Text(worker.model or "-"),
        Text(f"{1 / factor:.1f}×" if factor else "-"),
        Text(megabytes(worker.rss_bytes) if worker.rss_bytes else "-"),
        Text(safe(at_work)),
        Text(f"chunk {worker.chunk}" if worker.chunk is not None else ""),
        Text(f"{worker.tasks_done} done" + (f", {restarts} restarts{last}" if restarts else "")),
    )


def _listed(model: Model, rows: int, width: int) -> tuple[str, int, Lines]:
    """The title of the list, how many tasks it could have, and its lines around the selected one."""
    assert model.seen is not None
    stats, tasks = model.seen.stats, model.tasks
    totals = {
        "open": stats.queued + stats.processing,
        "queued": stats.queued,
        "processing": stats.processing,
        "failed": stats.failed,
        "all": stats.total,
    }
    if not tasks:
        return model.shows.upper(), totals[model.shows], [Text("nothing", "dim")]
    first = max(0, model.row - rows + 1) if model.selected else 0
    shown = tasks[first : first + rows]
    lines = fitted([_row(task, model, width) for task in shown], 2, width, fill=True)
    for task, line in zip(shown, lines, strict=True):
        if task.task_id == model.selected:
            line.stylize("reverse")
    return model.shows.upper(), totals[model.shows], lines


def _row(task: Task, model: Model, width: int) -> Row:
    assert model.seen is not None
    mark = ">" if task.task_id == model.selected else str(task.position or "")
    row = [
        Text(f"{mark:>3}"),
        Text(f"{task.status:<10}", STYLES.get(task.status, "")),
        Text(safe(task.audio.name)),
    ]
    row += [
        Text(f"{clock(task.audio.duration):>6}"),
        _bar(task, 10 if width >= WIDE else 0),
        Text(f"prio {task.priority:<3}"),
    ]
    if width >= WIDE:
        row += [Text(safe(task.tenant)[:20]), Text(safe(task.model)[:20]), Text(task.task_id, "dim")]
        row.append(Text(f"attempt {task.attempt}" if task.attempt > 1 else ""))
    return (*row, Text(f"{_when(task, model.seen.at):>10}"))


def _bar(task: Task, width: int) -> Text:
    if task.status != "processing":
        return Text(" " * (width + 5))
    done = round(width * task.progress)
    return Text.assemble(("━" * done, "yellow"), ("╌" * (width - done), "dim"), f"{task.progress:5.0%}")


def _when(task: Task, now: datetime) -> str:
    if task.finished_at is not None and task.finished:
        return f"{age(task.finished_at, now)} ago"
    if task.eta_seconds is not None:
        seconds = spell(max(1.0, task.eta_seconds))
        return f"{seconds} left" if task.status == "processing" else f"in {seconds}"
    return f"for {age(task.started_at if task.status == 'processing' else task.created_at, now)}"


def _failures(look: Look) -> Sequence[Row]:
    return [
        (
            Text(safe(task.audio.name)[:30]),
            Text(safe(task.error.message if task.error else ""), "red"),
            Text(f"{age(task.finished_at, look.at)} ago"),
        )
        for task in look.failed
    ]


def _details(model: Model, width: int) -> Lines:
    if (task := model.chosen) is None:
        return [Text("it is not there any more" if model.seen else "", "dim")]
    groups = [[field for field in group if field[1] is not None] for group in sheet(task)]
    fields = list(chain(*groups))
    return fitted([[Text(name, "dim"), Text(safe(str(value)))] for name, value in fields], 1, width)


def _foot(model: Model) -> Text:
    if model.question is not None:
        return Text(f"{_asked(model.question)}  y/n", "bold yellow")
    if model.trouble:
        return Text(f"waiting for the daemon: {safe(model.trouble)}", "bold yellow")
    if model.said:
        return Text(safe(model.said), "bold")
    keys = "↑↓ select  c cancel  r retry  +- priority  f filter  p pause  ? help  q quit"
    return Text(keys, "dim")


def _asked(order: Order) -> str:
    if order.verb == "pause":
        return "Hand out nothing more to the workers, until somebody resumes?"
    return f"Cancel {order.name}?"
