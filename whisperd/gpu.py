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
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import NamedTuple

LIBRARY = "libnvidia-ml.so.1"
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
def free() -> int | None:
    """Bytes free on the GPU that workers use, as it was at the first call; None where nobody tells.

    That is the first in CUDA_VISIBLE_DEVICES, if named by its number, or the driver's first: CUDA counts
    those of different kinds in another order, unless CUDA_DEVICE_ORDER=PCI_BUS_ID. Asked in a process of its
    own, with a limit: a driver that hangs must not keep the daemon from starting.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    ask = [sys.executable, "-P", "-c", _ASK]
    with suppress(subprocess.TimeoutExpired, ValueError):
        asked = subprocess.run(ask, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        by_number = dict(one.split("=") for one in asked.stdout.split())
        return int(by_number[first]) if first in by_number else None
    return None


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
