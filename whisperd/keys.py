"""The keys of those who may call: one file, read whole and replaced whole, by the daemon and by the commands.

It holds no key, only what SHA-256 makes of it: 256 random bits need no slower hash. A file that cannot be
read or understood is never taken for one without keys, and none is written that is too large to be read.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec
import structlog
from filelock import FileLock, Timeout
from msgspec import Meta, Struct

from whisperd import durable

log = structlog.get_logger(__name__)
FILE = "keys.json"  # its name in the data folder
EVERY = "*"  # in place of a tenant: all of them
MAX_BYTES = 2**24  # of the file: some 40,000 keys
KEPT = timedelta(days=90)  # after it was revoked a key is still known, so that its user is told why
LOCK_SECONDS = 10.0  # that another command may take to write

R = TypeVar("R")
Scope = Literal["submit", "read", "admin"]
Plan = Literal["FREE", "PRO", "PAYG"]
Tenant = Annotated[str, Meta(pattern=r"^([\w.@:+-]{1,100}|\*)\Z")]
_Signature: TypeAlias = tuple[int, ...] | None  # of the file as it was read; None: there was none
_SECRET = re.compile(r"whd_[A-Za-z0-9_-]{43}\Z")


class KeysUnusable(Exception):
    """The file cannot be read, understood or written. Says why, without its folder."""


class NoSuchKey(Exception):
    """No key has this id."""


class TooManyKeys(Exception):
    """With one more the file would be too large to be read."""


class LastAdmin(Exception):
    """Without this key nobody could make or revoke another over HTTP."""


class Key(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a key. Times are UTC."""

    name: str
    tenant: Tenant
    plan: Plan
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]  # of the key
    created_at: Annotated[datetime, Meta(tz=True)]
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    revoked_at: Annotated[datetime, Meta(tz=True)] | None = None

    @property
    def id(self) -> str:
        """What it may be called in public: it gives nothing of the key away."""
        return f"key_{self.sha256[:12]}"

    def status(self, now: datetime) -> Literal["active", "expired", "revoked"]:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1] = 1
    keys: tuple[Key, ...]


class Ring(Struct, frozen=True):
    """All keys there are; or why that is not known, and then there is none."""

    keys: dict[str, Key] = {}  # by id
    trouble: str | None = None

    @property
    def is_asked_for(self) -> bool:
        """Whether a call needs a key. One that has expired counts: time must not open a door."""
        return self.trouble is not None or any(key.revoked_at is None for key in self.keys.values())

    def find(self, secret: str) -> Key | None:
        """The key, whatever its status."""
        if not _SECRET.match(secret):
            return None
        digest = hashlib.sha256(secret.encode()).hexdigest()
        key = self.keys.get(f"key_{digest[:12]}")
        return key if key is not None and hmac.compare_digest(key.sha256, digest) else None


def new_key(
    *, name: str, tenant: str, plan: Plan, scopes: Sequence[Scope], now: datetime, expires_at: datetime | None
) -> tuple[str, Key]:
    """A key nobody else has, and what is to be kept of it. The key itself is to be shown once."""
    secret = f"whd_{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return secret, Key(
        name=name,
        tenant=tenant,
        plan=plan,
        scopes=tuple(scopes),
        sha256=digest,
        created_at=now,
        expires_at=expires_at,
    )


def read(path: Path) -> Sequence[Key]:
    """The oldest first; none where there is no file. Blocking. Raises KeysUnusable."""
    return _read(path)[0]


def ring(path: Path) -> Ring:
    """As `read`, with what is wrong in it. Blocking."""
    return _ring(path)[0]


def add(path: Path, key: Key) -> None:
    """For good when it returns; the file is made if need be. Blocking.

    Raises TooManyKeys, KeysUnusable, OSError.
    """
    with _alone(path):
        _write(path, [*read(path), key], key.created_at)


def revoke(path: Path, key_id: str, now: datetime, *, keep_an_admin: bool = False) -> Key:
    """The key, revoked, now or before. For good when it returns.

    Raises NoSuchKey, KeysUnusable, OSError; LastAdmin, if one is to be kept.
    """
    with _alone(path):
        keys = {key.id: key for key in read(path)}
        if key_id not in keys:
            raise NoSuchKey(f"there is no key {key_id}; see `whisperd keys list`")
        if keep_an_admin and _admins(keys.values(), now) == [key_id]:
            raise LastAdmin(
                "this is the last key of an admin: make another first, or use `whisperd keys revoke`"
            )
        if keys[key_id].revoked_at is None:
            keys[key_id] = msgspec.structs.replace(keys[key_id], revoked_at=now)
            _write(path, list(keys.values()), now)
        return keys[key_id]


