"""How the commands write: tables, fields, errors, texts that cannot steer the terminal.

On a terminal a table is drawn to its width; into a pipe it goes as whole lines, tab-separated and without a
head, for `cut` and `awk`. rich is imported only where something is drawn: it costs 0.1 s.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

STYLES = {
    "queued": "cyan",
    "processing": "yellow",
    "completed": "green",
    "failed": "bold red",
    "cancelled": "dim",
    "ok": "green",
    "warn": "yellow",
    "fail": "bold red",
}


WIDE = 120  # columns


def safe(text: str) -> str:
    """`text` in one line, with everything written out that a terminal would obey or not show."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _written_out(char) for char in text)


def _written_out(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def complain(message: object) -> None:
    """An error on standard error, each of its lines under our name."""
    for line in str(message).splitlines():
        print(f"whisperd: {safe(line)}", file=sys.stderr)


def show_json(value: Any) -> None:
    """Also what the client returns, as the API has it."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    """A time or a struct in types of JSON; msgspec itself is not needed for it."""
    if isinstance(value, datetime):
        return rfc3339(value)
    return {name: getattr(value, name) for name in value.__struct_fields__}


def rfc3339(moment: datetime | None) -> str | None:
    """UTC, with milliseconds, as the API writes times."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def show_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values, a line each; None is left out."""
    show_sheet([fields])


def show_sheet(groups: Iterable[Iterable[tuple[str, object]]]) -> None:
    """Groups of names and values, a line each; None is left out.

    On a terminal with an empty line between groups, values wrapped beside their names, states in colour.
    """
    shown = [[(name, safe(str(value))) for name, value in group if value is not None] for group in groups]
    shown = [group for group in shown if group]
    width = max((len(name) for group in shown for name, _ in group), default=0)
    if sys.stdout.isatty():
        _draw_sheet(shown, width)
    else:
        print("".join(f"{name:<{width}}  {value}\n" for group in shown for name, value in group), end="")


def _draw_sheet(groups: Sequence[Sequence[tuple[str, str]]], width: int) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, width=width, style="dim")
    table.add_column(overflow="fold")
    for group in groups:
        for name, value in group:
            style = "red" if name == "error" else STYLES.get(value, "")
            last = name == group[-1][0] and group is not groups[-1]
            table.add_row(name, Padding(Text(value, style), (0, 0, int(last), 0)))
    Console().print(table)


def is_wide() -> bool:
    """Whether standard output is a terminal with room for more than the necessary."""
    from shutil import get_terminal_size

    return sys.stdout.isatty() and get_terminal_size().columns >= WIDE


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]], flexible: str) -> None:
    """The rows; on a terminal the column `flexible` gives way when they are too wide."""
    rows = [[safe(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(head, rows, head.index(flexible))
    else:
        print("".join("\t".join(row) + "\n" for row in rows), end="")


def _draw(head: Sequence[str], rows: Sequence[Sequence[str]], flexible: int) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    styled = [[Text(cell, STYLES.get(cell, "")) for cell in row] for row in rows]
    for line in fitted([[Text(name, "bold") for name in head], *styled], flexible, console.width):
        console.print(line, no_wrap=True, overflow="crop")


def fitted(rows: Sequence[Sequence[Text]], flexible: int, width: int, fill: bool = False) -> Sequence[Text]:
    """The rows as lines of aligned columns, none wider than `width`: the column `flexible` gives way.

    With `fill` that column takes all the room there is. Not rich's Table: where nothing may wrap, it takes
    from every column, down to none.
    """
    from rich.text import Text

    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    spare = width - sum(widths) - 2 * (len(widths) - 1)
    widths[flexible] = max(8, widths[flexible] + (spare if fill else min(0, spare)))
    lines = []
    for row in rows:
        cells = [middle(cell, size) for cell, size in zip(row, widths, strict=True)]
        for cell, size in zip(cells, widths, strict=True):
            cell.truncate(size, pad=True)
        lines.append(Text("  ").join(cells))
        lines[-1].truncate(width)
    return lines


def middle(text: Text, width: int) -> Text:
    """A copy of at most `width` cells: of a longer text the beginning and the end, which tell names apart."""
    from rich.cells import set_cell_size
    from rich.text import Text

    if text.cell_len <= width:
        return text.copy()
    tail = set_cell_size(text.plain[::-1], (width - 1) // 2).rstrip()[::-1]
    head = set_cell_size(text.plain, width - 1 - (width - 1) // 2).rstrip()
    return Text(f"{head}…{tail}", text.style)


@contextmanager
def progress_bar(what: str, total: int | None = None) -> Iterator[Callable[[int, int | None], None]]:
    """A bar of bytes on standard error, told (done, total); silent where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as progress:
        bar = progress.add_task(_markup(what), total=total)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def _markup(text: str) -> str:
    from rich.markup import escape

    return escape(safe(text))


def write_file(path: Path, text: str) -> None:
    """The file is there whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8", newline="")
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def clock(seconds: float | None) -> str:
    """13:32, 2:05:07; - when not known."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def spell(seconds: float) -> str:
    """A span in one unit: 340 ms, 12 s, 4 min, 3 h, 2 d."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(text: str) -> datetime:
    """The time that "12h" was ago, or that is written out; of this machine's zone where none is named.

    Raises ValueError.
    """
    if found := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhdw])", text):
        seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[found[2]]
        with suppress(OverflowError):
            return datetime.now(UTC) - timedelta(seconds=seconds)
    else:
        with suppress(ValueError, OverflowError):
            return datetime.fromisoformat(text).astimezone(UTC)
    raise ValueError(f"{text!a} is no time: 30m, 12h and 7d are, and 2026-11-28T14:00")


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """How long ago it was; - when not known."""
    if moment is None:
        return "-"
    return spell(max(0.0, ((now or datetime.now(UTC)) - moment).total_seconds()))


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"
