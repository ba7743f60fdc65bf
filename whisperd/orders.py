"""What a child is told: how to run, what to do with a chunk, and how long that may take.

Pure: from settings, a chunk and a model to messages and limits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import inf
from pathlib import Path
from time import monotonic
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from whisperd import children
from whisperd.children import Limits
from whisperd.engine.protocol import MakePlan, Mute, Probe, Settings, Transcribe
from whisperd.spool import Spool
from whisperd.task import SAMPLE_RATE, Chunk, Piece, Task

PCM_BYTES = 2 * 2 * SAMPLE_RATE  # a second of decoded audio: at most two channels of 16 bits
FILE_SLACK = 2**20  # bytes a child may write beyond the longest audio
CPU_SLACK = 30.0  # seconds of processor time beyond those a chunk may take on all threads
AT_WORK = 1.5  # times max_rss_bytes, which a child may have within a chunk


class Model(Struct, frozen=True):
    path: str
    sha256: str


class PoolSettings(Struct, frozen=True, kw_only=True):
    workers: int
    threads: int
    engine: Literal["auto", "whisper.cpp", "ctranslate2"] = "whisper.cpp"
    gpu: bool = True
    cards: tuple[str, ...] = ()  # the GPU of each worker, in turn: its number; "": whichever CUDA takes
    nice: int = 10
    max_memory_bytes: int = 0  # address space of a child; 0 = by the machine, or none with a GPU
    max_rss_bytes: int = 0  # above it a child is replaced after its chunk; 0 = no limit
    max_seconds_per_chunk: float = 600.0
    silence_seconds: float = 60.0
    calm_seconds: float = 600.0  # without running out of memory, until one more worker works again
    max_audio_seconds: float = 43_200.0
    canary_after_seconds: float = 0.0  # with nothing to do; 0 = no canary
    canary_limit_seconds: float = 120.0  # that it may take
    preload: tuple[str, ...] = ()  # models that workers start with, in turn; none: the default
    affinity_seconds: float = 10.0  # that a worker may keep to its model; 0: no longer than it is in turn
    ttl_seconds: float = 0.0  # with nothing to do, until a worker lets go of its model; 0: never
    least: int | None = None  # have a process whatever there is to do; None: all begin with one
    patience_seconds: float = 0.0  # that there is work nobody takes, before one more process is started
    command: tuple[str, ...] = children.COMMAND

    @property
    def beat_seconds(self) -> float:
        """Between two renewals of a lease."""
        return min(5.0, self.silence_seconds / 4)


def child_settings(model: Model, settings: PoolSettings, worker: int) -> Settings:
    """`worker`: its number, from 1."""
    return Settings(
        model=model.path,
        model_sha256=model.sha256,
        daemon_pid=os.getpid(),
        threads=settings.threads,
        engine=settings.engine,
        gpu=settings.gpu,
        card=settings.cards[(worker - 1) % len(settings.cards)] if settings.cards else "",
        nice=settings.nice,
        max_memory_bytes=settings.max_memory_bytes,
        max_file_bytes=int(settings.max_audio_seconds * PCM_BYTES) + FILE_SLACK,
    )


def muting_settings(settings: PoolSettings) -> Settings:
    """Of a child that has no model and needs none."""
    return replace(child_settings(Model("", ""), settings, worker=1), gpu=False)


def task_ends(chunk: Chunk) -> float:
    """When the time of its task is over, on the monotonic clock. Ask at its claim."""
    task = chunk.task
    if task.timeout_seconds is None or task.started_at is None:
        return inf
    used = max(0.0, chunk.claimed_at - task.started_at)  # of a clock that may be set back
    return monotonic() + task.timeout_seconds - used


def limits(settings: PoolSettings) -> Limits:
    return Limits(
        chunk_seconds=settings.max_seconds_per_chunk,
        silence_seconds=settings.silence_seconds,
        look_seconds=settings.beat_seconds,
        rss_bytes=int(settings.max_rss_bytes * AT_WORK),
    )


def canary_limits(settings: PoolSettings) -> Limits:
    return replace(limits(settings), chunk_seconds=settings.canary_limit_seconds)


def canary_request(number: int, model: Model, settings: PoolSettings) -> Probe:
    cpu_seconds = settings.canary_limit_seconds * settings.threads + CPU_SLACK
    return Probe(number=number, model=model.path, model_sha256=model.sha256, cpu_seconds=cpu_seconds)


def request(
    chunk: Chunk, number: int, model: Model, spool: Spool, settings: PoolSettings
) -> MakePlan | Transcribe:
    task, pcm = chunk.task, str(spool.pcm(chunk.task.id))
    cpu_seconds = settings.max_seconds_per_chunk * settings.threads + CPU_SLACK
    if chunk.cut is not None:
        return Transcribe(
            number=number,
            pcm=pcm,
            model=model.path,
            model_sha256=model.sha256,
            heard_by=chunk.heard_by,
            options=task.options,
            language=task.language or "en",
            cut=chunk.cut,
            cpu_seconds=cpu_seconds,
        )
    return MakePlan(
        number=number,
        audio=str(spool.audio(task.id)),
        pcm=pcm,
        model=model.path,
        model_sha256=model.sha256,
        audio_sha256=task.audio.sha256,
        options=task.options,
        max_seconds=settings.max_audio_seconds,
        cpu_seconds=cpu_seconds,
    )


def mute_request(
    task: Task, silent: Sequence[Piece], wav: Path, spool: Spool, settings: PoolSettings
) -> Mute:
    return Mute(
        number=1,  # of a child of its own
        audio=str(spool.audio(task.id)),
        wav=str(wav),
        split=task.options.channels == "split",
        silent=tuple(silent),
        max_seconds=settings.max_audio_seconds,
        cpu_seconds=settings.max_seconds_per_chunk + CPU_SLACK,
    )
