"""The file format of a backup: how a database becomes one file, and that file a database again.

    [zstd skippable frame, 4096 bytes: the manifest as a line of JSON, its CRC-32, blanks]
    [one zstd frame: the SQLite file]

So `zstd -d` gives the database, and a list of backups reads one page of each. The manifest holds a SHA-256
and row counts, since integrity_check sees no flipped bit inside a value. Reading a backup runs nothing that
is in it, as unpickling one would; triggers that it brings along are adopt.py's matter. Everything here
blocks: call it on a thread. Knows nothing of folders and rotation.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import stat
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from whisperd import __version__, condition
from whisperd.durable import full_disk, gone_if_it_fails, new_file, publish
from whisperd.task import StorageFull

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Reason = Literal["interval", "shutdown", "error", "manual", "upgrade", "emergency"]
FORMAT = 1
LEVELS = range(1, 20)  # of zstd; above, a reader needs more memory than we grant it
_MAGIC = 0x184D2A57  # of a skippable frame: 0x184D2A50 to 5F, RFC 8878 section 3.1.2
_FRAME = struct.Struct("<II")  # magic, bytes that follow
_HEAD = 4096  # bytes of the whole first frame; fixed, since it is written last
_BLOCK = 2**20
_PORTION = 4 * _BLOCK  # written between two syncs: else the fsync of somebody's commit waits behind it all
_WINDOW_LOG = 24  # a reader takes at most 16 MiB, whatever a file asks for
_SQLITE = b"SQLite format 3\0"

_Count = Annotated[int, Meta(ge=0)]


class BackupError(Exception):
    """A backup cannot be used, or not be made."""


class NotABackup(BackupError):
    """The file is something else, or whisperd of today cannot read it. It may still be a plain database."""


class BadBackup(BackupError):
    """A backup that is broken: nothing of it may be used."""


class DamagedDatabase(BackupError):
    """The database itself is not sound: a backup of it would be none."""


class Stopped(BackupError):
    """The caller set `stop`. Nothing is left behind."""


class Census(Struct, frozen=True, kw_only=True):
    """What a database holds: what a restored one is compared with."""

    schema: _Count  # pragma user_version
    tasks: _Count
    by_state: dict[str, _Count]
    chunks: _Count
    last_change: float | None = None  # Unix seconds, UTC; None if nothing ever happened in it
    commits: _Count = 0  # those that changed something: whoever has more knows more


class Manifest(Census, frozen=True, kw_only=True):
    format: int = FORMAT
    taken_at: float  # Unix seconds, UTC: everything acknowledged before is in it
    reason: str  # a Reason; a later version may know more
    version: str  # of whisperd
    sha256: str  # of the raw database
    bytes: _Count  # of the raw database
    packed: _Count  # bytes of the whole file: a shorter one was cut off


def pack(
    raw: Path,
    target: Path,
    *,
    reason: Reason,
    taken_at: float,
    level: int = 3,
    stop: threading.Event | None = None,
    done: Callable[[str], None] = lambda phase: None,
) -> Manifest:
    """Check the database `raw`, which nobody writes to, and make it the backup `target`, whole or not at all.

    Read back and compared before it gets its name. `done` hears of "check", "pack" and "verify".
    Raises DamagedDatabase, BadBackup (the disk gave back something else), Stopped, StorageFull, OSError.
    """
    stop = stop or threading.Event()
    census = take_census(raw, stop)
    done("check")
    part = part_of(target)
    with full_disk(), gone_if_it_fails(part):
        with new_file(part) as file:
            manifest = _write(raw, file, census, reason, taken_at, level, stop)
        done("pack")
        verify(part, stop)
        publish(part, target)
    done("verify")
    return manifest


def part_of(target: Path) -> Path:
    """Where a backup is until it is whole."""
    return target.with_name(f".{target.name}.part")


def manifest_of(path: Path) -> Manifest:
    """What a backup says of itself, by its first page and its size. Raises NotABackup, BadBackup, OSError."""
    with _opened(path) as file:
        return _manifest(file)


def verify(path: Path, stop: threading.Event | None = None) -> Manifest:
    """Read all of a backup and compare its hash; needs no room on the disk.

    The hash is that of a database that was checked when it was packed, so it is not checked again.
    Raises NotABackup, BadBackup, Stopped, OSError.
    """
    with _opened(path) as file:
        manifest = _manifest(file)
        for _ in _stoppable(_raw(file, manifest), stop or threading.Event()):
            pass
        return manifest


def unpack(path: Path, target: Path, stop: threading.Event | None = None) -> Manifest:
    """Write the database in a backup to `target`, which must not exist; fsynced, and checked in every way.

    Never writes more than the manifest announces, and nothing that the disk has no room for. Nothing is
    left if it fails. Raises NotABackup, BadBackup, Stopped, StorageFull, FileExistsError, OSError.
    """
    stop = stop or threading.Event()
    with _opened(path) as file, full_disk():
        manifest = _manifest(file)
        _check_room(target.parent, manifest.bytes)
        with new_file(target) as raw, gone_if_it_fails(target):
            for block in _stoppable(_raw(file, manifest), stop):
                raw.write(block)
            raw.flush()
            os.fsync(raw.fileno())
            _compare(target, manifest, stop)
    return manifest


def take_census(raw: Path, stop: threading.Event | None = None) -> Census:
    """Check a database that nobody has open, and count what is in it. Its -wal, if it has one, is not read.

    Raises DamagedDatabase, Stopped.
    """
    stop = stop or threading.Event()
    try:
        with closing(connect(raw)) as conn, _interrupted_by(stop, conn):
            if problems := [row[0] for row in conn.execute("pragma integrity_check(3)") if row[0] != "ok"]:
                raise DamagedDatabase(f"the database is not sound: {'; '.join(problems)}")
            return _count(conn)
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: of a message that quotes the damage
        if stop.is_set():
            raise Stopped("stopped while the copy was checked") from error
        raise DamagedDatabase(f"the database is not sound: {error}") from error


def connect(raw: Path) -> sqlite3.Connection:
    """Takes no lock and makes no -wal or -shm: for a database that nobody writes to, and without a -wal."""
    conn = sqlite3.connect(f"{raw.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    conn.execute("pragma trusted_schema = off")
    conn.execute("pragma cell_size_check = on")
    return conn


def is_sqlite(path: Path) -> bool:
    """Whether a file begins as SQLite's do. Raises NotABackup, OSError."""
    with _opened(path) as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _write(
    raw: Path,
    file: IO[bytes],
    census: Census,
    reason: Reason,
    taken_at: float,
    level: int,
    stop: threading.Event,
) -> Manifest:
    """The head comes last, and stays empty until all that it describes is there."""
    file.write(bytes(_HEAD))
    sha256, size, synced = hashlib.sha256(), raw.stat().st_size, 0
    for block in _compressed(_stoppable(_blocks(raw), stop), sha256.update, size, level):
        file.write(block)
        if file.tell() - synced >= _PORTION:
            synced = file.tell()
            os.fdatasync(file.fileno())
    manifest = Manifest(
        taken_at=taken_at,
        reason=reason,
        version=__version__,
        sha256=sha256.hexdigest(),
        bytes=size,
        packed=file.tell(),
        **msgspec.structs.asdict(census),
    )
    file.seek(0)
    file.write(_head(manifest))
    file.flush()
    os.fsync(file.fileno())
    return manifest


