"""The memory of the GPUs, asked of a library that a C compiler makes in the driver's stead."""

import json
import subprocess
import sys

import pytest

NVML = """
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory;
int nvmlInit_v2(void) { return INIT; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  *device = (void *)(0x700000000000 + index);  /* a pointer that fits no int */
  return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, memory *said) {
  unsigned long long index = (unsigned long long)device - 0x700000000000;
  said->total = 80000000000 + index; said->used = 5000000000 + index; said->free = 1;
  return index == 1 ? 15 /* lost */ : 0;
}
"""


@pytest.fixture
def asked(tmp_path):
    """What a fresh process is told, with a library that begins with this status."""

    def ask(status=None):
        if status is not None:
            (tmp_path / "nvml.c").write_text(NVML)
            library = tmp_path / "libnvidia-ml.so.1"
            made = ["cc", f"-DINIT={status}", "-shared", "-fPIC", "-o", library, tmp_path / "nvml.c"]
            subprocess.run(made, check=True)
        code = f"import json; from whisperd import gpu; gpu.LIBRARY = {str(tmp_path / 'libnvidia-ml.so.1')!r}"
        command = [sys.executable, "-c", f"{code}; print(json.dumps(gpu.memory()))"]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    return ask


def test_each_gpu_that_answers_tells_its_memory(asked):
    assert asked(0) == [[0, 5_000_000_000, 80_000_000_000], [2, 5_000_000_002, 80_000_000_002]]


def test_where_there_is_no_driver_there_is_no_gpu(asked):
    assert asked() == []


def test_a_driver_that_is_not_loaded_is_none(asked):
    assert asked(9) == []
