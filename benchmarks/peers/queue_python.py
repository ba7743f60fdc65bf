"""Queues of Python in SQLite files, in an interpreter that has them: the other side of queues.py.

PYTHON queue_python.py huey|litequeue|persist-queue FOLDER
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from time import perf_counter, process_time
from typing import Any

DURABLE = {  # the most durable setting that each one offers, and what a claim leaves of a task
    "huey": "fsync=True (WAL, synchronous=full); a task is gone once it is claimed",
    "litequeue": "synchronous=full set by hand (its own is normal, which a power cut undoes)",
    "persist-queue": "SQLiteAckQueue (WAL, synchronous=full)",
}
TASK = {"audio": "call.wav", "size": 1_000_000, "sha256": "0" * 64, "model": "tiny.en", "tenant": "default"}
Verb = Callable[[], Any]


def huey(folder: Path) -> tuple[Callable[[], tuple[Verb, Verb]], Verb]:
    from huey import SqliteHuey

    queue = SqliteHuey(filename=str(folder / "huey.db"), fsync=True)

    @queue.task()
    def transcribe(task: dict[str, Any]) -> None:
        """Nothing, and at once."""

    def one() -> bool:
        task = queue.dequeue()
        return task is not None and (queue.execute(task), True)[1]

    return lambda: (lambda: transcribe(TASK), one), queue.pending_count


def litequeue(folder: Path) -> tuple[Callable[[], tuple[Verb, Verb]], Verb]:
    from litequeue import LiteQueue

    def connected() -> LiteQueue:
        queue = LiteQueue(folder / "lite.db")
        queue.conn.execute("pragma synchronous = full")
        return queue

    def verbs() -> tuple[Verb, Verb]:
        queue = connected()

        def one() -> bool:
            message = queue.pop()
            return message is not None and (queue.done(message.message_id), True)[1]

        return lambda: queue.put(json.dumps(TASK)), one

    return verbs, connected().qsize


def persist_queue(folder: Path) -> tuple[Callable[[], tuple[Verb, Verb]], Verb]:
    from persistqueue import Empty, SQLiteAckQueue

    queue = SQLiteAckQueue(str(folder), multithreading=True)

    def one() -> bool:
        try:
            found = queue.get(block=False, raw=True)
        except Empty:
            return False
        queue.ack(id=found["pqid"])
        return True

    return lambda: (lambda: queue.put(TASK), one), lambda: queue.size


def together(verbs: list[Verb], seconds: float) -> dict[str, float]:
    """Each in a thread of its own, again and again until the time is over or it has nothing left."""
    counts: list[int] = []

    def go(verb: Verb) -> None:
        count = 0
        while perf_counter() < ends and verb() is not False:
            count += 1
        counts.append(count)

    cpu, began = process_time(), perf_counter()
    ends = began + seconds
    threads = [threading.Thread(target=go, args=(verb,)) for verb in verbs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"count": sum(counts), "seconds": perf_counter() - began, "cpu": process_time() - cpu}


def timed(verb: Verb, times: int) -> dict[str, float]:
    spent = []
    for _ in range(times):
        began = perf_counter()
        verb()
        spent.append(perf_counter() - began)
    ranks = quantiles(spent, n=100)
    return {"p50": ranks[49], "p99": ranks[98]}


def main() -> None:
    made = {"huey": huey, "litequeue": litequeue, "persist-queue": persist_queue}[sys.argv[1]]
    verbs, count = made(Path(sys.argv[2]))
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, float] = {}
        if asked["do"] == "submit":
            answer = together([verbs()[0] for _ in range(asked["producers"])], asked["seconds"])
        elif asked["do"] == "work":
            answer = together([verbs()[1] for _ in range(asked["consumers"])], asked["seconds"])
        elif asked["do"] == "stats":
            answer = timed(count, asked["times"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
