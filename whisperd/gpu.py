"""How much of the GPUs' memory is used, asked of NVIDIA's driver where there is one.

Through NVML, the library that comes with the driver
(https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html): no program is started, nothing has to
be installed. It blocks: call it on a thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

LIBRARY = "libnvidia-ml.so.1"


class GpuMemory(NamedTuple):
    number: int  # as the driver counts
    used: int  # bytes, by all programs
    total: int


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


def _of_device(nvml: ctypes.CDLL, index: int) -> GpuMemory | None:
    device, said = ctypes.c_void_p(), _Memory()
    if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
        return None
    if nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(said)):
        return None
    return GpuMemory(index, said.used, said.total)


@cache  # to begin takes 10 to 100 ms; a machine gets no driver while we run
def _opened() -> ctypes.CDLL | None:
    try:
        nvml = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    return None if nvml.nvmlInit_v2() else nvml
