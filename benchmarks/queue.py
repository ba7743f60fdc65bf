"""How fast the queue is, beside what a user would take instead, and whether it stays so as the work grows.

    python -m benchmarks.queue [--rounds 5] [--seconds 0.7] [--sizes 1000 100000] [--big] [--json FILE]
        [--bullmq FOLDER]              one with `npm install bullmq ioredis` in it: BullMQ takes part then, on
                                       a Redis of its own with `appendfsync always`
        [--python-peers PYTHON]        an interpreter that has huey, litequeue and persist-queue
        [--folder DIR]                 on the disk that is to be measured

All in process: no HTTP, no audio. Whatever is acknowledged is on the disk. A peer after the other in each
round, medians over the rounds, and how many times as fast as the peer we are. A task of ours is planned and
then has one chunk, so to complete one takes two claims and two ends. `--big` adds a million tasks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from time import time

from rich.console import Console
from rich.table import Table

from benchmarks.filled import fill
from benchmarks.peers.queue_python import DURABLE
from benchmarks.peers.queues import QueuePeer, bullmq, of_python, ours
from whisperd.db import Database
from whisperd.events import Events
from whisperd.queue import SqliteQueue

CONSUMERS = 16
RATES = {
    "submit, 1 producer": ("submit", {"producers": 1}),
    "submit, 16 producers": ("submit", {"producers": 16}),
    "submit, 64 producers": ("submit", {"producers": 64}),
    f"complete, {CONSUMERS} consumers": ("work", {"consumers": CONSUMERS}),
}
WAITS = {
    "claim": ("claim", 300),
    "stats": ("stats", 100),
    "list, first": ("first", 100),
    "list, filtered": ("filtered", 100),
    "list, middle": ("deep", 100),
}
SIZES, BIG = (1000, 100_000), 1_000_000
MEASURED = 4000  # tasks, for the size of the file
Rounds = dict[str, dict[str, list[dict[str, float]]]]  # what was asked, of whom: the answers
Sizes = dict[str, Rounds]  # what was asked, at how many tasks, of whom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--big", action="store_true")
    parser.add_argument("--bullmq", metavar="FOLDER", type=Path)
    parser.add_argument("--python-peers", metavar="PYTHON")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sizes = [*given.sizes, *([BIG] if given.big else [])]
    console = Console(width=110)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rates = measure_rates(given, Path(folder))
        console.print(rates_table(rates))
        waits = measure_waits(given, sizes, Path(folder))
        console.print(waits_table(waits))
        room = asyncio.run(measure_room(Path(folder) / "room"))
    console.print("The file: " + ", ".join(f"{value:,.0f} {name}" for name, value in room.items()))
    for name in DURABLE if given.python_peers else ():
        console.print(f"{name}: {DURABLE[name]}")
    if not (given.bullmq and given.python_peers):
        console.print("Not every peer took part: see --help.")
    if given.json:
        given.json.write_text(json.dumps({"rates": rates, "waits": waits, "room": room}, indent=1))


def measure_rates(given: argparse.Namespace, folder: Path) -> Rounds:
    asked = {what: (do, {**how, "seconds": given.seconds}) for what, (do, how) in RATES.items()}
    with ExitStack() as stack:
        peers = [*start(stack, given, folder), *start_python(stack, given, folder)]
        found: Rounds = {what: {peer.name: [] for peer in peers} for what in asked}
        for _ in range(given.rounds):
            for what, (do, how) in asked.items():
                for peer in peers:
                    found[what][peer.name].append(peer.ask(do, **how))
    return found


def measure_waits(given: argparse.Namespace, sizes: Sequence[int], folder: Path) -> Sizes:
    """All are filled before the first round, and again to the same size before each."""
    with ExitStack() as stack:
        peers = [(size, peer) for size in sizes for peer in start(stack, given, folder)]
        found: Sizes = {what: {str(size): {} for size in sizes} for what in WAITS}
        for _ in range(given.rounds):
            for size, peer in peers:
                peer.ask("fill", tasks=size)
            for what, (do, times) in WAITS.items():
                for size, peer in peers:
                    answer = peer.ask(do, times=times)
                    found[what][str(size)].setdefault(peer.name, []).append(answer)
    return found


def start(stack: ExitStack, given: argparse.Namespace, within: Path) -> list[QueuePeer]:
    peers = [stack.enter_context(ours(_folder(within)))]
    if given.bullmq:
        peers.append(stack.enter_context(bullmq(given.bullmq, _folder(within))))
    return peers


def start_python(stack: ExitStack, given: argparse.Namespace, within: Path) -> list[QueuePeer]:
    names = DURABLE if given.python_peers else ()
    return [stack.enter_context(of_python(given.python_peers, name, _folder(within))) for name in names]


def _folder(within: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=within))


async def measure_room(folder: Path) -> dict[str, float]:
    """Bytes of the file a task of 24 s: three of four have a transcript of 60 words that can be searched."""
    sound = folder.with_suffix(".wav")
    sound.touch()
    fill(folder, MEASURED, 10, sound)
    path = folder / "whisperd.db"
    full = path.stat().st_size
    async with Database(path) as db:
        queue = SqliteQueue(db, Events())
        while await queue.prune(time() + 1, time() + 1):
            pass
        while await queue.index():
            pass
    with closing(sqlite3.connect(path)) as conn:
        pages, free, size = (
            conn.execute(f"pragma {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
    return {
        "bytes a task": full / MEASURED,
        "after retention": pages * size / MEASURED,
        "of which free for new ones": free * size / MEASURED,
    }


def rates_table(found: Rounds) -> Table:
    table = _table("More is better", "", "we do", "a second", "processor, µs each")
    for what, answers in found.items():
        mine = _rate(next(iter(answers.values())))
        table.add_section()
        for name, of_one in answers.items():
            cpu = median(answer["cpu"] / max(1, answer["count"]) for answer in of_one)
            rate = _rate(of_one)
            table.add_row(what, name, f"{mine / rate:.2f} x", f"{rate:,.0f}", f"{1e6 * cpu:,.0f}")
    return table


def _rate(answers: Sequence[dict[str, float]]) -> float:
    return median(answer["count"] / answer["seconds"] for answer in answers)


def waits_table(found: Sizes) -> Table:
    table = _table(
        "Less is better", "tasks", "of the first", "ms, p50", "ms, p99", "BullMQ takes", "ms, p50", "ms, p99"
    )
    for what, answers in found.items():
        table.add_section()
        first = next(iter(answers.values()))["whisperd"]
        for size, of_both in answers.items():
            mine, peer = of_both["whisperd"], of_both.get("BullMQ", [])
            grown = _times(mine, first)
            cells = [*_waits(mine), _times(peer, mine), *_waits(peer)] if all(peer) and peer else _waits(mine)
            table.add_row(what, f"{int(size):,}", grown, *cells)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    return table


def _times(these: Sequence[dict[str, float]], those: Sequence[dict[str, float]]) -> str:
    return " / ".join(f"{_wait(these, rank) / _wait(those, rank):.2f}" for rank in ("p50", "p99")) + " x"


def _waits(answers: Sequence[dict[str, float]]) -> list[str]:
    return [f"{1e3 * _wait(answers, rank):.2f}" for rank in ("p50", "p99")]


def _wait(answers: Sequence[dict[str, float]], rank: str) -> float:
    return median(answer[rank] for answer in answers)


if __name__ == "__main__":
    main()
