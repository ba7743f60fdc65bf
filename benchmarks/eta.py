"""How good eta_seconds is: a mixed queue of tasks against a real daemon, foretold and then waited for.

    python -m benchmarks.eta shared/corpus/speech
    python -m benchmarks.eta shared/corpus/speech --load 0.8 --order lifo
    python -m benchmarks.eta shared/corpus/speech --priorities 0

Clips of all lengths, in three priorities, of two tenants, to a daemon that has done a few before, in the
language of its model: one that does not know it goes round, for ten times as long as another. They are sent
one after the other without a pause, or at random times that keep the machine busy for this part of the time
(`--load`). Compared with what came are the eta_seconds of each 202, which knows nothing of what is sent after
it and may overtake it (of a line of several priorities without a pause this is most of the error, whatever is
known of the work), and those given once all are sent.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import sleep, time

import av

from benchmarks.daemon import a_daemon
from whisperd.client import Client, Task

WARM_UP = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--order", choices=["fifo", "lifo"], default="fifo")
    parser.add_argument("--load", type=float, default=0.0, help="0: all at once")
    parser.add_argument("--priorities", default="0,0,0,1,5", help="to choose from, each as likely")
    given = parser.parse_args()
    clips = in_english(given.folder)
    priorities = [int(priority) for priority in given.priorities.split(",")]
    chance = random.Random(7)
    with a_daemon(CACHE__ENABLED="false", QUEUE__ORDER=given.order) as daemon:
        speed = warmed_up(daemon.client, chance.sample(clips, WARM_UP))
        chosen = [chance.choice(clips) for _ in range(given.tasks)]
        each = sum(map(audio_seconds, chosen)) / len(chosen) / speed
        every = each / given.load if given.load else 0.0
        print(f"{given.tasks} tasks, {given.order}, priorities {given.priorities}", flush=True)
        print(f"one every {every:.1f} s; one takes {each:.1f} s of all workers", flush=True)
        run(daemon.client, chance, chosen, every, priorities)


def in_english(folder: Path) -> Sequence[Path]:
    with (folder / "manifest.jsonl").open() as manifest:
        clips = [json.loads(line) for line in manifest]
    return sorted(folder / clip["file"] for clip in clips if clip["language"] == "en")


def warmed_up(client: Client, clips: Sequence[Path]) -> float:
    """The seconds of audio in a second when all workers are busy."""
    began = time()
    for clip in clips:
        client.submit(clip)
    while client.stats().processing + client.stats().queued:
        client.wait(client.list(status="queued,processing", limit=1)[0].task_id)
    return sum(map(audio_seconds, clips)) / (time() - began)


def audio_seconds(path: Path) -> float:
    with av.open(str(path)) as file:
        return (file.duration or 0) / av.time_base


def run(
    client: Client,
    chance: random.Random,
    clips: Sequence[Path],
    every: float,
    priorities: Sequence[int],
) -> None:
    at_submit = {}
    for clip in clips:
        priority, tenant = chance.choice(priorities), chance.choice(("studio", "desk"))
        task = client.submit(clip, priority=priority, tenant=tenant)
        at_submit[task.task_id] = ends(task)
        sleep(chance.expovariate(1 / every) if every else 0.0)
    asked_again = {
        task.task_id: ends(task) for task in client.list(limit=len(clips)) if task.task_id in at_submit
    }
    sent = time()
    done = [client.wait(task_id) for task_id in at_submit]
    report("at submit", at_submit, {task.task_id: (seconds(task.created_at), task) for task in done})
    report("asked again when all were sent", asked_again, {task.task_id: (sent, task) for task in done})


def ends(task: Task) -> float | None:
    return None if task.eta_seconds is None else time() + task.eta_seconds


def seconds(moment: datetime | None) -> float:
    return (moment or datetime.now(UTC)).timestamp()


def report(what: str, foretold: Mapping[str, float | None], came: Mapping[str, tuple[float, Task]]) -> None:
    errors = []
    for task_id, end in foretold.items():
        since, task = came[task_id]
        if end is not None and (took := seconds(task.finished_at) - since) > 0:
            errors.append((end - since - took) / took)
    if not errors:
        print(f"{what}: nothing was foretold of {len(foretold)} tasks")
        return
    parts = sorted(abs(error) for error in errors)
    late = sum(error < 0 for error in errors) / len(errors)
    print(
        f"{what}: {len(errors)} of {len(foretold)} tasks, error median {median(parts):.0%}, p90 "
        f"{parts[int(0.9 * len(parts))]:.0%}, signed {median(errors):+.0%}, {late:.0%} later than foretold"
    )


if __name__ == "__main__":
    main()
