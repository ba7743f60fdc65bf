"""The data folder, for the commands that work on it while no daemon does: whose it is, who holds it.

Knows where things lie and nothing of how they are restored.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whisperd.backup import Backup, BackupStore, Keep
    from whisperd.config import Config
    from whisperd.offsite import Offsite

DATABASE = "whisperd.db"  # in the data folder


def settings_of(config: Path | None, data_dir: str | None) -> Config:
    from whisperd import logs
    from whisperd.config import load

    variables = {"WHISPERD_LOG__LEVEL": "warning", **os.environ}
    settings = load(config, variables, {"storage.data_dir": data_dir}, may_be_foreign=True)
    logs.configure(settings.log)
    return settings


def store_of(settings: Config) -> BackupStore:
    from whisperd.backup import BackupStore

    return BackupStore(settings.backups_dir, keep_of(settings), settings.backup.compression_level)


def keep_of(settings: Config) -> Keep:
    from whisperd.backup import Keep

    keep = settings.backup
    return Keep(keep.keep_newest, keep.keep_hourly, keep.keep_daily)


@contextmanager
def exclusively(settings: Config, advice: str) -> Iterator[Path]:
    """The database's path, while no daemon can start on it. Raises DatabaseInUse, with the advice."""
    from whisperd.db import DatabaseInUse, owned

    database = settings.data_dir / DATABASE
    with ExitStack() as stack:
        stack.enter_context(as_owner(settings.data_dir))
        try:
            stack.enter_context(owned(database))
        except DatabaseInUse as error:
            raise DatabaseInUse(f"{error}: {advice}") from None
        yield database


@contextmanager
def as_owner(folder: Path) -> Iterator[None]:
    """As root, act as the owner of the folder: the daemon could not read files of root's."""
    if not folder.is_dir():
        raise FileNotFoundError(2, "there is no such folder; name it with --data-dir", str(folder))
    owner, me = folder.stat(), (os.geteuid(), os.getegid())
    if me[0] != 0 or owner.st_uid == 0:
        yield
        return
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(me[0])
        os.setegid(me[1])


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def rfc3339(seconds: float | None) -> str | None:
    return None if seconds is None else utc(seconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def source_of(settings: Config, named: str) -> Path:
    """The file that is named; a copy in S3, `s3:NAME`, becomes one of the backups of this machine first.

    Raises OffsiteError, BackupError, StorageFull, OSError.
    """
    if not named.startswith("s3:"):
        return Path(named)
    from whisperd.durable import publish

    name = named.removeprefix("s3:")
    offsite, target = offsite_of(settings), settings.backups_dir / name
    if not target.exists():
        settings.backups_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        part.unlink(missing_ok=True)  # of a call that was killed
        asyncio.run(offsite.fetch(name, part))
        publish(part, target)
    return target


def offsite_of(settings: Config) -> Offsite:
    """Raises OffsiteError."""
    from whisperd.offsite import Offsite, OffsiteError

    if not settings.backup.s3.bucket:
        raise OffsiteError("no bucket is set: backup.s3.bucket")
    return Offsite(settings.backup.s3, keep_of(settings))


def shown(backup: Backup) -> dict[str, Any]:
    """As the API shows it."""
    fields = ("bytes", "tasks", "reason", "verified", "restored", "problem", "seconds")
    named = {"name": backup.name, "path": str(backup.path), "taken_at": rfc3339(backup.taken_at)}
    return named | {field: getattr(backup, field) for field in fields}
