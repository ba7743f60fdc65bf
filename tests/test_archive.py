"""The file format of a backup: whole or refused, and never believed unseen."""

import json
import os
import pickle
import random
import sqlite3
import stat
import subprocess
import threading
import zlib
from contextlib import closing
from hashlib import sha256

import pytest

from tests.conftest import a_task
from tests.test_durable import told_to_the_disk
from tests.trouble import files_end_at, on_a_small_disk
from whisperd import archive
from whisperd.archive import BadBackup, DamagedDatabase, NotABackup, Stopped, zstd
from whisperd.snapshot import snapshot_of
from whisperd.task import StorageFull

HEAD = 4096


@pytest.fixture
def raw(tmp_path, with_queue):
    """A database with some tasks, as a snapshot leaves it."""

    async def body(queue):
        for n in range(20):
            await queue.submit(a_task(metadata={"n": n, "text": random.Random(n).randbytes(300).hex()}))
        await queue.claim()

    with_queue(body)
    snapshot_of(tmp_path / "q.db", tmp_path / "raw.db", threading.Event())
    return tmp_path / "raw.db"


@pytest.fixture
def backup(raw, tmp_path):
    (tmp_path / "backups").mkdir()
    path = tmp_path / "backups" / "whisperd-20261123T045454.123Z.db.zst"
    archive.pack(raw, path, reason="manual", taken_at=1_795_409_694.123)
    return path


def refused(path, target, error=BadBackup, match=None):
    """Each way to read it says no, and nothing is left."""
    with pytest.raises(error, match=match) as found:
        archive.unpack(path, target)
    assert not target.exists()
    with pytest.raises(type(found.value)):
        archive.verify(path)
    return str(found.value)


def head_of(manifest):
    text = json.dumps(manifest).encode()
    frame = b"\x57\x2a\x4d\x18" + (HEAD - 8).to_bytes(4, "little")
    return (frame + text + b"\n%08x" % zlib.crc32(text)).ljust(HEAD)


def with_manifest(backup, **changes):
    """The same file, with another word in its manifest."""
    content = backup.read_bytes()
    backup.write_bytes(head_of(json.loads(content[8:HEAD].splitlines()[0]) | changes) + content[HEAD:])


def holding(tmp_path, data, **changes):
    """A file in our format around any bytes."""
    path, frame = tmp_path / "made.db.zst", zstd.compress(data)
    manifest = {
        "format": 1,
        "taken_at": 0,
        "reason": "manual",
        "version": "0",
        "bytes": len(data),
        "schema": 1,
    }
    manifest |= {"sha256": sha256(data).hexdigest(), "packed": HEAD + len(frame)}
    path.write_bytes(head_of(manifest | {"tasks": 0, "by_state": {}, "chunks": 0} | changes) + frame)
    return path


def test_what_was_packed_comes_back_byte_by_byte(raw, backup, tmp_path):
    archive.unpack(backup, tmp_path / "back.db")

    assert (tmp_path / "back.db").read_bytes() == raw.read_bytes()


def test_the_manifest_says_what_is_in_it(raw, backup):
    manifest = archive.manifest_of(backup)

    assert (manifest.tasks, manifest.by_state) == (20, {"queued": 19, "processing": 1})
    assert (manifest.chunks, manifest.reason, manifest.taken_at) == (20, "manual", 1_795_409_694.123)
    assert (manifest.bytes, manifest.packed) == (raw.stat().st_size, backup.stat().st_size)
    assert manifest.last_change == 1_000_000.0
    assert 0 < manifest.commits <= 22


def test_it_is_on_the_disk_before_it_has_its_name(raw, tmp_path):
    with told_to_the_disk() as told:
        archive.pack(raw, tmp_path / "b.zst", reason="manual", taken_at=0)

    assert told == ["sync .b.zst.part", "name .b.zst.part b.zst", f"sync {tmp_path.name}/"]


def test_what_is_unpacked_is_on_the_disk(backup, tmp_path):
    with told_to_the_disk() as told:
        archive.unpack(backup, tmp_path / "back.db")

    assert told == ["sync back.db"]


def test_only_its_owner_may_read_it(backup, tmp_path):
    archive.unpack(backup, tmp_path / "back.db")

    assert {stat.S_IMODE(path.stat().st_mode) for path in (backup, tmp_path / "back.db")} == {0o600}


def test_the_zstd_command_makes_a_database_of_it(raw, backup):
    done = subprocess.run(["zstd", "-dc", backup], capture_output=True, check=True)

    assert done.stdout == raw.read_bytes()


def test_it_is_smaller_than_the_database(raw, backup):
    assert backup.stat().st_size < raw.stat().st_size


def test_the_manifest_is_read_without_the_rest(backup):
    """A list of a hundred backups must not read a hundred databases."""
    flip(backup, -10)

    assert archive.manifest_of(backup).tasks == 20


# --- what is not whole ---


