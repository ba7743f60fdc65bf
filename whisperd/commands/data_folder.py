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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whisperd.config import Config
    from whisperd.offsite import Offsite


def settings_of(config: Path | None, data_dir: str | None) -> Config:
    from whisperd import logs
    from whisperd.config import load

    variables = {"WHISPERD_LOGGING__LEVEL": "warning", **os.environ}
    settings = load(config, variables, {"storage.data_dir": data_dir}, may_be_foreign=True)
    logs.configure(settings.logging)
    return settings


@contextmanager
def exclusively(settings: Config, advice: str) -> Iterator[Path]:
    """The database's path, while no daemon can start on it. Raises DatabaseInUse, with the advice."""
    from whisperd.db import DatabaseInUse, owned

    database = settings.database
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


def source_of(settings: Config, named: str) -> Path:
    """The file that is named; a copy in S3, `s3:NAME`, becomes one of the backups of this machine first.

    Raises OffsiteError, BackupError, StorageFull, OSError.
    """
    if not named.startswith("s3:"):
        return Path(named)
    from whisperd.backup import alone_in
    from whisperd.durable import whole

    name = named.removeprefix("s3:")
    offsite, target = offsite_of(settings), settings.backups_dir / name
    with alone_in(settings.backups_dir):  # else another process would take the part for a killed one's
        if not target.exists():
            with whole(target) as part:
                asyncio.run(offsite.fetch(name, part))
    return target


@contextmanager
def to_look_at(settings: Config, named: str) -> Iterator[Path]:
    """The file that is named, for a while: a copy in S3 is fetched to where it is gone in the end.

    Raises OffsiteError, BackupError, StorageFull, OSError.
    """
    if not named.startswith("s3:"):
        yield Path(named)
        return
    from whisperd.scratch import scratch

    name = named.removeprefix("s3:")
    with scratch(settings.data_dir) as folder:
        yield asyncio.run(offsite_of(settings).fetch(name, folder / name))


def offsite_of(settings: Config) -> Offsite:
    """Raises OffsiteError."""
    from whisperd.backup_setup import keep
    from whisperd.offsite import Offsite, OffsiteError

    if not settings.backup.s3.bucket:
        raise OffsiteError("no bucket is set: backup.s3.bucket")
    return Offsite(settings.backup.s3, keep(settings))
