"""Which engine a model is given to, and where it runs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from whisperd.engine import features, ggml_file
from whisperd.engine.model import Engine, ModelBroken
from whisperd.engine.protocol import Settings
from whisperd.engine.whisper import Whisper, system_info

WHISPER_CPP, CTRANSLATE2 = "whisper.cpp", "ctranslate2"


def load(path: str, settings: Settings) -> Engine:
    """The model in memory. Raises ModelBroken, MemoryError."""
    if name(path, settings) == WHISPER_CPP:
        return Whisper(path, threads=settings.threads, gpu=settings.gpu)
    if not features.has_ctranslate2():
        raise ModelBroken("CTranslate2 is not installed: `pip install 'whisperd[ct2]'`")
    from whisperd.engine.ctranslate import CTranslate  # here: it need not be installed, and takes 0.2 s

    return CTranslate(path, threads=settings.threads, gpu=device(settings) == "gpu")


def device(settings: Settings) -> str:
    """ "gpu", if the engine that is asked for can use one; else "cpu"."""
    if not settings.gpu:
        return "cpu"
    if settings.engine == CTRANSLATE2 and features.has_ctranslate2():
        import ctranslate2

        return "gpu" if ctranslate2.get_cuda_device_count() else "cpu"
    return "gpu" if _build().for_gpu else "cpu"


@cache
def _build() -> features.Build:
    """As features.build(), here where whisper.cpp is loaded anyway."""
    return features.Build(system_info(), features.ggml_libraries(Path("/proc/self/maps").read_text()))


def name(path: str, settings: Settings) -> str:
    """Of the engine that runs the model of `path`; the file need not be there.

    "auto" takes CTranslate2 where it is faster, on a CPU, and where it can, with a model in float16.
    """
    if settings.engine != "auto":
        return settings.engine
    faster = features.has_ctranslate2() and device(settings) == "cpu"
    return CTRANSLATE2 if faster and not ggml_file.quantised(path) else WHISPER_CPP
