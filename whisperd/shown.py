"""How times and backups look outside, over HTTP and on the command line alike."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec import Struct

from whisperd.backup import Backup


def timestamp(seconds: float | None) -> str | None:
    """RFC 3339, UTC, milliseconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class BackupView(Struct, frozen=True, kw_only=True):
    """A backup. `problem` says why one is not verified; `seconds` that it took, if it was just now."""

    name: str
    path: str
    taken_at: str | None
    bytes: int
    tasks: int | None
    reason: str | None
    verified: bool
    restored: bool
    problem: str | None
    seconds: float | None


def backup_view(backup: Backup) -> BackupView:
    return BackupView(
        name=backup.name,
        path=str(backup.path),
        taken_at=timestamp(backup.taken_at),
        bytes=backup.bytes,
        tasks=backup.tasks,
        reason=backup.reason,
        verified=backup.verified,
        restored=backup.restored,
        problem=backup.problem,
        seconds=backup.seconds and round(backup.seconds, 3),
    )
