"""Who is signed in: browsers that showed a key once, and are known by a random token since.

A session has the rights of its key and no others. It ends with the key, at its time, or when it is signed
out, and is not prolonged by being used. Only the SHA-256 of a token is kept, in a file beside that of the
keys and like it in no backup: none that was signed out comes back by a restore. The file opens no door by
being gone: one that cannot be read costs those who are signed in a sign-in, one that cannot be written the
same at the next start.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import threading
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import structlog
from msgspec import Meta, Struct

from whisperd import durable

log = structlog.get_logger(__name__)
FILE = "sessions.json"  # its name in the data folder
MOST_OF_A_KEY = 20  # browsers that are signed in with one key; the oldest makes room


class Session(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sha256: str  # of the token
    key: str  # its id
    expires_at: Annotated[datetime, Meta(tz=True)]  # UTC


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1] = 1
    sessions: tuple[Session, ...]


class Sessions:
    """Those there are, the oldest first. Whether a session's key still holds, the keys know."""

    def __init__(self, path: Path) -> None:
        """Reads the file. Blocking."""
        self._path = path
        self._all = {session.sha256: session for session in _read(path)}
        self._writing = threading.Lock()

    def find(self, token: str, now: datetime) -> Session | None:
        """That of a token, unless it is over."""
        session = self._all.get(_digest(token))
        return session if session is not None and self.holds(session, now) else None

    def holds(self, session: Session, now: datetime) -> bool:
        return session.sha256 in self._all and now < session.expires_at

    async def begin(self, key_id: str, now: datetime, expires_at: datetime) -> str:
        """The token of a session that begins, which is to be shown once. Safe to cancel."""
        self._forget(key_id, now)
        token = secrets.token_urlsafe(32)
        session = Session(sha256=_digest(token), key=key_id, expires_at=expires_at)
        self._all[session.sha256] = session
        await asyncio.to_thread(self._keep)
        return token

    async def end(self, token: str) -> None:
        """Nothing is done with it from now on. Safe to cancel."""
        if self._all.pop(_digest(token), None) is not None:
            await asyncio.to_thread(self._keep)

    def _forget(self, key_id: str, now: datetime) -> None:
        """What is over, and what makes room for one more of this key."""
        over = [digest for digest, session in self._all.items() if session.expires_at <= now]
        of_key = [digest for digest, session in self._all.items() if session.key == key_id]
        for digest in {*over, *of_key[: 1 - MOST_OF_A_KEY or None]}:
            del self._all[digest]

    def _keep(self) -> None:
        """Write what there is by then: of two threads the later one has it all, whichever that is."""
        with self._writing:
            content = msgspec.json.encode(_File(sessions=tuple(self._all.values())))
            try:
                durable.write(self._path, content + b"\n")
            except OSError as error:  # a full disk must not keep the operator out who is to look at it
                log.warning("sign-ins are not kept over a restart", reason=error.strerror)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _read(path: Path) -> Iterable[Session]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).sessions
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.MsgspecError, UnicodeError):
        log.warning(f"{FILE} cannot be read: whoever was signed in has to do so again")
        return ()
