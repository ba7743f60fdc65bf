"""The events of a task, over as many connections as it takes, without any I/O.

The id of an event is a place in the transcript, and the daemon goes on behind the one that it is told: so no
segment is missing or comes twice. What it says anew on each connection, the state and the progress, is passed
on only where it is news.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import msgspec

from whisperd.client.calls import Calls, Request, event_path
from whisperd.client.errors import DaemonAway, NotWhisperd
from whisperd.client.results import Event, ProgressEvent, Segment, SegmentEvent, Task, TaskEvent

SILENCE_SECONDS = 45.0  # the daemon sends a sign of life every 15


class _Progress(msgspec.Struct):
    progress: float


class Frame(NamedTuple):
    id: str
    event: str
    data: str


class Frames:
    """Server-sent events, as https://html.spec.whatwg.org/multipage/server-sent-events.html frames them.

    Lines end with CR and LF only: str.splitlines would break a text that has a U+2028 in it.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._id = ""
        self._event = ""
        self._data: list[str] = []

    def feed(self, block: bytes) -> Iterator[Frame]:
        """The frames that are whole with this block. One that is cut off is never given out."""
        *lines, self._rest = re.split(rb"\r\n|\n|\r(?!\Z)", self._rest + block)
        for line in lines:
            name, _, value = line.decode(errors="replace").partition(":")
            if not line:
                yield from self._whole()
            elif name:
                self._take(name, value.removeprefix(" "))

    def _take(self, name: str, value: str) -> None:
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id":
            self._id = value

    def _whole(self) -> Iterator[Frame]:
        if self._data:
            yield Frame(self._id, self._event, "\n".join(self._data))
        self._event, self._data = "", []


class Following:
    """What has been heard of one task, and what is to be done next."""

    def __init__(self, calls: Calls, task_id: str, after: str | None) -> None:
        self.over = False  # nothing more comes
        self._calls = calls
        self._path = event_path(task_id)
        self._after = after
        self._status = ""
        self._progress: float | None = None
        self._attempt = 0  # connections in a row that brought nothing new
        self._frames = Frames()

    def request(self) -> Request:
        """For the next connection."""
        self._frames = Frames()
        return Request("GET", self._path, headers={"Last-Event-ID": self._after} if self._after else None)

    def began(self, status: int) -> None:
        """The connection was answered well, with this status: 204 if `after` was the last event there is."""
        self.over = status == 204

    def heard(self, block: bytes) -> Iterator[Event]:
        """What is news in the next bytes of a connection. Raises NotWhisperd."""
        for frame in self._frames.feed(block):
            event = self._event(frame)
            if event is not None:
                self._attempt = 0
                yield event
            self._after = frame.id or self._after

    def ended(self, outcome: httpx.Response | httpx.RequestError | None) -> float:
        """Seconds to the next connection, after this one was refused, cut off, or closed (None).

        Raises ClientError when there is to be none.
        """
        trouble = self._calls.trouble(outcome) if outcome is not None else None
        trouble = trouble or DaemonAway(self._calls.url, "the stream of events ended early")
        seconds = self._calls.retry_in(trouble, self._attempt)
        if seconds is None:
            raise trouble
        self._attempt += 1
        return seconds

    def _event(self, frame: Frame) -> Event | None:
        """None for what is known already, and for kinds that this client does not know."""
        try:
            match frame.event:
                case "task":
                    return self._task(frame.id, msgspec.json.decode(frame.data, type=Task))
                case "segment":
                    return SegmentEvent(frame.id, msgspec.json.decode(frame.data, type=Segment))
                case "progress":
                    return self._went_on(frame.id, msgspec.json.decode(frame.data, type=_Progress).progress)
                case _:
                    return None
        except (msgspec.MsgspecError, RecursionError) as error:
            raise NotWhisperd(self._calls.url, error) from None

    def _task(self, id: str, task: Task) -> Event | None:
        self.over = task.finished
        news = task.status != self._status
        self._status = task.status
        return TaskEvent(id, task) if news else None

    def _went_on(self, id: str, progress: float) -> Event | None:
        news = progress != self._progress
        self._progress = progress
        return ProgressEvent(id, progress) if news else None
