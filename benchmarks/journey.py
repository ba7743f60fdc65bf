"""Where each millisecond of a five-second clip goes, from the socket to the answer, on an idle daemon.

    python -m benchmarks.journey [--tasks 20] [--json FILE]

Sends one clip after another, each a bit different, waits for it with a long poll, and reads its timeline;
medians. What happens in the worker within a step is measured here, by the same functions, on the same clips.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from datetime import datetime
from pathlib import Path
from statistics import median

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.clips import variants
from benchmarks.daemon import a_daemon
from whisperd.engine.audio import Limits, decode
from whisperd.engine.speech import plan_cuts

SECONDS = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    clips = list(variants(SECONDS, given.tasks + 1))
    with a_daemon() as daemon, httpx.Client(base_url=daemon.url, timeout=60, trust_env=False) as client:
        _journey(client, clips[0])  # to be warm
        journeys = [_journey(client, clip) for clip in clips[1:]]
    steps = {name: median(journey[name] for journey in journeys) for name in journeys[0]}
    _show(steps)
    if given.json:
        given.json.write_text(json.dumps(steps, indent=1))


def _journey(client: httpx.Client, clip: bytes) -> dict[str, float]:
    """Milliseconds, by step. Times of the timeline are whole milliseconds."""
    sent = time.time()
    task = client.post("/tasks/transcription", files={"file": ("a.wav", clip)}).raise_for_status().json()
    accepted = time.time()
    done = client.get(f"/tasks/{task['task_id']}?wait=60").raise_for_status().json()
    answered = time.time()
    assert done["status"] == "completed", done
    events = client.get(f"/tasks/{task['task_id']}/timeline").json()["events"]
    at = {event["kind"]: datetime.fromisoformat(event["at"]).timestamp() for event in events}
    work = {event["kind"]: event["seconds"] or 0.0 for event in events}
    decoding, hearing = _plan(clip)
    seconds = {
        "from the socket to the queue": at["submitted"] - sent,
        "   (and to the answer 202)": accepted - at["submitted"],
        "to the claim by a worker": at["started"] - at["submitted"],
        "decoding": decoding,
        "finding speech": hearing,
        "rest of the plan": at["planned"] - at["started"] - decoding - hearing,
        "to the chunk's claim": at["chunk"] - work["chunk"] - at["planned"],
        "transcription": work["chunk"],
        "from the last commit to the answer": answered - max(at.values()),
        "all of it": answered - sent,
    }
    return {name: 1000 * value for name, value in seconds.items()}


def _plan(clip: bytes) -> tuple[float, float]:
    """Seconds for decoding, and for finding speech."""
    pcm = io.BytesIO()
    began = time.perf_counter()
    decode(io.BytesIO(clip), pcm, split=False, limits=Limits(), tick=lambda seconds: None)
    decoded = time.perf_counter()
    plan_cuts(np.frombuffer(pcm.getvalue(), np.int16).reshape(-1, 1), vad=True, tick=lambda seconds: None)
    return decoded - began, time.perf_counter() - decoded


def _show(steps: dict[str, float]) -> None:
    table = Table(title=f"a clip of {SECONDS:.0f} s, milliseconds, medians")
    table.add_column("")
    table.add_column("ms", justify="right")
    for name, ms in steps.items():
        table.add_row(name, f"{ms:.1f}", end_section=name == list(steps)[-2])
    Console().print(table)


if __name__ == "__main__":
    main()
