"""`whisperd watch`: the queue and the workers, live, and keys to act on them.

`model` is what is known, `view` draws it (pure), `keys` says what a key does to it, `courier` asks the daemon
and carries orders to it in a thread of its own, `live` joins them on a terminal, and `lines` tells the same
where there is none. What is kept is bounded, however long it runs and however much happens.
"""

from __future__ import annotations

import os

from rich.console import Console

from whisperd.client import Client
from whisperd.monitor.courier import look
from whisperd.monitor.lines import tell
from whisperd.monitor.live import run

__all__ = ["look", "watch"]


def watch(client: Client, interval: float) -> None:
    """Looks every `interval` seconds: until q on a terminal, else until somebody stops it."""
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal and os.isatty(0):
        run(client, interval, console)
    else:
        tell(client, interval)
