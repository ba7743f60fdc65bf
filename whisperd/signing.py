"""What deliveries are signed with: the secrets, one for each tenant, and the signature itself.

The scheme is that of https://www.standardwebhooks.com: HMAC-SHA256 over "id.timestamp.body". Secrets are
never logged, printed only by the command that is there for it, and never stored in the database, whose
backups travel.
"""

from __future__ import annotations

import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes, token_hex

from whisperd.durable import gone_if_it_fails, new_file, sync_folder

FILE = "webhooks.secret"  # in the data folder
PREFIX = "whsec_"
_KEY_BYTES = 32


def signed(secrets: Sequence[str], delivery_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """The headers that prove `body` to whoever has one of the secrets, for the moment `timestamp`."""
    content = f"{delivery_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_signature(_key(secret), content)}" for secret in secrets),
    }


def of_tenant(secret: str, tenant: str | None) -> str:
    """The tenant's own: one that knows it can neither forge what another is told nor find out the operator's.

    None is the operator, and so is "default", the tenant of a daemon that knows no others.
    """
    if tenant in (None, "default"):
        return secret
    return PREFIX + b64encode(_hmac(_key(secret), f"whisperd tenant {tenant}".encode())).decode()


def kept_secret(folder: Path) -> str:
    """The one that is kept in a data folder, mode 0600; made now if there is none. Raises OSError."""
    path = folder / FILE
    if not path.exists():
        _make(path)
    return path.read_text().strip()


def _make(path: Path) -> None:
    part = path.with_name(f".{path.name}.{token_hex(8)}")
    with gone_if_it_fails(part), new_file(part) as file:
        file.write(f"{PREFIX}{b64encode(token_bytes(_KEY_BYTES)).decode()}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):  # daemon and command may make one at once: then the first counts
        os.link(part, path)
    part.unlink()
    sync_folder(path.parent)


def _signature(key: bytes, content: bytes) -> str:
    return b64encode(_hmac(key, content)).decode()


def _hmac(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, "sha256")


def _key(secret: str) -> bytes:
    return b64decode(secret.removeprefix(PREFIX))
