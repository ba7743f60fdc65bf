"""The keys of what transcribes, and the cores that it may have."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Struct

from whisperd.config.declaring import YEAR_SECONDS, NotEmpty, key


class Workers(Struct, frozen=True, kw_only=True):
    """The child processes that transcribe."""

    count: Annotated[
        int,
        key(
            "Processes; 0: one a core up to 4, of more cores those 3 to 7 that leave the fewest idle; on a "
            "GPU as many as its memory has room for at the start, 1 to 4, and so on each of several. A "
            "reload leaves the threads of each as they are.",
            0,
            256,
            reload=True,
        ),
    ] = 0
    max: Annotated[
        int,
        key(
            "So many processes at most, as many as there is work for, in place of count; 0: count.",
            0,
            256,
            reload=True,
        ),
    ] = 0
    min: Annotated[int, key("With max: so many are there, whatever there is to do.", 1, 256, reload=True)] = 1
    threads: Annotated[
        int, key("Threads of each; 0: the cores shared out among as many as there are at the start.", 0, 256)
    ] = 0
    model: Annotated[NotEmpty, key("For tasks that name none; see `whisperd models list`.")] = "tiny.en"
    max_processing_seconds: Annotated[
        float,
        key(
            "The longest that a worker may take for one chunk (at most 28 s of speech), or to decode and "
            "plan a file.",
            0.001,
            YEAR_SECONDS,
            reload=True,
        ),
    ] = 600
    silence_seconds: Annotated[
        float,
        key("A worker without a sign of life for so long is killed.", 0.001, YEAR_SECONDS, reload=True),
    ] = 60
    max_memory_mb: Annotated[
        int,
        key(
            "Address space of each worker (RLIMIT_AS); 0: what the machine has; with a GPU no limit.",
            0,
            2**24,
        ),
    ] = 0
    max_rss_mb: Annotated[
        int,
        key(
            "A worker that holds more memory is replaced between two chunks; one and a half times as much "
            "ends it within a chunk, which counts as out of memory. 0: never.",
            0,
            2**24,
            reload=True,
        ),
    ] = 0
    step_up_seconds: Annotated[
        float,
        key(
            "After a worker ran out of memory, fewer run; one more is tried after so long.",
            1,
            YEAR_SECONDS,
            reload=True,
        ),
    ] = 600
    canary_after_seconds: Annotated[
        float,
        key(
            "A worker that had nothing to do for so long transcribes a second of sound, which shows in "
            "/health if it cannot; 0: never.",
            0,
            YEAR_SECONDS,
            reload=True,
        ),
    ] = 900
    canary_limit_seconds: Annotated[
        float,
        key("It may take so long; then the worker is replaced.", 0.001, YEAR_SECONDS, reload=True),
    ] = 120
    nice: Annotated[
        int, key("Scheduling niceness, so that the daemon answers while all cores transcribe.", 0, 19)
    ] = 10
    gpu: Annotated[bool, key("Use the GPU when the engine was built for one.")] = True
    engine: Annotated[
        Literal["auto", "whisper.cpp", "ctranslate2"],
        key(
            "What runs the models. ctranslate2 is faster on a CPU, needs `pip install 'whisperd[ct2]'`, and "
            "takes models in float16 only. auto: ctranslate2 where it is installed, there is no GPU for "
            "whisper.cpp and the model is not quantised; whisper.cpp otherwise."
        ),
    ] = "whisper.cpp"

    def sized(self, cores: int, on_gpu: int = 0) -> tuple[int, int]:
        """How many workers with how many threads each: the zeros filled in for a machine of `cores`.

        `on_gpu`: how many may share its GPUs; 0 where none is used.
        """
        most = min(on_gpu, max(1, cores // max(1, self.threads))) if on_gpu else self._most(cores)
        count = self.max or self.count or most
        return count, self.threads or max(1, cores // count)

    def _most(self, cores: int) -> int:
        """About four, since each holds the model: those among which the cores can be shared out best."""
        if self.threads or cores <= 4:
            return max(1, min(4, cores // max(1, self.threads)))
        return min(range(3, min(7, cores) + 1), key=lambda count: (cores % count, abs(count - 4)))


class Models(Struct, frozen=True, kw_only=True):
    """Which models the workers keep in memory."""

    preload: Annotated[
        tuple[str, ...],
        key(
            'Loaded at the start, one by each worker in turn: ["tiny.en", "large-v3-turbo"]. With none each '
            "loads workers.model. What is not loaded is loaded when a task asks for it."
        ),
    ] = ()
    affinity_seconds: Annotated[
        float,
        key(
            "For so long a worker may pass over tasks with another model, of the same tenant and priority, "
            "for one near them with the model that it has loaded; 0: never.",
            0,
            YEAR_SECONDS,
            reload=True,
        ),
    ] = 10
    ttl_seconds: Annotated[
        float,
        key(
            "A worker that had nothing to do for so long ends, which frees its memory, the GPU's too; the "
            "next task waits until one is started again. 0: never.",
            0,
            YEAR_SECONDS,
            reload=True,
        ),
    ] = 0


class Audio(Struct, frozen=True, kw_only=True):
    """What is accepted as audio."""

    max_seconds: Annotated[
        float, key("Decoded length above which a task fails (12 hours).", 0.001, YEAR_SECONDS)
    ] = 43_200


def cores() -> int:
    """The cores this process may use: its affinity, within the CPU quota of its container."""
    usable = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(usable, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2 here, or "max"
        return usable
