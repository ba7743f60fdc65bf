"""Goes to the daemon for `watch`: brings looks, carries orders. Keys never wait for it."""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from time import monotonic

from whisperd.client import Client, ClientError, NotFound, Task
from whisperd.monitor.model import AT_MOST, Look, Order, Wish

NOTHING_MORE = Wish()
KEPT = 16  # news that nobody took; more means that the terminal takes nothing, and will want the newest

News = Look | ClientError | str | Exception  # a look, why there is none, what to say; or what should not be


def look(client: Client, wish: Wish = NOTHING_MORE) -> Look:
    """Raises ClientError."""
    return Look(
        datetime.now(UTC),
        client.stats(),
        client.list(status="processing", limit=AT_MOST),
        sorted(client.list(status="queued", limit=AT_MOST), key=_place),
        client.list(status="failed", limit=AT_MOST),
        client.list(limit=AT_MOST) if wish.newest else (),
        _opened(client, wish.opened) if wish.opened else None,
    )


def _opened(client: Client, task_id: str) -> Task | None:
    try:
        return client.task(task_id)
    except NotFound:  # it has been cleared
        return None


def _place(task: Task) -> int:
    return task.position or sys.maxsize


def reason(error: ClientError) -> str:
    """Its first sentence: what to do about it is no news after the first time."""
    return str(error).partition(". ")[0]


class Courier:
    """A thread of its own. `ring` is called in it whenever there is news to be taken."""

    def __init__(self, client: Client, interval: float, ring: Callable[[], None]) -> None:
        self.wish = Wish()  # of the next look
        self._client = client
        self._interval = interval
        self._ring = ring
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._news: deque[News] = deque(maxlen=KEPT)
        self._over = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="courier", daemon=True).start()

    def stop(self) -> None:
        """It goes no more; an answer that is still awaited is left to itself."""
        self._over = True
        self._orders.put(None)

    def send(self, order: Order) -> None:
        self._orders.put(order)

    def take(self) -> Iterator[News]:
        while self._news:
            yield self._news.popleft()

    def _run(self) -> None:
        try:
            while not self._over:
                due = monotonic() + self._interval
                self._bring(self._looked())
                self._wait(due)
        except Exception as error:
            self._bring(error)

    def _looked(self) -> News:
        try:
            return look(self._client, self.wish)
        except ClientError as error:
            return error

    def _wait(self, due: float) -> None:
        """Until the next look is due, or something was done that it would show."""
        while (seconds := due - monotonic()) > 0:
            try:
                order = self._orders.get(timeout=seconds)
            except queue.Empty:
                return
            if order is None or order.verb == "look":
                return
            self._bring(self._carried_out(order))
            if self._orders.empty():  # keys struck one after another are all obeyed before the next look
                return

    def _carried_out(self, order: Order) -> str:
        try:
            return carry_out(self._client, order)
        except ClientError as error:
            return f"refused: {reason(error)}"

    def _bring(self, news: News) -> None:
        if not self._over:  # what fails because all is being closed is no news
            self._news.append(news)
            self._ring()


def carry_out(client: Client, order: Order) -> str:
    """What to say of it. Raises ClientError."""
    match order.verb:
        case "pause":
            client.pause()
            return "paused: what runs is finished, nothing more is handed out"
        case "resume":
            client.resume()
            return "goes on"
        case "cancel":
            client.cancel(order.task_id)
            return f"cancelled {order.name}"
        case "retry":
            client.retry(order.task_id)
            return f"{order.name} runs again"
        case "priority":
            client.change(order.task_id, priority=order.priority)
            return f"{order.name} has priority {order.priority} now"
    return ""
