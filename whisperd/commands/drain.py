"""The command drain: a host that is emptied, and how far that is."""

from __future__ import annotations

import sys
from math import inf
from time import monotonic, sleep
from typing import TYPE_CHECKING, Annotated

import typer

from whisperd.commands import DEFAULT_URL, Json, Url, client, command
from whisperd.terminal import show_json

if TYPE_CHECKING:
    from whisperd.client import Client, Draining

app = typer.Typer()
LOOK_SECONDS = 0.5
HAND_BACK_SECONDS = 10.0  # that it may take once the time is over

Off = Annotated[bool, typer.Option("--off", help="Take work again.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=31_536_000,
        help="Seconds after which what runs is handed back to other hosts; without them it stays, and the "
        "command ends.",
        show_default=False,
    ),
]


@command(app, "drain", "The daemon")
def drain(off: Off = False, timeout: Timeout = None, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Empty this host before it is stopped, and wait until it is.

    It takes nothing new and is not ready any more, so that a load balancer goes to others; what runs is
    finished. Where hosts share a queue, what nobody has begun goes back to it, and what is still sent to
    this host goes there, too. A host with a queue of its own finishes all it has, and refuses what is sent.

    Exit status 1 when it is not empty by the end: --timeout came, it is paused with tasks of its own, or
    somebody else used --off. Ctrl-C ends the waiting only. A restart ends it, too.

      $ whisperd drain --timeout 300 && sudo systemctl stop whisperd
    """
    with client(url) as daemon:
        state = daemon.undrain() if off else _emptied(daemon, timeout)
    if json:
        show_json(state)
    else:
        print("takes work again" if off else "drained" if state.drained else f"not drained: {_left(state)}")
    raise typer.Exit(not (off or state.drained))


def _emptied(daemon: Client, timeout: float | None) -> Draining:
    """Once it is, or cannot be waited for; what is left is told as it changes."""
    state, told = daemon.drain(timeout), ""
    ends = inf if timeout is None else monotonic() + timeout + HAND_BACK_SECONDS
    while state.draining and not (state.drained or state.paused) and monotonic() < ends:
        if (left := _left(state)) != told:
            print(f"waiting: {left}", file=sys.stderr)
            told = left
        sleep(LOOK_SECONDS)
        state = daemon.draining()
    return state


def _left(state: Draining) -> str:
    if not state.draining:
        return "somebody has ended it"
    left = f"{state.processing} processing, {state.queued} queued"
    return f"{left}, and it is paused: `whisperd resume`" if state.paused else left
