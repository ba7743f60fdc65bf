"""How soon an answer comes: on an idle daemon, and behind a long file that came first.

    python -m benchmarks.latency [--rounds 5] [--seconds 300] [--whisper-cpp FOLDER] [--json FILE]

One clip of 5 s after another, each a bit different, and a file of `--seconds`, the corpus joined. FOLDER is
build/bin of whisper.cpp, whose whisper-server takes part then: it hears one file after the other. Ours has
one worker here, too, so that the clip cannot go to another one. It may wait for the piece of the long file
that is in work, and then takes its own time: the sum of both stands beside what it took. Medians, in seconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

from rich.console import Console
from rich.table import Table

from benchmarks.clips import english_clips, joined, variants
from benchmarks.daemon import a_daemon
from benchmarks.peers import Peer
from benchmarks.peers.whisper_cpp import whisper_server
from whisperd import models
from whisperd.client import Client, SegmentEvent
from whisperd.config import load

CLIP_SECONDS = 5.0
AHEAD_SECONDS = 3.0  # so long the long file is at work when the clip comes
Figures = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--whisper-cpp", metavar="FOLDER", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        long = joined(folder / "long.wav", list(english_clips()), given.seconds).path
        clips = _files(folder, 3 * given.rounds + 1)
        daemon = stack.enter_context(
            a_daemon(WORKERS__COUNT=1, WORKERS__MODEL=given.model, CACHE__ENABLED="false")
        )
        figures = {"whisperd": _ours(daemon.client, long, clips, given.rounds)}
        if given.whisper_cpp:
            path = str(models.find(given.model, load().models_dir).path)
            peer = stack.enter_context(whisper_server(given.whisper_cpp, path, 1, clips[0]))
            figures["whisper-server"] = _peers(peer, long, clips, given.rounds)
    _show(figures)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))


def _files(folder: Path, many: int) -> list[Path]:
    found = []
    for number, sound in enumerate(variants(CLIP_SECONDS, many)):
        found.append(folder / f"clip-{number}.wav")
        found[-1].write_bytes(sound)
    return found


# --- ours ---


def _ours(client: Client, long: Path, clips: Sequence[Path], rounds: int) -> Figures:
    figures: Figures = {}
    _transcribed(client, clips[-1])  # to be warm
    for number in range(rounds):
        figures.setdefault("a clip alone", []).append(_timed(_transcribed, client, clips[number]))
        for what, seconds in _behind(client, long, clips[rounds + number]).items():
            figures.setdefault(what, []).append(seconds)
    return figures


def _transcribed(client: Client, file: Path) -> None:
    client.wait(client.submit(file, language="en").task_id)


def _behind(client: Client, long: Path, clip: Path) -> dict[str, float]:
    began = perf_counter()
    first = client.submit(long, language="en")
    next(event for event in client.events(first.task_id) if isinstance(event, SegmentEvent))
    heard = perf_counter() - began
    sleep(AHEAD_SECONDS)
    behind = _timed(_transcribed, client, clip)
    at_work = client.task(first.task_id).finished_at is None
    assert at_work, "the long file was over before the clip: give more --seconds"
    client.wait(first.task_id)
    pieces = [moment.seconds for moment in client.timeline(first.task_id).events if moment.kind == "chunk"]
    return {
        "the same behind the long file": behind,
        "the longest piece of the long file": max(seconds or 0.0 for seconds in pieces),
        "first words of the long file": heard,
        "the long file, the clip between": perf_counter() - began,
    }


# --- peers ---


def _peers(peer: Peer, long: Path, clips: Sequence[Path], rounds: int) -> Figures:
    """Which tell nothing before a file is over."""
    figures: Figures = {}
    for number in range(rounds):
        figures.setdefault("a clip alone", []).append(_timed(peer.transcribe, [clips[number]]))
        with ThreadPoolExecutor(1) as beside:
            began = perf_counter()
            whole = beside.submit(peer.transcribe, [long])
            sleep(AHEAD_SECONDS)
            behind = _timed(peer.transcribe, [clips[rounds + number]])
            whole.result()
        figures.setdefault("the same behind the long file", []).append(behind)
        figures.setdefault("first words of the long file", []).append(perf_counter() - began)
    return figures


def _timed(work: Callable[..., object], *given: object) -> float:
    began = perf_counter()
    work(*given)
    return perf_counter() - began


def _show(figures: dict[str, Figures]) -> None:
    table = Table(title=f"a clip of {CLIP_SECONDS:.0f} s, medians in seconds, one worker, one thread")
    table.add_column("")
    for name in figures:
        table.add_column(name, justify="right")
    for what in figures["whisperd"]:
        cells = [f"{median(peer[what]):.2f}" if what in peer else "" for peer in figures.values()]
        table.add_row(what, *cells)
    Console().print(table)
    ours = {what: median(seconds) for what, seconds in figures["whisperd"].items()}
    most = ours["the longest piece of the long file"] + ours["a clip alone"]
    part = ours["the same behind the long file"] / most
    print(f"behind the long file: {part:.2f} x of a piece and its own time")


if __name__ == "__main__":
    main()
