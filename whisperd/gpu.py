"""How much of the GPUs' memory is used and free, asked of NVIDIA's driver where there is one.

Through NVML, the library that comes with the driver
(https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html): no program is started, nothing has to
be installed. It blocks: call it on a thread, or ask in another process, which may hang.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import takewhile
from typing import NamedTuple

LIBRARY = "libnvidia-ml.so.1"
VISIBLE = "CUDA_VISIBLE_DEVICES"
PATIENCE_SECONDS = 20.0  # with a driver that must first wake the GPUs
_ASK = "from whisperd import gpu; print(*(f'{one.number}={one.free}' for one in gpu.memory()))"


class GpuMemory(NamedTuple):
    number: int  # as the driver counts
    used: int  # bytes, by all programs
    total: int
    free: int


class _Memory(ctypes.Structure):
    """nvmlMemory_t"""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def memory() -> Sequence[GpuMemory]:
    """Of each GPU, in the driver's order; none where there is no driver, or it does not say."""
    nvml = _opened()
    if nvml is None:
        return []
    count = ctypes.c_uint()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return []
    found = (_of_device(nvml, index) for index in range(count.value))
    return [one for one in found if one is not None]


@cache
def free() -> Mapping[str, int]:
    """Bytes free on each GPU that workers may use, by its number, as it was at the first call.

    They are those that CUDA_VISIBLE_DEVICES names by their numbers, in its order, up to one of which nobody
    tells, as CUDA does with one that is none; else all of the driver's. Asked in a process of its own, with a
    limit: a driver that hangs must not keep the daemon from starting.
    """
    ask = [sys.executable, "-P", "-c", _ASK]
    told: dict[str, int] = {}
    with suppress(subprocess.TimeoutExpired, ValueError):
        asked = subprocess.run(ask, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        told = {number: int(free) for number, free in (one.split("=") for one in asked.stdout.split())}
    named = os.environ.get(VISIBLE)
    if named is None:
        return told
    numbers = (number.strip() for number in named.split(","))
    return {number: told[number] for number in takewhile(told.__contains__, numbers)}


def only(number: str) -> Mapping[str, str]:
    """The environment of a process that is to see this GPU of `free`, and no other.

    CUDA counts those of different kinds in another order than the driver, unless it is told. Numbers that
    somebody has set mean what they meant to CUDA then.
    """
    in_order = {} if VISIBLE in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {VISIBLE: number, **in_order}


def _of_device(nvml: ctypes.CDLL, index: int) -> GpuMemory | None:
    device, said = ctypes.c_void_p(), _Memory()
    if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
        return None
    if nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(said)):
        return None
    return GpuMemory(index, said.used, said.total, said.free)


@cache  # to begin takes 10 to 100 ms; a machine gets no driver while we run
def _opened() -> ctypes.CDLL | None:
    try:
        nvml = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    return None if nvml.nvmlInit_v2() else nvml
