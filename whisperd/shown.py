"""How times, backups and keys look outside, over HTTP and on the command line alike."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

from whisperd.backup import Backup
from whisperd.keys import Key, Plan, Scope
from whisperd.moment import timestamp as timestamp


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


class KeyView(Struct, frozen=True, kw_only=True):
    """What is known of a key, which cannot be read out of it. Times are RFC 3339, UTC."""

    id: str
    name: str
    status: Literal["active", "expired", "revoked"]
    tenant: str
    plan: Plan
    scopes: tuple[Scope, ...]
    created_at: str
    expires_at: str | None
    revoked_at: str | None


def key_view(key: Key, now: datetime) -> KeyView:
    return KeyView(
        id=key.id,
        name=key.name,
        status=key.status(now),
        tenant=key.tenant,
        plan=key.plan,
        scopes=key.scopes,
        created_at=_whole_second(key.created_at),
        expires_at=_whole_second(key.expires_at) if key.expires_at else None,
        revoked_at=_whole_second(key.revoked_at) if key.revoked_at else None,
    )


def _whole_second(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
