"""What each key does: to the model at once, to the daemon by the order that is returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from whisperd.client import Task
from whisperd.monitor.model import SHOWS, Model, Order
from whisperd.terminal import safe

PAGE = 10  # rows
PRIORITIES = range(-100, 101)

HELP = (
    ("↑ ↓, k j", "select a task; PgUp PgDn, Home End, too"),
    ("Enter", "all of it, and back"),
    ("f", "which tasks: open, queued, processing, failed, all"),
    ("c", "cancel it"),
    ("r", "run it again, when it failed or was cancelled"),
    ("+ -", "raise, lower its priority while it is queued"),
    ("p", "pause: hand out nothing more to the workers; resume"),
    ("Esc", "back; no"),
    ("q", "quit; so do Ctrl-C and SIGTERM"),
)


def press(model: Model, key: str) -> Order | None:
    """`key` is a character, or the name of a key such as "up"."""
    if model.question is not None:
        return _answer(model, key)
    model.said = ""
    deed = _DEEDS.get(key)
    return deed(model) if deed else None


def _answer(model: Model, key: str) -> Order | None:
    order, model.question = model.question, None
    if key in ("y", "Y"):
        return order
    model.said = "nothing was done"
    return None


def _quit(model: Model) -> None:
    model.over = True


def _moved(rows: int) -> Callable[[Model], None]:
    def move(model: Model) -> None:
        if model.panel != "details":
            model.select(model.row + rows if model.selected else max(0, rows - 1))

    return move


def _open(model: Model) -> Order | None:
    if model.panel:
        _back(model)
        return None
    if model.chosen is None:
        model.said = "no task is selected: ↑ ↓ select one"
        return None
    model.panel = "details"
    return Order("look")


def _back(model: Model) -> None:
    model.panel = ""
    model.stay()


def _help(model: Model) -> None:
    model.panel = "" if model.panel == "help" else "help"


def _filter(model: Model) -> Order | None:
    model.panel = ""
    model.shows = SHOWS[(SHOWS.index(model.shows) + 1) % len(SHOWS)]
    model.stay()
    return Order("look")


def _pause(model: Model) -> Order | None:
    if model.seen is not None and model.seen.stats.paused:
        return Order("resume")
    model.question = Order("pause")
    return None


def _about(order: Callable[[Model, Task], Order | None]) -> Callable[[Model], Order | None]:
    def act(model: Model) -> Order | None:
        if model.chosen is not None:
            return order(model, model.chosen)
        model.said = "no task is selected: ↑ ↓ select one"
        return None

    return act


def _cancel(model: Model, task: Task) -> None:
    if task.finished:
        model.said = f"it is {task.status} already"
    else:
        model.question = Order("cancel", task.task_id, _name(task))


def _retry(model: Model, task: Task) -> Order:
    return Order("retry", task.task_id, _name(task))


def _changed(by: int) -> Callable[[Model, Task], Order | None]:
    def change(model: Model, task: Task) -> Order | None:
        if task.priority + by not in PRIORITIES:
            model.said = f"priorities go from {PRIORITIES[0]} to {PRIORITIES[-1]}"
            return None
        return Order("priority", task.task_id, _name(task), task.priority + by)

    return change


def _name(task: Task) -> str:
    return safe(task.audio.name or task.task_id)


_DEEDS: Mapping[str, Callable[[Model], Order | None]] = {
    **dict.fromkeys(("q", "Q", "gone"), _quit),
    **dict.fromkeys(("up", "k"), _moved(-1)),
    **dict.fromkeys(("down", "j"), _moved(1)),
    "page up": _moved(-PAGE),
    "page down": _moved(PAGE),
    **dict.fromkeys(("home", "g"), _moved(-10_000)),
    **dict.fromkeys(("end", "G"), _moved(10_000)),
    "enter": _open,
    "escape": _back,
    "?": _help,
    "h": _help,
    "f": _filter,
    "p": _pause,
    "c": _about(_cancel),
    "r": _about(_retry),
    **dict.fromkeys(("+", "="), _about(_changed(1))),
    "-": _about(_changed(-1)),
}
