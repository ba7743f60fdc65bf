"""What `watch` knows: the last look at the daemon, what is selected, what was said. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

from whisperd.client import Stats, Task

AT_MOST = 50  # tasks of a state that are asked for
REMEMBERED = 300  # looks of which the throughput is kept

Shows = Literal["open", "queued", "processing", "failed", "all"]
SHOWS: Sequence[Shows] = ("open", "queued", "processing", "failed", "all")
Panel = Literal["", "details", "help"]


class Look(NamedTuple):
    """What there was to see at one moment. Each of the lists has at most AT_MOST tasks."""

    at: datetime
    stats: Stats
    processing: Sequence[Task] = ()
    queued: Sequence[Task] = ()  # the next one first
    failed: Sequence[Task] = ()  # the newest first
    newest: Sequence[Task] = ()  # of all states; only where that was wished for
    opened: Task | None = None  # the one whose details are shown


class Wish(NamedTuple):
    """What a look is to bring besides what each brings."""

    newest: bool = False
    opened: str | None = None  # the id of a task


class Order(NamedTuple):
    """Something to be done by the daemon."""

    verb: Literal["look", "pause", "resume", "cancel", "retry", "priority"]
    task_id: str = ""
    name: str = ""  # of its audio, to speak of it
    priority: int = 0


@dataclass
class Model:
    url: str
    seen: Look | None = None
    trouble: str = ""  # why there is no newer look
    said: str = ""  # what became of the last order
    shows: Shows = "open"
    panel: Panel = ""
    question: Order | None = None  # is carried out when the next key is y
    selected: str | None = None  # the id of a task
    row: int = 0  # where it stands, or stood when it was last there
    over: bool = False
    pace: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))  # tasks a minute

    def saw(self, look: Look) -> None:
        if self.seen is not None:
            self._keep_pace(self.seen, look)
        self.seen, self.trouble = look, ""
        self.stay()

    def _keep_pace(self, before: Look, after: Look) -> None:
        seconds = (after.at - before.at).total_seconds()
        done = _ended(after.stats) - _ended(before.stats)  # below 0 after a clear
        if seconds > 0:
            self.pace.append(max(0.0, 60 * done / seconds))

    @property
    def tasks(self) -> Sequence[Task]:
        """Those in the list."""
        if self.seen is None:
            return ()
        if self.shows == "open":
            return (*self.seen.processing, *self.seen.queued)
        if self.shows == "all":
            return self.seen.newest
        return {
            "queued": self.seen.queued,
            "processing": self.seen.processing,
            "failed": self.seen.failed,
        }[self.shows]

    @property
    def chosen(self) -> Task | None:
        """The task that keys are about: the selected one, if it is there."""
        if self.panel == "details" and self.seen is not None and self.seen.opened is not None:
            return self.seen.opened if self.seen.opened.task_id == self.selected else None
        return next((task for task in self.tasks if task.task_id == self.selected), None)

    def stay(self) -> None:
        """Keep to the selected task where it stands now; if it is gone, to the one in its place.

        Not while its details are shown: they are about it, wherever it went.
        """
        if self.selected is None or self.panel == "details":
            return
        ids = [task.task_id for task in self.tasks]
        if self.selected in ids:
            self.row = ids.index(self.selected)
        else:
            self.select(self.row)

    def select(self, row: int) -> None:
        """The task in that row, or in the nearest one that there is."""
        tasks = self.tasks
        self.row = max(0, min(row, len(tasks) - 1))
        self.selected = tasks[self.row].task_id if tasks else None

    @property
    def wish(self) -> Wish:
        return Wish(self.shows == "all", self.selected if self.panel == "details" else None)


def _ended(stats: Stats) -> int:
    return stats.completed + stats.failed + stats.cancelled
