"""How fast this machine transcribes: by model, by engine, by how its cores are shared out among workers.

Each arrangement is run by the daemon's own machinery, on a queue in a temporary folder: what is measured is
what a busy daemon would do. The speech is eleven seconds of Kennedy's inaugural address (public domain).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Literal, NamedTuple

from whisperd import gpu as gpus
from whisperd.config import Cache, Config, Storage, Workers
from whisperd.embedded import Embedded, embedded
from whisperd.engine import features, ggml_file
from whisperd.models import ModelFile
from whisperd.task import Options, State, Task, TaskError
from whisperd.worker_pool import PoolFailed

SAMPLE = Path(__file__).with_name("sample.ogg")
MOST_CLIPS = 200  # of one arrangement
_ON_GPU = (1, 2, 4)  # workers that share one: what one does on the processor, another uses the GPU meanwhile
ALIKE = 0.95  # of the best: what is as good as that


class Arrangement(NamedTuple):
    model: str
    engine: Literal["whisper.cpp", "ctranslate2"]
    workers: int
    threads: int


class Figures(NamedTuple):
    """`speed`: seconds of audio in a second, of all workers together, kept busy."""

    arrangement: Arrangement
    speed: float
    alone_seconds: float  # that one clip takes with nothing else to do
    clip_seconds: float  # of audio
    rss_bytes: int  # of all workers, at work


class Failure(NamedTuple):
    arrangement: Arrangement
    why: str


class BenchFailed(Exception):
    """A clip was not transcribed, or not by as many workers as it was to be."""


def arrangements(models: Sequence[ModelFile], cores: int, *, gpu: bool = True) -> Sequence[Arrangement]:
    """Of each model with each engine that can: from one worker with all threads to one for each core.

    `gpu`: whether one may be used, where there is one.
    """
    return [
        Arrangement(model.name, engine, count, max(1, cores // count))
        for model in models
        for engine in _engines(model)
        for count in _counts(cores, gpu and features.on_gpu(engine))
    ]


def _engines(model: ModelFile) -> Sequence[Literal["whisper.cpp", "ctranslate2"]]:
    both = features.has_ctranslate2() and not ggml_file.quantised(str(model.path))
    return ["whisper.cpp", "ctranslate2"] if both else ["whisper.cpp"]


def _counts(cores: int, on_gpu: bool) -> Sequence[int]:
    if on_gpu:
        return [count * max(1, len(gpus.free())) for count in _ON_GPU]
    return sorted({1, cores // 4 or 1, cores // 2 or 1, cores})


async def measured(
    config: Config, wanted: Sequence[Arrangement], clip: Path, seconds: float
) -> AsyncIterator[Figures | Failure]:
    """Run each for about so long; one that fails, for lack of memory for example, is no end of the others."""
    for one in wanted:
        try:
            async with embedded(config_of(config, one)) as here:
                found: Figures | Failure = await _figures(here, one, clip, seconds)
        except (BenchFailed, PoolFailed, TaskError) as failed:
            found = Failure(one, str(failed))
        yield found


def config_of(config: Config, one: Arrangement) -> Config:
    """What runs it, on any machine: the user's limits on tasks and workers would be measured, too.

    Of the user's settings there is what holds of each worker, whatever their number.
    """
    kept = config.workers
    return Config(
        storage=Storage(models_dir=str(config.models_dir)),
        cache=Cache(enabled=False),
        workers=Workers(
            count=one.workers,
            threads=one.threads,
            engine=one.engine,
            model=one.model,
            gpu=kept.gpu,
            nice=kept.nice,
            max_memory_mb=kept.max_memory_mb,
            max_rss_mb=kept.max_rss_mb,
            max_processing_seconds=kept.max_processing_seconds,
            silence_seconds=kept.silence_seconds,
        ),
    )


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
    if resting := sum(worker.state == "resting" for worker in here.workers()):
        raise BenchFailed(f"there was memory for {one.workers - resting} of {one.workers} workers")
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
