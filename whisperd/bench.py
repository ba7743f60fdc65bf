"""How fast this machine transcribes: by model, by engine, by how its cores are shared out among workers.

Each arrangement is run by the daemon's own machinery, on a queue in a temporary folder: what is measured is
what a busy daemon would do. The speech is eleven seconds of Kennedy's inaugural address (public domain).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from msgspec.structs import replace

from whisperd.config import Config
from whisperd.embedded import Embedded, embedded
from whisperd.engine import features
from whisperd.task import Options, State, Task

SAMPLE = Path(__file__).with_name("sample.ogg")
MOST_CLIPS = 200  # of one arrangement
_ON_GPU = (1, 2, 4)  # workers that share it: what one does on the processor, another uses the GPU meanwhile
ALIKE = 0.95  # of the best: what is as good as that


class Arrangement(NamedTuple):
    model: str
    engine: str
    workers: int
    threads: int


class Figures(NamedTuple):
    """`speed`: seconds of audio in a second, of all workers together, kept busy."""

    arrangement: Arrangement
    speed: float
    alone_seconds: float  # that one clip takes with nothing else to do
    clip_seconds: float  # of audio
    rss_bytes: int  # of all workers, at work


class BenchFailed(Exception):
    """A clip was not transcribed."""


def arrangements(models: Sequence[str], cores: int) -> Sequence[Arrangement]:
    """Of each model with each installed engine: from one worker with all threads to one for each core."""
    engines = ["whisper.cpp", "ctranslate2"] if features.has_ctranslate2() else ["whisper.cpp"]
    return [
        Arrangement(model, engine, count, max(1, cores // count))
        for model in models
        for engine in engines
        for count in (
            _ON_GPU if features.on_gpu(engine) else sorted({1, cores // 4 or 1, cores // 2 or 1, cores})
        )
    ]


async def measured(
    config: Config, wanted: Sequence[Arrangement], clip: Path, seconds: float
) -> AsyncIterator[Figures]:
    """Run each for about so long. Raises BenchFailed, and what `embedded` does."""
    for one in wanted:
        workers = replace(
            config.workers, count=one.workers, threads=one.threads, engine=one.engine, model=one.model
        )
        cache, models = (
            replace(config.cache, enabled=False),
            replace(config.models, preload=(), ttl_seconds=0),
        )
        async with embedded(replace(config, workers=workers, cache=cache, models=models)) as here:
            yield await _figures(here, one, clip, seconds)


async def _figures(here: Embedded, one: Arrangement, clip: Path, seconds: float) -> Figures:
    await _run(here, clip, one.workers)  # so that each has its model, and its memory
    began = monotonic()
    (task,) = await _run(here, clip, 1)
    alone = monotonic() - began
    rounds = math.ceil(seconds / alone)
    clips = max(2 * one.workers, min(MOST_CLIPS, rounds * one.workers))
    began = monotonic()
    await _run(here, clip, clips)
    took = monotonic() - began
    length = task.audio.duration or 0.0
    rss = sum(worker.rss_bytes or 0 for worker in here.workers())
    return Figures(one, clips * length / took, alone, length, rss)


async def _run(here: Embedded, clip: Path, times: int) -> Sequence[Task]:
    submitted = [await here.submit_file(clip, Options()) for _ in range(times)]
    tasks = [await here.wait(task.id) for task in submitted]
    for task in tasks:
        if task.state != State.COMPLETED:
            why = task.error.message if task.error else f"it was {task.state}"
            raise BenchFailed(f"{clip.name} was not transcribed: {why}")
    return tasks


def best(figures: Sequence[Figures]) -> Sequence[Figures]:
    """Of each model, in their order, the fastest; of those about as fast the one that takes least memory."""
    models = dict.fromkeys(one.arrangement.model for one in figures)
    return [_best([one for one in figures if one.arrangement.model == model]) for model in models]


def _best(figures: Sequence[Figures]) -> Figures:
    fastest = max(one.speed for one in figures)
    return min((one for one in figures if one.speed >= ALIKE * fastest), key=lambda one: one.rss_bytes)