def _admins(keys: Iterable[Key], now: datetime) -> Sequence[str]:
    return [key.id for key in keys if "admin" in key.scopes and key.status(now) == "active"]


class KeyRing:
    """The file as it is at any moment, for the daemon: a change is noticed by the next request."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ring, self._signature = _ring(path)
        self._reading = asyncio.Lock()
        if self._ring.trouble:
            _complain(self._ring.trouble)

    @property
    def trouble(self) -> str | None:
        """Why no key is known, as of the last look."""
        return self._ring.trouble

    @property
    def asks(self) -> bool:
        """Whether a call needs a key, as of the last look."""
        return self._ring.is_asked_for

    async def current(self) -> Ring:
        """Costs a stat, unless the file has changed: then it is read, and whoever asks waits for that."""
        if self._is_stale():
            async with self._reading:
                if self._is_stale():
                    self._take(*await asyncio.to_thread(_ring, self._path))
        return self._ring

    async def add(self, key: Key) -> None:
        """As the function. Raises TooManyKeys, KeysUnusable."""
        await _written(add, self._path, key)

    async def revoke(self, key_id: str, now: datetime) -> Key:
        """As the function, keeping an admin. Raises NoSuchKey, LastAdmin, KeysUnusable."""
        return await _written(partial(revoke, keep_an_admin=True), self._path, key_id, now)

    def _is_stale(self) -> bool:
        try:
            signature = _signature(os.stat(self._path))
        except FileNotFoundError:
            signature = None
        except OSError:  # reading it tells what it is
            return True
        return self._ring.trouble is not None or signature != self._signature

    def _take(self, ring: Ring, signature: _Signature) -> None:
        if signature is None and ring.trouble is None and self._ring.is_asked_for:
            # A disk that is gone is no reason to let everybody in.
            ring = Ring(trouble=f"{FILE} is gone; put it back, or restart whisperd to do without")
        if ring.trouble and ring.trouble != self._ring.trouble:
            _complain(ring.trouble)
        elif not ring.trouble:
            log.info("the keys have changed", keys=len(ring.keys), asked_for=ring.is_asked_for)
        self._ring, self._signature = ring, signature


async def _written(write: Callable[..., R], *args: object) -> R:
    try:
        return await asyncio.to_thread(write, *args)
    except OSError as error:
        raise KeysUnusable(f"{FILE} cannot be written: {error.strerror}") from None


def _complain(trouble: str) -> None:
    log.error("the keys cannot be used: every call is refused", reason=trouble)


def _ring(path: Path) -> tuple[Ring, _Signature]:
    try:
        keys, signature = _read(path)
    except KeysUnusable as error:
        return Ring(trouble=str(error)), None
    return Ring({key.id: key for key in keys}), signature


def _read(path: Path) -> tuple[Sequence[Key], _Signature]:
    try:
        # What is no file must not keep its opener waiting.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            content = file.read(MAX_BYTES + 1) if stat.S_ISREG(found.st_mode) else None
    except FileNotFoundError:
        if path.is_symlink():
            raise KeysUnusable(f"{FILE} is a link to nothing") from None
        return (), None
    except OSError as error:
        raise KeysUnusable(f"{FILE} cannot be read: {error.strerror}") from None
    if content is None or len(content) > MAX_BYTES:
        raise KeysUnusable(f"{FILE} is {'no file' if content is None else 'too large'}")
    return _understood(content), _signature(found)


def _understood(content: bytes) -> Sequence[Key]:
    try:
        keys = msgspec.json.decode(content, type=_File).keys
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        _, _, place = str(error).partition(" - at ")  # without the value: somebody may have put a key there
        where = f", at {place.strip('`')}" if place else ""
        raise KeysUnusable(f"{FILE} is not what whisperd writes{where}") from None
    if len({key.id for key in keys}) < len(keys):
        raise KeysUnusable(f"{FILE} has a key twice")
    return keys


def _signature(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _write(path: Path, keys: Sequence[Key], now: datetime) -> None:
    """Without those that were revoked long ago; where there is no room, without any that is revoked."""
    for after in (now - KEPT, now):
        kept = [key for key in keys if key.revoked_at is None or key.revoked_at > after]
        content = msgspec.json.format(msgspec.json.encode(_File(keys=tuple(kept)))) + b"\n"
        if len(content) <= MAX_BYTES:
            durable.write(path, content)
            return
    raise TooManyKeys(f"{FILE} holds as many keys as can be read; revoke some that are not used")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While it lasts, nobody else writes the file."""
    try:
        with FileLock(path.with_suffix(".lock"), timeout=LOCK_SECONDS, mode=0o600):
            yield
    except Timeout:
        raise KeysUnusable(f"another command has been writing {FILE} for {LOCK_SECONDS:.0f} s") from None
