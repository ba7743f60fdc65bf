"""`watch` on a terminal: drawn anew when there is news, a key or another size, and never else."""

from __future__ import annotations

import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console, Group
from rich.live import Live

from whisperd.client import Client, ClientError
from whisperd.monitor.courier import Courier, News, reason
from whisperd.monitor.keyboard import struck, unbuffered
from whisperd.monitor.keys import press
from whisperd.monitor.model import Look, Model
from whisperd.monitor.view import in_ascii, screen

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(client: Client, interval: float, console: Console) -> None:
    """Until q, Ctrl-C or SIGTERM. The terminal is as it was before, however this ends."""
    model = Model(client.url)
    keys = sys.stdin.fileno()
    with _bell() as (heard, ring):
        courier = Courier(client, interval, ring)
        courier.start()
        try:
            with unbuffered(keys), Live(console=console, screen=True, auto_refresh=False) as live:
                while not model.over:
                    _draw(live, model)
                    ready, _, _ = select.select([keys, heard], [], [])
                    if heard in ready:
                        _hear(heard.recv(4096), model, courier)
                    if keys in ready:
                        _obey(struck(keys), model, courier)
        finally:
            courier.stop()


def _draw(live: Live, model: Model) -> None:
    console = live.console
    lines = screen(model, console.width, console.height)
    live.update(Group(*(map(in_ascii, lines) if console.options.ascii_only else lines)), refresh=True)


def _hear(numbers: bytes, model: Model, courier: Courier) -> None:
    model.over |= any(number in ENDS for number in numbers)
    for news in courier.take():
        _tell(model, news)


def _tell(model: Model, news: News) -> None:
    if isinstance(news, Look):
        model.saw(news)
    elif isinstance(news, str):
        model.said = news
    elif isinstance(news, ClientError):
        model.trouble = reason(news)
    else:
        raise news


def _obey(keys: list[str], model: Model, courier: Courier) -> None:
    for key in keys:
        order = press(model, key)
        courier.wish = model.wish
        if order is not None:
            courier.send(order)


@contextmanager
def _bell() -> Iterator[tuple[socket.socket, Callable[[], None]]]:
    """What can be read when a signal came, which is then its number, or when it was rung, 0.

    SIGINT comes so too: it may end the call only where the terminal can be given back.
    """
    heard, rung = socket.socketpair()
    with heard, rung:
        heard.setblocking(False)
        rung.setblocking(False)
        old = signal.set_wakeup_fd(rung.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, lambda *_: None) for number in (*ENDS, signal.SIGWINCH)}
        before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # half a screen for the shell
        try:
            yield heard, lambda: _ring(rung)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(old)


def _ring(bell: socket.socket) -> None:
    with suppress(OSError):  # full: it rings already; closed: nobody listens any more
        bell.send(b"\0")
