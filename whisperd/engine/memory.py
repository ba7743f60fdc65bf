"""Memory, as the kernel tells of it: how much there is, and whether somebody was killed for want of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# libstdc++, Python, ggml, CUDA, glibc, OpenBLAS, a thread without a stack; ggml's assertions on malloc.
_WORDS = re.compile(
    r"bad_alloc|MemoryError|failed to allocate|out of memory|insufficient memory|cannot allocate memory"
    r"|CUBLAS_STATUS_ALLOC_FAILED|memory allocation .*failed"
    r"|can't start new thread|GGML_ASSERT\((ctx->mem_buffer != NULL|buffer)\)",
    re.IGNORECASE,
)


def lacking(words: str) -> bool:
    """Whether a process that said this before it died had run out of memory."""
    return _WORDS.search(words) is not None


def total_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """What this process may use at most: the machine's memory, or the least limit of its control groups."""
    limits = [_machine_bytes(proc)]
    for group in _groups(proc, cgroups):
        for folder in (group, *group.parents):
            limits += _numbers(folder / "memory.max") or _numbers(folder / "memory.limit_in_bytes")
            if folder == cgroups:
                break
    return min(limits)


def own_bytes(proc: Path = _PROC) -> int:
    """The resident memory of this process: the second number of statm, in pages (proc(5))."""
    return int((proc / "self" / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def kernel_kills(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Processes killed so far for want of memory: of our control group; of the machine if it counts none.

    The group's own file counts kills by any limit above it too (cgroup-v2.rst, memory.events).
    """
    if not (found := _counted(_counting(proc, cgroups), "oom_kill")):
        _counting.cache_clear()  # we are in another group now
        found = _counted(_counting(proc, cgroups), "oom_kill")
    return next(iter(found), 0)


@cache
def _counting(proc: Path, cgroups: Path) -> Path:
    """The file that counts them. It is asked for at each sign of life of a child, so looked for once."""
    for group in _groups(proc, cgroups):
        for file in (group / "memory.events", group / "memory.oom_control"):
            if _counted(file, "oom_kill"):
                return file
    return proc / "vmstat"


def _groups(proc: Path, cgroups: Path) -> Iterator[Path]:
    """The folders that may speak of our memory: version 2 under one of two roots, then version 1."""
    with suppress(OSError):
        for line in reversed((proc / "self" / "cgroup").read_text().splitlines()):
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                yield cgroups / path.lstrip("/")
                yield cgroups / "unified" / path.lstrip("/")
            elif "memory" in controllers.split(","):
                yield cgroups / "memory" / path.lstrip("/")


def _machine_bytes(proc: Path) -> int:
    return _counted(proc / "meminfo", "MemTotal:")[0] * 1024


def _counted(file: Path, name: str) -> list[int]:
    """The number on the line that begins with `name`; none if there is no such line or file."""
    with suppress(OSError):
        lines = (line.split() for line in file.read_text().splitlines())
        return [int(line[1]) for line in lines if line[0] == name]
    return []


def _numbers(file: Path) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in file.read_text().split() if word.isdecimal()]
    return []
