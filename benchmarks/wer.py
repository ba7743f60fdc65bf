"""Word error rate of whisperd beside plain whisper.cpp over the whole file, on the same weights and audio.

    python -m benchmarks.wer [--model tiny.en] [--clips N] [--json FILE]

Over the English clips of the corpus with a reference that may be used for WER. Scored by jiwer over
Whisper's English normaliser, all clips as one text (errors ÷ reference words). whisper.cpp runs as its
library does by default (greedy), and as its command line does (beam search of 5), one pass over each file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import _pywhispercpp as cpp
import jiwer
import numpy as np
from rich.console import Console
from rich.progress import track as progress
from rich.table import Table

from benchmarks.clips import Clip, english_clips, errors, samples
from whisperd import models
from whisperd.config import load
from whisperd.embedded import embedded
from whisperd.task import Options


@dataclass
class Score:
    name: str
    texts: list[str]
    seconds: float

    def wer(self, clips: list[Clip]) -> jiwer.WordOutput:
        return errors([clip.reference for clip in clips], self.texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--clips", type=int, default=0, help="only the first N clips")
    parser.add_argument("--only", default="", help="only clips whose path holds this")
    parser.add_argument("--json", type=Path, help="write the figures there, with every text")
    args = parser.parse_args()
    clips = [clip for clip in english_clips() if args.only in str(clip.path)][: args.clips or None]
    config = load(None, dict(os.environ), {"workers.model": args.model})
    ours = asyncio.run(_whisperd(clips, config))
    path = str(models.find(args.model, config.models_dir).path)
    peers = [_plain("whisper.cpp, greedy", path, clips, 1), _plain("whisper.cpp, 5 beams", path, clips, 5)]
    _report(clips, [ours, *peers], args.json)


async def _whisperd(clips: list[Clip], config: object) -> Score:
    async with embedded(config) as here:
        began = perf_counter()
        tasks = [await here.submit_file(clip.path, Options(language="en")) for clip in clips]
        texts = []
        for task in track(tasks, "whisperd"):
            await here.wait(task.id)
            texts.append((await here.transcript(task.id)).text)
    return Score("whisperd", texts, perf_counter() - began)


def _plain(name: str, model: str, clips: list[Clip], beams: int) -> Score:
    """One whisper_full over the whole file, on one thread: two spin against each other on a busy machine."""
    cpp.whisper_log_set(lambda level, text: None)
    context = cpp.whisper_init_from_file_with_params(model, cpp.whisper_context_default_params())
    texts, seconds = [], 0.0
    for clip in track(clips, name):
        heard = samples(clip.path).astype(np.float32) / 32768
        began = perf_counter()
        texts.append(_whole(context, heard, beams))
        seconds += perf_counter() - began
    return Score(name, texts, seconds)


def track(items: list, name: str) -> Iterator:
    """A progress bar on standard error."""
    return progress(items, name, console=Console(stderr=True))


def _whole(context: object, heard: np.ndarray, beams: int) -> str:
    sampling = cpp.whisper_sampling_strategy
    greedy, beam = sampling.WHISPER_SAMPLING_GREEDY, sampling.WHISPER_SAMPLING_BEAM_SEARCH
    params = cpp.whisper_full_default_params(beam if beams > 1 else greedy)
    params.greedy = {"best_of": 5}
    params.n_threads = 1
    params.language = "en"
    params.print_progress = params.print_realtime = params.print_timestamps = False
    if code := cpp.whisper_full(context, params, heard, len(heard)):
        raise SystemExit(f"whisper.cpp returned {code}")
    count = cpp.whisper_full_n_segments(context)
    text = b"".join(cpp.whisper_full_get_segment_text(context, n) for n in range(count))
    return text.decode(errors="replace")


def _report(clips: list[Clip], scores: list[Score], path: Path | None) -> None:
    audio = sum(clip.seconds for clip in clips)
    table = Table(title=f"{len(clips)} English clips, {audio:.0f} s of speech")
    for column in ("", "WER %", "substituted", "deleted", "inserted", "× real time"):
        table.add_column(column, justify="left" if not column else "right")
    for score in scores:
        found = score.wer(clips)
        counts = (found.substitutions, found.deletions, found.insertions)
        table.add_row(
            score.name, f"{100 * found.wer:.2f}", *(str(n) for n in counts), f"{audio / score.seconds:.1f}"
        )
    Console().print(table)
    gap = 100 * (scores[0].wer(clips).wer - min(score.wer(clips).wer for score in scores[1:]))
    print(f"whisperd against the better of the others: {gap:+.2f} points (at most +0.50 is promised)")
    if path:
        path.write_text(json.dumps(_figures(clips, scores), indent=1))
    sys.exit(gap > 0.5)


def _figures(clips: list[Clip], scores: list[Score]) -> dict[str, object]:
    return {
        score.name: {
            "wer": score.wer(clips).wer,
            "seconds": score.seconds,
            "texts": {clip.path.name: text for clip, text in zip(clips, score.texts, strict=True)},
        }
        for score in scores
    }


if __name__ == "__main__":
    main()