def flip(path, at, bit=0):
    with open(path, "r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1 << bit]))


def test_one_that_was_cut_off_anywhere_is_refused(backup, tmp_path):
    whole = backup.read_bytes()
    lengths = {0, 1, 7, 8, 100, HEAD - 1, HEAD, HEAD + 1, HEAD + 4, len(whole) - 4, len(whole) - 1}
    for length in sorted(lengths | set(range(0, len(whole), 997))):
        backup.write_bytes(whole[:length])
        refused(backup, tmp_path / "back.db", (BadBackup, NotABackup))


def test_one_that_was_cut_off_is_refused_though_its_manifest_agrees(backup, tmp_path):
    whole = backup.read_bytes()
    for length in range(HEAD, len(whole), 1999):
        backup.write_bytes(whole[:length])
        with_manifest(backup, packed=length)
        refused(backup, tmp_path / "back.db", match=r"cut off|decompressed")


def test_no_flipped_bit_goes_unseen(backup, tmp_path):
    chance, size = random.Random(1), backup.stat().st_size
    for _ in range(150):
        place, bit = chance.choice([chance.randrange(HEAD), chance.randrange(size)]), chance.randrange(8)
        flip(backup, place, bit)
        refused(backup, tmp_path / "back.db", (BadBackup, NotABackup))
        flip(backup, place, bit)

    archive.unpack(backup, tmp_path / "back.db")


def test_something_that_follows_the_end_is_refused(backup, tmp_path):
    with open(backup, "ab") as file:
        size = file.write(zstd.compress(b"more"))
    with_manifest(backup, packed=backup.stat().st_size)

    assert size
    refused(backup, tmp_path / "back.db", match="follows its end")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"bytes": 4096}, "more than the 4096 bytes"),
        ({"bytes": 10**7}, "instead of 10000000"),
        ({"bytes": -1}, "manifest is broken"),
        ({"tasks": "20"}, "manifest is broken"),
        ({"packed": 1}, "instead of 1$"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(backup, tmp_path, changes, message):
    with_manifest(backup, **changes)

    refused(backup, tmp_path / "back.db", match=message)


@pytest.mark.parametrize(
    "changes",
    [
        {"tasks": 19},
        {"chunks": 0},
        {"by_state": {"queued": 20}},
        {"schema": 99},
        {"last_change": 1.0},
        {"commits": 1},
    ],
)
def test_counts_that_do_not_fit_are_found_when_it_is_unpacked(backup, tmp_path, changes):
    with_manifest(backup, **changes)

    with pytest.raises(BadBackup, match=f"its {next(iter(changes))} is"):
        archive.unpack(backup, tmp_path / "back.db")
    assert not (tmp_path / "back.db").exists()


def test_a_format_of_the_future_is_not_guessed_at(backup, tmp_path):
    with_manifest(backup, format=2)

    refused(backup, tmp_path / "back.db", NotABackup, "upgrade")


def test_a_manifest_from_before_commits_were_counted_is_read(raw, tmp_path):
    with closing(sqlite3.connect(raw)) as conn:
        conn.execute("update session set commits = 0")
        conn.commit()
    path = tmp_path / "b.db.zst"
    archive.pack(raw, path, reason="manual", taken_at=0)
    content = path.read_bytes()
    manifest = json.loads(content[8:HEAD].splitlines()[0])
    del manifest["commits"]
    path.write_bytes(head_of(manifest) + content[HEAD:])

    assert archive.unpack(path, tmp_path / "back.db").commits == 0


# --- what means harm ---


def test_a_bomb_writes_no_more_than_it_announces(tmp_path):
    bomb = holding(tmp_path, bytes(300_000_000), bytes=1_000_000)

    with files_end_at(2_000_000):
        refused(bomb, tmp_path / "back.db", match="more than the 1000000 bytes")


def test_one_that_announces_a_petabyte_is_refused_before_a_byte_is_written(tmp_path):
    bomb = holding(tmp_path, bytes(1000), bytes=10**15)

    with pytest.raises(StorageFull, match="1000000000000000 bytes"):
        archive.unpack(bomb, tmp_path / "back.db")
    assert not (tmp_path / "back.db").exists()


def test_a_window_of_many_megabytes_is_refused(tmp_path):
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    data = os.urandom(1000)
    frame = compressor.compress(data) + compressor.flush()
    path = holding(tmp_path, data, packed=HEAD + len(frame))
    path.write_bytes(path.read_bytes()[:HEAD] + frame)

    refused(path, tmp_path / "back.db", match="memory")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "whisperd-20261123T045454.123Z.db.zst"
    path.write_bytes(pickle.dumps(Evil()))

    refused(path, tmp_path / "back.db", NotABackup)
    with pytest.raises(BadBackup):
        archive.unpack(holding(tmp_path, pickle.dumps(Evil())), tmp_path / "back.db")
    assert not (tmp_path / "pwned").exists()


def test_what_is_no_file_is_refused_without_waiting(backup, tmp_path):
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(backup)
    os.mkfifo(pipe)

    refused(link, tmp_path / "back.db", NotABackup, "symbolic link")
    refused(pipe, tmp_path / "back.db", NotABackup, "not a regular file")
    refused(tmp_path, tmp_path / "back.db", NotABackup, "not a regular file")
    with pytest.raises(FileNotFoundError):
        archive.unpack(tmp_path / "none", tmp_path / "back.db")


def test_an_existing_file_is_never_written_over(backup, tmp_path):
    (tmp_path / "back.db").write_text("mine")

    with pytest.raises(FileExistsError):
        archive.unpack(backup, tmp_path / "back.db")
    assert (tmp_path / "back.db").read_text() == "mine"


def test_a_database_that_is_not_sound_is_not_packed(raw, tmp_path):
    with open(raw, "r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 8192)

    with pytest.raises(DamagedDatabase, match="not sound"):
        archive.pack(raw, tmp_path / "b.db.zst", reason="manual", taken_at=0)
    assert not list(tmp_path.glob("*b.db.zst*"))


def test_a_sound_database_in_a_backup_that_is_damaged_in_its_pages_is_refused(raw, tmp_path):
    """Its hash agrees: whoever made it packed a broken database."""
    with open(raw, "r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 8192)
    path = holding(tmp_path, raw.read_bytes())

    with pytest.raises(BadBackup, match="not sound"):
        archive.unpack(path, tmp_path / "back.db")
    assert not (tmp_path / "back.db").exists()


def test_damage_that_is_not_even_text_is_a_damaged_database(raw):
    """SQLite quotes the broken schema in its message, which Python then cannot decode."""
    content = raw.read_bytes()
    raw.write_bytes(content.replace(b"chunkchunk", b"\xff\xfeunkchunk", 1))
    with closing(archive.connect(raw)) as conn, pytest.raises(UnicodeDecodeError):
        conn.execute("pragma integrity_check")

    with pytest.raises(DamagedDatabase, match="not sound"):
        archive.take_census(raw)


def test_a_manifest_too_long_for_its_frame_is_an_error_and_leaves_nothing(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "__version__", "9" * 5000)

    with pytest.raises(archive.BackupError, match="manifest"):
        archive.pack(raw, tmp_path / "b.db.zst", reason="manual", taken_at=0)
    assert not list(tmp_path.glob("*b.db.zst*"))


# --- stopping, and disks ---


@pytest.mark.parametrize("verb", ["pack", "verify", "unpack"])
def test_a_stop_leaves_nothing(raw, backup, tmp_path, verb):
    stop = threading.Event()
    stop.set()
    before = sorted(tmp_path.rglob("*"))
    calls = {
        "pack": lambda: archive.pack(raw, tmp_path / "b.zst", reason="manual", taken_at=0, stop=stop),
        "verify": lambda: archive.verify(backup, stop),
        "unpack": lambda: archive.unpack(backup, tmp_path / "back.db", stop),
    }

    with pytest.raises(Stopped):
        calls[verb]()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_long_check_is_interrupted(tmp_path):
    with closing(sqlite3.connect(tmp_path / "big.db")) as conn:
        conn.execute("create table t (a)")
        conn.execute("create index i on t (a)")
        conn.execute(
            "with recursive n (i) as (select 1 union all select i + 1 from n limit 300000) "
            "insert into t select random() from n"
        )
        conn.commit()
    stop = threading.Event()
    threading.Timer(0.02, stop.set).start()

    with pytest.raises(Stopped):
        archive.take_census(tmp_path / "big.db", stop)


SMALL = """
import sys
from pathlib import Path
from whisperd import archive
from whisperd.task import StorageFull

folder = Path(sys.argv[1])
raw, out = folder.parent / "raw.db", folder / "whisperd-20261123T045454.123Z.db.zst"
ballast = folder / "ballast"
for pages in (0, 1, 2):
    ballast.write_bytes(bytes(2**20 - pages * 4096))
    try:
        archive.pack(raw, out, reason="manual", taken_at=0)
        print("packed")
    except StorageFull:
        print("full", *(f.name for f in folder.iterdir()))
    try:
        archive.unpack(folder.parent / "backups" / out.name, folder / "back.db")
        print("unpacked")
    except StorageFull:
        print("full", *(f.name for f in folder.iterdir()))
ballast.unlink()
archive.pack(raw, out, reason="manual", taken_at=0)
print(archive.verify(out).tasks)
"""


def test_a_full_disk_leaves_nothing_and_is_named(raw, backup, tmp_path):
    (tmp_path / "disk").mkdir()

    *refusals, tasks = on_a_small_disk(tmp_path / "disk", SMALL).splitlines()
    assert refusals == ["full ballast"] * 6
    assert tasks == "20"