def _compressed(
    blocks: Iterable[bytes], hear: Callable[[bytes], None], size: int, level: int
) -> Iterator[bytes]:
    parameters = zstd.CompressionParameter
    options: dict[int, int] = {parameters.compression_level: level, parameters.checksum_flag: 1}
    compressor = zstd.ZstdCompressor(options=options)
    compressor.set_pledged_input_size(size)
    for block in blocks:
        hear(block)
        yield compressor.compress(block)
    yield compressor.flush()


def _head(manifest: Manifest) -> bytes:
    text = msgspec.json.encode(manifest)
    if len(text) > _HEAD - 100:
        raise BackupError(f"the manifest of a backup has {len(text)} bytes: more than there is room for")
    return _FRAME.pack(_MAGIC, _HEAD - _FRAME.size) + _guarded(text)


def _guarded(text: bytes) -> bytes:
    return (text + b"\n%08x" % zlib.crc32(text)).ljust(_HEAD - _FRAME.size)


def _manifest(file: IO[bytes]) -> Manifest:
    """Read the head; the file then stands at the first byte of the database's frame."""
    head, packed = file.read(_HEAD), os.fstat(file.fileno()).st_size
    if head[: _FRAME.size] != _FRAME.pack(_MAGIC, _HEAD - _FRAME.size):
        raise NotABackup("it is no backup of whisperd's")
    text = head[_FRAME.size :].partition(b"\n")[0]
    if head[_FRAME.size :] != _guarded(text):
        raise BadBackup("its manifest is broken")
    manifest = _decoded(text)
    if manifest.packed != packed:
        raise BadBackup(f"it has {packed} bytes instead of {manifest.packed}")
    return manifest


