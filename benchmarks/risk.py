"""How the shipped rules do: precision and recall on labelled speech, what hearing costs of them, how fast.

    python -m benchmarks.risk [quality] [spoken] [speed] [--json FILE]

quality: the utterances of tests/data/risk, as they are written. spoken: the same, read out by espeak-ng
(from apt) and heard by whisperd with tiny.en; a robot's voice is hard to hear, so this is near the worst. Of
both it prints by category the findings that are right, wrong, missed. speed: 30,000 words against all packs
and 2,000 phrases more, half of them fuzzy, in a process of its own; the time is the best of seven.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

from rich.console import Console
from rich.table import Table

from tests.risk.labelled import PARTS, Score, Utterance, score, utterances
from whisperd.config import load
from whisperd.embedded import embedded
from whisperd.risk.detection import detect
from whisperd.risk.reading import read
from whisperd.risk.rulebook import Rulebook
from whisperd.rulebooks import Rulebooks
from whisperd.task import Options, Segment

WORDS = 30_000  # three hours of speech
PHRASES = 2000
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["quality", "speed"], help="quality, spoken, speed")
    parser.add_argument("--json", type=Path, help="write what was heard there")
    args = parser.parse_args()
    if "quality" in args.what:
        for part in PARTS:
            show(f"{part}, as written", score(shipped(), utterances(part)))
    if "spoken" in args.what:
        spoken(args.json)
    if "speed" in args.what:
        subprocess.run([sys.executable, "-m", "benchmarks.risk", "speed-here"], check=True)
    if "speed-here" in args.what:
        speed()


def shipped() -> Rulebook:
    books = Rulebooks(None)
    if problems := books.reload():
        raise SystemExit("\n".join(map(str, problems)))
    return books.rulebook


def show(title: str, result: Score) -> None:
    table = Table(title=title)
    for column in ("", "right", "wrong", "missed", "precision", "recall"):
        table.add_column(column, justify="left" if not column else "right")
    for category in [*sorted({*result.right, *result.wrong, *result.missed}), None]:
        counts = (result.right, result.wrong, result.missed)
        shown = [str(each[category] if category else each.total()) for each in counts]
        shares = (result.precision(category), result.recall(category))
        table.add_row(category or "all", *shown, *(f"{share:.2f}" for share in shares))
    Console().print(table)


def spoken(path: Path | None) -> None:
    if not shutil.which("espeak-ng"):
        raise SystemExit("spoken needs espeak-ng: apt-get install espeak-ng")
    heard = {}
    for part in PARTS:
        said = utterances(part)
        with TemporaryDirectory() as folder:
            files = [read_out(each, Path(folder) / f"{number}.wav") for number, each in enumerate(said)]
            heard[part] = asyncio.run(hear(files))
        show(f"{part}, spoken and heard", score(shipped(), said, heard[part]))
    if path:
        path.write_text(json.dumps(heard, indent=1))


def read_out(utterance: Utterance, file: Path) -> Path:
    subprocess.run(["espeak-ng", "-v", "en-us", "-s", "150", "-w", file, utterance.text], check=True)
    return file


async def hear(files: Sequence[Path]) -> list[str]:
    """What the engine makes of each."""
    async with embedded(load(None, dict(os.environ), {"workers.model": "tiny.en"})) as here:
        tasks = [await here.submit_file(file, Options(language="en")) for file in files]
        for task in tasks:
            await here.wait(task.id)
        return [(await here.transcript(task.id)).text for task in tasks]


def speed() -> None:
    """Prints the time and the memory that it takes; exit status 1 past a second of a core or 100 MB."""
    segments = call()
    before = resident()
    began = perf_counter()
    packs = [*shipped().packs.values(), read(phrases(segments).encode(), "phrases.toml")]
    rulebook = Rulebook(packs)
    made = perf_counter() - began
    times, costs = [], []
    for _ in range(ROUNDS):
        began, spent = perf_counter(), process_time()
        report = detect(segments, rulebook)
        times.append(perf_counter() - began)
        costs.append(process_time() - spent)
    held = resident() - before
    words = sum(len(segment.text.split()) for segment in segments)
    print(f"{words:,} words, {len(rulebook.rules)} rules, {PHRASES:,} phrases: {len(report.findings)} found")
    print(f"packs read in {made:.2f} s, {held:.0f} MB")
    print(f"searched in {min(times):.2f} s, {min(costs):.2f} s of a core")
    print(*report.rules_errors, sep="\n", end="")
    sys.exit(min(costs) > 1 or held > 100)  # of a core: others may be at work here


def call() -> list[Segment]:
    """A long call of the labelled utterances, over and over in another order, six seconds each."""
    chance = random.Random(8)
    texts = [utterance.text for part in PARTS for utterance in utterances(part)]
    segments: list[Segment] = []
    words = 0
    while words < WORDS:
        start, text = 6.0 * len(segments), chance.choice(texts)
        words += len(text.split())
        speaker = "AB"[len(segments) % 2]
        segments.append(Segment(start=start, end=start + 6, text=text, speaker=speaker, avg_logprob=-0.3))
    return segments


PACK = 'name = "phrases"\nversion = 1\ntitle = "Phrases"\n'
RULE = """
[[rule]]
id = "phrases.{number}"
title = "Phrases"
category = "custom"
severity = "low"
score = 0.1
fuzzy = {fuzzy}
match.any = {phrases}
"""


def phrases(segments: Sequence[Segment]) -> str:
    """A pack with phrases of two words of the call, most of which nobody said; half of them fuzzy."""
    chance = random.Random(9)
    words = {word.strip(".,?") for segment in segments for word in segment.text.split()}
    known = sorted(word for word in words if word.isalpha())
    rules = []
    for number in range(20):
        texts = [f"{chance.choice(known)} {chance.choice(known)}" for _ in range(PHRASES // 20)]
        fuzzy = "true" if number % 2 else "false"
        rules.append(RULE.format(number=number, fuzzy=fuzzy, phrases=json.dumps(texts)))
    return PACK + "".join(rules)


def resident() -> float:
    """Megabytes, at most until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
