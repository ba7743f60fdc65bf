"""What whisperd keeps: its folders and their modes, the disk, the database, the backups.

Looks only. A database that a daemon has open is left to the daemon: it says itself how it is.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Literal, TypeVar

from whisperd import archive, condition, keys
from whisperd.archive import BackupError
from whisperd.backup import Backup, BackupStore
from whisperd.condition import Condition
from whisperd.config import DATABASE, Config
from whisperd.doctor.finding import Finding
from whisperd.terminal import megabytes, spell

T = TypeVar("T")
LOW_DISK_BYTES = 2 * 10**9  # above the reserve: some hours of audio
PATIENCE_SECONDS = 1.0  # for reading a database, and a backup: nobody waits long for a doctor
LATE = 3  # intervals without a backup, while a daemon runs
# What stands in the database's place, and what to do. A start does most of it by itself.
_ADVICE: Mapping[Condition, tuple[Literal["ok", "warn", "fail"], str]] = {
    Condition.ABSENT: ("ok", ""),
    Condition.CLEAN: ("ok", ""),
    Condition.CRASHED: ("ok", ""),
    Condition.BARE: ("warn", "a start brings back what is missing from the newest backup, if it has it"),
    Condition.CHANGED: ("warn", "whisperd restore --list, if it was not you who changed it"),
    Condition.TORN: (
        "fail",
        "a start sets it aside and restores the newest backup; see whisperd restore --list",
    ),
    Condition.FOREIGN: ("fail", "set storage.data_dir to a folder of whisperd's own"),
    Condition.TOO_NEW: ("fail", "install the newer whisperd again, or whisperd restore an older backup"),
    Condition.UNREADABLE: ("fail", "make it readable for the user that runs whisperd"),
}


def folder(config: Config) -> Iterator[Finding]:
    """The data folder: that it can be written, and that nobody else can read what is in it."""
    data = config.data_dir
    if not data.exists():
        yield _folder_to_make(data)
    elif not _can_write(data):
        advice = "make it a folder of the user that runs whisperd"
        yield Finding("data", "fail", f"{data} cannot be written to", advice)
    elif wrong := [*_open_to_others(config), *_of_others(config)]:
        yield from wrong
    else:
        yield Finding("data", "ok", str(data))


def _open_to_others(config: Config) -> Iterator[Finding]:
    for path in _private(config):
        if (mode := _mode(path)) & 0o077:
            right = "700" if path.is_dir() else "600"
            yield Finding("data", "warn", f"others may read {path} ({mode:o})", f"chmod {right} {path}")


def _of_others(config: Config) -> Iterator[Finding]:
    """A restore as root leaves files that the daemon's account cannot open."""
    owner = config.data_dir.stat().st_uid
    if strangers := [path for path in _private(config) if path.stat().st_uid != owner]:
        shown = ", ".join(map(str, strangers[:3])) + (", …" if strangers[3:] else "")
        advice = f"chown -R --reference={config.data_dir} {config.data_dir} {config.backups_dir}"
        yield Finding("data", "fail", f"not the user's whom the data belongs to: {shown}", advice)


def _private(config: Config) -> Sequence[Path]:
    """What only the daemon's user may read, as far as it is there."""
    data = config.data_dir
    files = [data / f"{DATABASE}{suffix}" for suffix in ("", "-wal", "-shm")]
    files.append(data / keys.FILE)
    return [path for path in (data, *files, data / "spool", *_backups_of(config)) if path.exists()]


def _backups_of(config: Config) -> Sequence[Path]:
    try:
        return [config.backups_dir, *sorted(config.backups_dir.iterdir())]
    except OSError:  # not there yet; `backups` tells whatever else it is
        return []


def _folder_to_make(folder: Path) -> Finding:
    parent = next(parent for parent in folder.parents if parent.exists())
    if _can_write(parent):
        return Finding("data", "ok", f"{folder} is made at the first start")
    advice = f"make it, or a {parent} that you may write to"
    return Finding("data", "fail", f"{folder} cannot be made", advice)