def _decoded(text: bytes) -> Manifest:
    try:
        known = msgspec.json.decode(text, type=_Any)
        if known.format != FORMAT:
            raise NotABackup(f"its format is {known.format}, this whisperd knows {FORMAT}: upgrade it")
        return msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BadBackup(f"its manifest is broken: {error}") from error


class _Any(Struct):
    """As much of a manifest as every format has."""

    format: int


def _raw(file: IO[bytes], manifest: Manifest) -> Iterator[bytes]:
    """The database, block by block, never more than announced. Raises BadBackup, in the end at the latest."""
    sha256, left = hashlib.sha256(), manifest.bytes
    for block in _decompressed(file):
        left -= len(block)
        if left < 0:
            raise BadBackup(f"it holds more than the {manifest.bytes} bytes that it announces")
        sha256.update(block)
        yield block
    if left:
        raise BadBackup(f"it holds {manifest.bytes - left} bytes instead of {manifest.bytes}")
    if sha256.hexdigest() != manifest.sha256:
        raise BadBackup("its content has another SHA-256 than its manifest says")


def _decompressed(file: IO[bytes]) -> Iterator[bytes]:
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})
    try:
        while not decompressor.eof:
            fed = file.read(_BLOCK) if decompressor.needs_input else b""
            if decompressor.needs_input and not fed:
                raise BadBackup("it was cut off")
            yield decompressor.decompress(fed, max_length=_BLOCK)
    except zstd.ZstdError as error:
        raise BadBackup(f"it cannot be decompressed: {error}") from error
    if decompressor.unused_data or file.read(1):
        raise BadBackup("something follows its end")


def _compare(target: Path, manifest: Manifest, stop: threading.Event) -> None:
    """The manifest comes from the same file as the database: both are checked, neither is believed."""
    try:
        census = take_census(target, stop)
    except DamagedDatabase as error:
        raise BadBackup(str(error)) from error
    for name in Census.__struct_fields__:
        if getattr(census, name) != getattr(manifest, name):
            found, said = getattr(census, name), getattr(manifest, name)
            raise BadBackup(f"its {name} is {found}, its manifest says {said}")


def _count(conn: sqlite3.Connection) -> Census:
    schema = conn.execute("pragma user_version").fetchone()[0]
    if not conn.execute("select 1 from sqlite_schema where name = 'task'").fetchone():
        return Census(schema=schema, tasks=0, by_state={}, chunks=0)
    by_state = dict(conn.execute("select state, count(*) from task group by state").fetchall())
    return Census(
        schema=schema,
        tasks=sum(by_state.values()),
        by_state=by_state,
        chunks=conn.execute("select count(*) from chunk").fetchone()[0],
        last_change=condition.last_change(conn),
        commits=condition.commits(conn),
    )


@contextmanager
def _interrupted_by(stop: threading.Event, conn: sqlite3.Connection) -> Iterator[None]:
    """A progress handler would not do: before 3.42 integrity_check calls none within a table."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            if stop.is_set():
                conn.interrupt()

    watching = threading.Thread(target=watch, name="backup-stop", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()  # before the connection is closed


def _stoppable(blocks: Iterable[bytes], stop: threading.Event) -> Iterator[bytes]:
    for block in blocks:
        if stop.is_set():
            raise Stopped("stopped before its end")
        yield block


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            yield block


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A regular file, opened to read. A link could lead anywhere, a pipe would never answer."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotABackup("it is a symbolic link: name the file itself") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotABackup("it is not a regular file")
    with open(descriptor, "rb") as file:
        yield file


def _check_room(folder: Path, coming: int) -> None:
    """Before the first byte: a file that announces a petabyte must not fill the disk first."""
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < coming:
        raise StorageFull(f"the database in this backup has {coming} bytes, more than the disk has room for")
