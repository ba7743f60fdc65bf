"""How much audio a second is transcribed, and how well, beside what a user would take instead.

    python -m benchmarks.transcription [--work short long mixed] [--rounds 5] [--clips 200] [--json FILE]
        [--faster-whisper PYTHON]      an interpreter that has it: its peers take part then
        [--whisper-cpp FOLDER]         build/bin of whisper.cpp: whisper-cli and whisper-server take part then

The same weights and threads for all, in turn, a round after the other; medians, and the ratio to the first.
Work: `short`, clips of at most 15 s, by 8 clients at once where there is a server; `long`, the corpus joined
to one file of 20 minutes or more; `mixed`, that file and half of the clips. Sounds are WAV, mono, 16 kHz, so
that nobody is measured at decoding. Every speed has its word error rate beside it: what is bought with errors
does not count. Of ours it says what the daemon adds: its processor time beside that of its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from time import perf_counter

from rich.console import Console
from rich.table import Table

from benchmarks.clips import Clip, english_clips, errors, joined, samples, wav
from benchmarks.peers import Peer, Starts
from benchmarks.peers.faster_whisper import faster_whisper
from benchmarks.peers.ours import whisperd
from benchmarks.peers.whisper_cpp import whisper_cli, whisper_server
from whisperd import models
from whisperd.config import load

SHORT_SECONDS, LONG_SECONDS = 15.0, 1200.0


@dataclass
class Work:
    name: str
    clips: list[Clip] = field(default_factory=list)  # as WAV

    @property
    def seconds(self) -> float:
        return sum(clip.seconds for clip in self.clips)


@dataclass
class Score:
    name: str
    seconds: list[float] = field(default_factory=list)  # of each round
    wer: float = 0.0
    overhead: list[float] = field(default_factory=list)  # of ours; see Whisperd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", nargs="+", choices=["short", "long", "mixed"], default=["short", "long"])
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--faster-whisper", metavar="PYTHON")
    parser.add_argument("--ct2-model", help="the same weights as a CTranslate2 folder", type=Path)
    parser.add_argument("--whisper-cpp", metavar="FOLDER", type=Path)
    parser.add_argument("--engines", nargs="+", default=["ctranslate2", "whisper.cpp"], help="of ours")
    parser.add_argument("--no-cli", action="store_true", help="without whisper-cli, the slowest")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = {}
        warm = Path(folder, "warm.wav")
        warm.write_bytes(wav(samples(min(english_clips(), key=lambda clip: clip.seconds).path)))
        for work in works(Path(folder), given.work, given.clips):
            scores = measure(work, peers(given, warm), given.rounds)
            show(work, scores)
            figures[work.name] = [vars(score) | {"audio": work.seconds} for score in scores]
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))


def works(folder: Path, names: Sequence[str], count: int) -> Iterator[Work]:
    every = list(english_clips())
    short = list(islice(cycle(_wavs(folder, [c for c in every if c.seconds <= SHORT_SECONDS])), count))
    if "short" in names:
        yield Work("short", short)
    if "long" in names or "mixed" in names:
        whole = joined(folder / "long.wav", every, LONG_SECONDS)
        if "long" in names:
            yield Work("long", [whole])
        if "mixed" in names:
            yield Work("mixed", [whole, *short[: count // 2]])


def peers(given: argparse.Namespace, warm: Path) -> list[Starts]:
    path = str(models.find(given.model, load().models_dir).path)
    threads, found = given.threads, []
    found += [whisperd(engine, given.model, warm) for engine in given.engines]
    if given.faster_whisper:
        ct2 = str(given.ct2_model or given.model)
        found += [faster_whisper(given.faster_whisper, ct2, threads, batch, warm) for batch in (0, 8)]
    if given.whisper_cpp:
        if not given.no_cli:
            found.append(whisper_cli(given.whisper_cpp, path, threads))
        found.append(whisper_server(given.whisper_cpp, path, threads, warm))
    return found


def measure(work: Work, starts: Sequence[Starts], rounds: int) -> list[Score]:
    """All are started before the first round, and idle while another works."""
    with ExitStack() as stack:
        running: list[Peer] = [stack.enter_context(start) for start in starts]
        scores = [Score(peer.name, overhead=getattr(peer, "overhead", [])) for peer in running]
        for _ in range(rounds):
            for peer, score in zip(running, scores, strict=True):
                began = perf_counter()
                texts = peer.transcribe([clip.path for clip in work.clips])
                score.seconds.append(perf_counter() - began)
                score.wer = errors([clip.reference for clip in work.clips], texts).wer
    return scores


def show(work: Work, scores: Sequence[Score]) -> None:
    table = Table(title=f"{work.name}: {len(work.clips)} files, {work.seconds:.0f} s of speech")
    for column in ("", "the first is", "x real time", "WER %", "rounds, s"):
        table.add_column(column, justify="left" if not column else "right")
    for score in scores:
        spent = median(score.seconds)
        table.add_row(
            score.name,
            f"{spent / median(scores[0].seconds):.2f} x",
            f"{work.seconds / spent:.1f}",
            f"{100 * score.wer:.2f}",
            f"{min(score.seconds):.1f} to {max(score.seconds):.1f}",
        )
    Console().print(table)
    for score in scores:
        if score.overhead:
            print(
                f"{score.name}: the daemon used {median(score.overhead):.1%} of its workers' processor time"
            )


def _wavs(folder: Path, clips: Sequence[Clip]) -> list[Clip]:
    made = []
    for number, clip in enumerate(clips):
        path = folder / f"{number}.wav"
        path.write_bytes(wav(samples(clip.path)))
        made.append(Clip(path, clip.seconds, clip.reference))
    return made


if __name__ == "__main__":
    main()