def _can_write(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def known_keys(config: Config) -> Iterator[Finding]:
    """Whether the file of keys can be used, and written by its owner only. Nothing where there is none."""
    path = config.data_dir / keys.FILE
    if trouble := keys.ring(path).trouble:
        advice = f"put back a copy of {path}; or remove it, restart whisperd, and make new keys"
        yield Finding("keys", "fail", f"{trouble}: a daemon serves nobody", advice)
    elif path.exists() and _mode(path) & 0o022:
        yield Finding("keys", "fail", f"others may write {path}, and so get in", f"chmod 600 {path}")
    elif known := keys.read(path):
        yield _counted(Counter(key.status(datetime.now(UTC)) for key in known))


def _counted(by_status: Counter[str]) -> Finding:
    said = ", ".join(f"{n} {status}" for status, n in sorted(by_status.items()))
    if by_status["active"]:
        return Finding("keys", "ok", said)
    if by_status["expired"]:
        return Finding("keys", "warn", f"{said}: nobody is served", "whisperd keys add")
    return Finding("keys", "ok", f"{said}: only this machine is served, without a key")


def disks(config: Config) -> Iterator[Finding]:
    """The disk of the data, and that of the backups where it is another one."""
    data, backups = _there(config.data_dir), _there(config.backups_dir)
    yield _disk(data, config.storage.min_free_mb * 2**20, "nothing new is accepted")
    if backups.stat().st_dev != data.stat().st_dev:
        yield _disk(backups, 0, "no backup can be made")


def _disk(place: Path, reserve: int, consequence: str) -> Finding:
    free = shutil.disk_usage(place).free
    said = f"{megabytes(free)} free below {place}"
    if free <= reserve:
        return Finding("disk", "fail", f"{said}: {consequence}", "make room, or lower storage.min_free_mb")
    if free < reserve + LOW_DISK_BYTES:
        return Finding("disk", "warn", said, "make room")
    return Finding("disk", "ok", said)


def _there(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def database(config: Config) -> Finding:
    """The file, unless a daemon has it: then nothing is known here."""
    path = config.data_dir / DATABASE
    if is_owned(path):
        return Finding("database", "ok", "a daemon has it open")
    found = _within(PATIENCE_SECONDS, lambda: condition.examine(path))
    if found is None:
        size = megabytes(path.stat().st_size)
        return Finding("database", "ok", f"{size}: too large to be checked here; a start checks it")
    if is_owned(path):
        return Finding("database", "ok", "a daemon has just opened it")
    status, advice = _ADVICE[found.condition]
    holds = "" if found.tasks is None else f", {found.tasks} tasks"
    return Finding("database", status, f"{found.condition}: {found.reason}{holds}", advice)


def is_owned(path: Path) -> bool:
    """Whether a daemon holds this database's lock. Reads only: to try it could keep one from starting."""
    lock = Path(os.path.realpath(path)).with_suffix(".lock")
    try:
        pid, inode = lock.read_text().strip(), lock.stat().st_ino
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return False
    # Not by the device: /proc/locks has another number for it than stat(2) on some file systems.
    mine = [words for words in locks if words[1] == "FLOCK" and words[-3].endswith(f":{inode}")]
    return any(words[-4] == pid for words in mine)


def backups(config: Config) -> Finding:
    """The newest one: how old it is, and whether it can be read."""
    if not (config.data_dir / DATABASE).exists():
        return Finding("backups", "ok", "none is needed yet")
    try:
        known = BackupStore(config.backups_dir).list()
    except OSError as error:
        advice = "make it a folder of the user that runs whisperd, or set backup.folder"
        return Finding("backups", "fail", f"{config.backups_dir}: {error.strerror}", advice)
    usable = [backup for backup in known if not backup.restored]
    if not usable:
        return Finding("backups", "warn", f"there is none in {config.backups_dir}", "whisperd backup")
    return _newest(usable[0], config)


def _newest(backup: Backup, config: Config) -> Finding:
    age = max(0.0, time() - backup.taken_at)
    said = f"{backup.name}, {spell(age)} old"
    if problem := backup.problem or _damage(backup):
        return Finding("backups", "fail", f"{said}: {problem}", "whisperd backup makes a new one")
    said = f"{said}, {megabytes(backup.bytes)}, {backup.tasks} tasks"
    if is_owned(config.data_dir / DATABASE) and age > LATE * config.backup.interval_seconds:
        return Finding("backups", "warn", f"{said}: the next is late", "see the daemon's log, and /health")
    return Finding("backups", "ok", said)


def _damage(backup: Backup) -> str | None:
    """Reads it as far as PATIENCE_SECONDS go; what is too large for that counts as sound."""
    stop = threading.Event()
    found = _within(PATIENCE_SECONDS, lambda: _verdict(backup.path, stop))
    stop.set()
    return found or None


def _verdict(path: Path, stop: threading.Event) -> str:
    try:
        archive.verify(path, stop)
    except (BackupError, OSError) as error:
        return str(error)
    return ""


def _within(seconds: float, look: Callable[[], T]) -> T | None:
    """What comes of it; None when it takes longer. It only reads, so it may be left to itself."""
    came: list[T] = []
    thread = threading.Thread(target=lambda: came.append(look()), daemon=True)
    thread.start()
    thread.join(seconds)
    return came[0] if came else None
