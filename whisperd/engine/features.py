"""What the installed whisper.cpp was built with. Asked in a process of its own: the daemon never loads it."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache

_ASK = "import _pywhispercpp as cpp; print(cpp.whisper_print_system_info())"
_GPU = frozenset({"CUDA", "METAL", "Metal", "VULKAN", "Vulkan", "SYCL", "CANN", "HIP", "MUSA", "OPENCL"})


@cache
def system_info() -> str:
    """whisper.cpp's own line, such as "WHISPER : … | CPU : AVX2 = 1 | …"; empty if it cannot be loaded."""
    asked = subprocess.run([sys.executable, "-P", "-c", _ASK], capture_output=True, text=True, timeout=60)
    return asked.stdout.strip()


def gpu_build() -> bool:
    """Whether it can use a GPU: a backend stands before a colon in the line."""
    return bool(_GPU & set(re.findall(r"(\w+) :", system_info())))
