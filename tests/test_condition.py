import asyncio
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from tests.conftest import Clock, a_task
from tests.notes import ROOT, in_another_process
from tests.trouble import files_end_at
from whisperd.condition import Condition, commits, examine, known_tasks, last_change, seal, undo, unseal
from whisperd.db import NEWEST_SCHEMA, SCRIPTS, Database, migrate
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.wal import commits_behind_damage

PAGE = 4096


@pytest.fixture
def path(tmp_path):
    return tmp_path / "whisperd.db"


@pytest.fixture(scope="module")
def rest(tmp_path_factory):
    """What a daemon leaves that stopped in order: a file with 40 tasks, sealed."""
    folder = tmp_path_factory.mktemp("rest")
    asyncio.run(submit(folder / "whisperd.db", 40))
    assert seal(folder / "whisperd.db")
    return folder


@pytest.fixture
def closed(rest, path):
    shutil.copytree(rest, path.parent, dirs_exist_ok=True)
    return path


async def submit(path, n):
    clock = Clock()
    async with Database(path) as db:
        queue = SqliteQueue(db, Events(), now=clock)
        for _ in range(n):
            clock.now += 1
            await queue.submit(a_task(metadata={"text": "words " * 100}))


KILLED = """
import asyncio, os, sys
from pathlib import Path
from tests.test_condition import submit
from whisperd.db import Database

exit = Database.__aexit__
Database.__aexit__ = lambda *args: os._exit(0)
asyncio.run(submit(Path(sys.argv[1]), 40))
"""


@pytest.fixture(scope="module")
def wreck(tmp_path_factory):
    """What a daemon that was killed leaves: the file, its -wal with what it did, its -shm."""
    folder = tmp_path_factory.mktemp("wreck")
    command = [sys.executable, "-P", "-c", KILLED, str(folder / "whisperd.db")]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    return folder


@pytest.fixture
def crashed(wreck, path):
    shutil.copytree(wreck, path.parent, dirs_exist_ok=True)
    return path


def files(path):
    """Everything in the folder, save the -shm: SQLite makes it anew whenever somebody looks."""
    return {
        f.name: f.read_bytes() for f in path.parent.iterdir() if f.is_file() and not f.name.endswith("-shm")
    }


def flip(path, at):
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def cut(path, size):
    with path.open("r+b") as file:
        file.truncate(size)


# --- a file as it should be ---


def test_a_database_that_was_closed_in_order_is_clean(closed):
    found = examine(closed)

    assert found.condition == Condition.CLEAN
    assert (found.schema, found.tasks, found.commits) == (NEWEST_SCHEMA, 40, 40)


def test_a_sealed_one_is_clean_without_any_check_and_without_the_seal_it_is_checked(closed):
    assert examine(closed).sealed
    assert examine(closed).reason == "it is as it was left"
    unseal(closed)
    assert not examine(closed).sealed
    assert examine(closed).reason == "it was closed in order"


def test_no_file_is_absent(path):
    assert examine(path).condition == Condition.ABSENT


def test_a_link_to_nowhere_is_absent(path):
    path.symlink_to(path.with_name("nowhere.db"))

    assert examine(path).condition == Condition.ABSENT


def test_a_killed_daemon_leaves_a_crashed_one_whose_wal_is_read(crashed):
    found = examine(crashed)

    assert found.condition == Condition.CRASHED
    assert (found.tasks, found.commits) == (40, 40)


def test_a_link_to_a_crashed_one_is_crashed(crashed, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(crashed)

    assert examine(link).condition == Condition.CRASHED


def test_a_database_of_the_first_schema_is_told_from_a_strange_one(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("pragma journal_mode = wal")
        migrate(conn, SCRIPTS[:1])
    found = examine(path)

    assert (found.condition, found.schema, found.tasks) == (Condition.CLEAN, 1, 0)
    assert found.commits is None  # it does not count


def test_a_copy_by_the_database_itself_is_clean(closed, tmp_path):
    target = tmp_path / "copy.db"

    async def main():
        async with Database(closed) as db:
            await db.snapshot(target, threading.Event())

    asyncio.run(main())
    found = examine(target)

    assert (found.condition, found.tasks) == (Condition.CLEAN, 40)


# --- looking changes nothing ---

ATTACKS = {
    "clean": lambda path: None,
    "no -wal": lambda path: os.unlink(f"{path}-wal"),
    "no -shm": lambda path: os.unlink(f"{path}-shm"),
    "empty -wal": lambda path: os.truncate(f"{path}-wal", 0),
    "half a -wal": lambda path: os.truncate(f"{path}-wal", os.path.getsize(f"{path}-wal") // 2),
    "cut short": lambda path: cut(path, path.stat().st_size - 100),
    "emptied": lambda path: cut(path, 0),
    "text": lambda path: path.write_text("no database " * 1000),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_looking_changes_nothing_and_finds_the_same_again(crashed, attack):
    attack(crashed)
    before = files(crashed)
    found = examine(crashed)

    assert files(crashed) == before
    assert examine(crashed) == found


def test_looking_at_a_closed_one_makes_no_file(closed):
    before = files(closed)
    examine(closed)

    assert sorted(f.name for f in closed.parent.iterdir()) == sorted(before)
    assert files(closed) == before


# --- a file without its -wal ---


def test_a_crashed_one_without_its_wal_is_bare_and_knows_less(crashed):
    os.unlink(f"{crashed}-wal")
    found = examine(crashed)

    assert found.condition == Condition.BARE
    assert "-wal is missing" in found.reason
    assert (found.tasks, found.commits) == (0, 0)


def test_a_crashed_one_without_its_shm_is_crashed_and_whole(crashed):
    os.unlink(f"{crashed}-shm")
    found = examine(crashed)

    assert (found.condition, found.tasks) == (Condition.CRASHED, 40)


@pytest.mark.parametrize("seconds", [0.01, 60], ids=["an idle one", "one that was just written to"])
def test_a_cp_of_a_live_database_is_bare(path, tmp_path, seconds):
    copy = tmp_path / "copy.db"

    async def main():
        async with Database(path, idle_seconds=seconds) as db:
            await SqliteQueue(db, Events()).submit(a_task())
            async with asyncio.timeout(10):
                while seconds < 1 and os.path.getsize(f"{path}-wal"):  # noqa: ASYNC110, ASYNC240
                    await asyncio.sleep(0.005)
            in_another_process(f"import shutil, sys; shutil.copy(sys.argv[1], {str(copy)!r})", path)

    asyncio.run(main())
    found = examine(copy)

    assert (found.condition, found.tasks) == (Condition.BARE, 1 if seconds < 1 else 0)


def test_a_cp_put_in_the_place_of_a_sealed_one_is_bare(closed, wreck):
    shutil.copy(wreck / "whisperd.db", closed)

    assert examine(closed).condition == Condition.BARE


def test_a_cp_amid_writes_is_bare_or_torn_and_never_clean(path, tmp_path):
    """Copied while checkpoints run: of 150 such copies 106 were malformed."""
    writer = subprocess.Popen(
        [sys.executable, "-P", "-c", BUSY, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    copies = [tmp_path / f"copy-{n}.db" for n in range(12)]
    try:
        writer.stdout.readline()
        for copy in copies:
            shutil.copy(path, copy)
            writer.stdout.readline()
    finally:
        writer.kill()
        writer.communicate()

    found = {examine(copy).condition for copy in copies}
    assert found <= {Condition.BARE, Condition.TORN}


BUSY = """
import asyncio, sys
from pathlib import Path
from tests.conftest import a_task
from whisperd.db import Database
from whisperd.events import Events
from whisperd.queue import SqliteQueue

async def main():
    async with Database(Path(sys.argv[1])) as db:
        queue = SqliteQueue(db, Events())
        while True:
            await asyncio.gather(*(queue.submit(a_task(metadata={"t": "x" * 500})) for _ in range(200)))
            print(flush=True)

asyncio.run(main())
"""


# --- damage ---


@pytest.mark.parametrize("left", [0, 1, 15, 99, 100, 4095, 4096, 8192, -4096, -1])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_file_that_was_cut_short_is_torn_and_the_reason_says_so(closed, left, sealed):
    if not sealed:
        unseal(closed)
    cut(closed, left if left >= 0 else closed.stat().st_size + left)
    found = examine(closed)

    assert found.condition == Condition.TORN
    assert any(word in found.reason for word in ("empty", "not a database", "cut short"))


@pytest.mark.parametrize("left", [0, 100, 4096, 8192])
def test_a_crashed_one_that_was_cut_short_is_torn_or_whole_by_its_wal(crashed, left):
    cut(crashed, left)
    found = examine(crashed)

    assert found.condition == Condition.TORN or found.tasks == 40


def test_a_crash_amid_a_checkpoint_is_no_damage(crashed, tmp_path):
    """Page 1 goes first and may name pages that the file does not have yet; the -wal has them."""
    (tmp_path / "after").mkdir()
    after = tmp_path / "after" / "whisperd.db"
    shutil.copy(crashed, after)
    shutil.copy(f"{crashed}-wal", f"{after}-wal")
    with closing(sqlite3.connect(after)) as conn:
        conn.execute("pragma wal_checkpoint(truncate)")
    with crashed.open("r+b") as file:
        file.write(after.read_bytes()[:PAGE])
    found = examine(crashed)

    assert crashed.stat().st_size < after.stat().st_size
    assert (found.condition, found.tasks) == (Condition.CRASHED, 40)


def test_any_flipped_bit_of_a_sealed_file_is_seen(closed):
    size = closed.stat().st_size
    whole = closed.read_bytes()
    for at in [*range(0, 100, 7), *range(100, size, size // 40), size - 1]:
        flip(closed, at)
        assert examine(closed).condition in {Condition.CHANGED, Condition.TORN}
        closed.write_bytes(whole)
    assert examine(closed).condition == Condition.CLEAN


@pytest.mark.parametrize("at", [47, 60, 61, 62], ids=lambda at: f"byte {at}")
def test_a_sealed_file_whose_header_looks_newer_or_strange_is_torn(closed, at):
    """The schema's format and number: without a seal they are believed."""
    flip(closed, at)
    found = examine(closed)

    assert found.condition == Condition.TORN
    assert "not what was sealed" in found.reason
    unseal(closed)
    assert examine(closed).condition in {Condition.TOO_NEW, Condition.UNREADABLE}


def test_a_sealed_file_whose_tables_have_lost_their_names_is_torn(closed):
    with closing(sqlite3.connect(closed)) as conn:
        conn.execute("pragma foreign_keys = off")
        conn.execute("alter table task rename to tbsk")
        conn.execute("pragma wal_checkpoint(truncate)")

    assert examine(closed).condition == Condition.TORN
    unseal(closed)
    assert examine(closed).condition == Condition.FOREIGN


NO_TEXT = "cast(x'74ff' as text)"


@pytest.mark.parametrize(
    "change",
    [
        f"name = {NO_TEXT}, sql = 'create nonsense'",  # quoted in SQLite's message
        f"name = {NO_TEXT}, tbl_name = {NO_TEXT}, sql = replace(sql, 'song', {NO_TEXT})",
    ],
)
def test_a_schema_whose_text_is_no_text_is_torn(closed, change):
    """Python cannot decode it."""
    unseal(closed)
    with closing(sqlite3.connect(closed)) as conn:
        conn.execute("create table song (name)")
        conn.execute("pragma writable_schema = on")
        conn.execute(f"update sqlite_schema set {change} where name = 'song'")
        conn.commit()
        conn.execute("pragma wal_checkpoint(truncate)")

    assert examine(closed).condition == Condition.TORN


@pytest.mark.parametrize("at", [0, 5, 15, 17, PAGE, PAGE + 1, 3 * PAGE + 2])
def test_damage_to_what_holds_a_file_together_is_seen_without_a_seal_too(closed, at):
    unseal(closed)
    with closed.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff\xfe\xfd\xfc" if at >= 100 else b"\x07")
    found = examine(closed)

    assert found.condition == Condition.TORN
    assert found.reason


def test_a_page_of_zeros_in_the_middle_is_torn(closed):
    unseal(closed)
    with closed.open("r+b") as file:
        file.seek(closed.stat().st_size // 2 // PAGE * PAGE)
        file.write(bytes(PAGE))

    assert examine(closed).condition == Condition.TORN


@pytest.mark.parametrize("text", [b"", b"x", b"hello, world\n" * 1000, bytes(PAGE), b"SQLite format 3\0"])
def test_what_is_no_database_is_torn(path, text):
    path.write_bytes(text)

    assert examine(path).condition == Condition.TORN


def test_a_wal_that_is_cut_short_is_a_crash_with_what_it_still_says(crashed):
    wal = f"{crashed}-wal"
    os.truncate(wal, os.path.getsize(wal) * 2 // 3)
    found = examine(crashed)

    assert found.condition == Condition.CRASHED
    assert 0 < found.tasks < 40


# --- a -wal that is damaged ---

FRAME = PAGE + 24  # bytes, behind a header of 32
COMMIT = 4  # bytes in the head of a frame: how large the database is after it; 0 if it commits nothing


def frames(wal):
    """Where they begin, and whether they commit."""
    content = wal.read_bytes()
    for at in range(32, len(content) - FRAME + 1, FRAME):
        yield at, any(content[at + COMMIT : at + COMMIT + 4])


def commits_in(wal):
    return [at for at, commit in frames(wal) if commit]


@pytest.fixture
def wal(crashed):
    return crashed.with_name("whisperd.db-wal")


@pytest.mark.parametrize("part", [0, 8, 12, 16, 24, 100], ids=lambda part: f"byte {part} of a frame")
@pytest.mark.parametrize("n", [0, 20, 37])
def test_commits_behind_a_flipped_bit_in_the_wal_are_missed(crashed, wal, n, part):
    flip(wal, commits_in(wal)[n] + FRAME + part)  # the first frame of the next commit
    found = examine(crashed)

    assert found.condition == Condition.BARE
    assert f"{39 - n} commits" in found.reason
    assert found.tasks == found.commits == n + 1
    assert examine(crashed) == found


@pytest.mark.parametrize("at", [0, 4, 8, 12, 16, 20, 24, 28])
def test_a_wal_whose_header_is_damaged_is_damaged(crashed, wal, at):
    flip(wal, at)
    found = examine(crashed)

    assert (found.condition, found.tasks) == (Condition.BARE, 0)
    assert "-wal is damaged" in found.reason


@pytest.mark.parametrize("how", ["its first frame", "its last frame", "cut off"])
def test_the_last_commit_may_be_torn_by_a_power_cut_and_was_told_to_nobody(crashed, wal, how):
    *_, before, last = commits_in(wal)
    match how:
        case "its first frame":
            flip(wal, before + FRAME + 100)
        case "its last frame":
            flip(wal, last + 100)
        case _:
            os.truncate(wal, last + 100)
    found = examine(crashed)

    assert (found.condition, found.commits) == (Condition.CRASHED, 39)


@pytest.mark.parametrize("index", [None, b"", bytes(32_768), bytes(12) + b"\1" * 20_000])
def test_where_sqlite_has_not_said_how_far_it_read_no_damage_is_claimed(crashed, wal, index):
    flip(wal, commits_in(wal)[20] + 100)
    examine(crashed)
    assert commits_behind_damage(crashed) == 20
    shm = crashed.with_name("whisperd.db-shm")
    shm.unlink()
    if index is not None:
        shm.write_bytes(index)

    assert commits_behind_damage(crashed) == 0


LIVES = """
import os, sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None)
conn.execute("pragma cache_size = 5")  # a large change goes to the -wal before it is committed
conn.execute("pragma wal_checkpoint(full)")  # the next commit begins the -wal anew, over its old frames
conn.execute("update session set version = 'new'")
conn.execute("begin")
conn.execute("insert into tally select 'x', 0, hex(randomblob(9000)), n, 1 from (select seq as n from task)")
conn.execute("rollback")
os._exit(0)
"""


@pytest.mark.parametrize("torn", [False, True])
def test_what_an_earlier_life_of_the_wal_and_a_rollback_left_in_it_is_no_damage(crashed, wal, torn):
    in_another_process(LIVES, crashed)
    assert len(commits_in(wal)) > 5
    if torn:
        flip(wal, commits_in(wal)[0] + 100)
    found = examine(crashed)

    assert (found.condition, found.tasks) == (Condition.CRASHED, 40)


# --- a change that was cut off ---

CUT_OFF = """
import os, sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None)
conn.execute("pragma journal_mode = delete")
conn.execute("pragma cache_size = 5")
conn.execute("begin")
conn.execute("update task set metadata = hex(randomblob(4000))")
os._exit(0)
"""


def test_a_change_that_was_cut_off_is_undone(closed):
    unseal(closed)
    in_another_process(CUT_OFF, closed)
    assert examine(closed).reason == "a change was cut off; SQLite will undo it"

    assert undo(closed)
    found = examine(closed)
    assert (found.condition, found.tasks) == (Condition.CLEAN, 40)
    with closing(sqlite3.connect(closed)) as conn:
        assert conn.execute("select count(*) from task where metadata like '%words%'").fetchone() == (40,)


def test_undoing_leaves_a_wal_as_it_is(crashed, wal):
    crashed.with_name("whisperd.db-journal").write_bytes(b"x")
    before = wal.read_bytes()

    assert undo(crashed)
    assert wal.read_bytes() == before
    assert examine(crashed).condition == Condition.CRASHED


@pytest.mark.parametrize("content", [b"", bytes(512)], ids=["empty", "ended"])
def test_a_journal_that_undoes_nothing_is_overlooked(closed, content):
    journal = closed.with_name("whisperd.db-journal")
    journal.write_bytes(content)

    assert undo(closed)
    assert journal.exists()
    assert examine(closed).condition == Condition.CLEAN


def test_a_journal_beside_an_empty_file_is_left_to_who_sets_it_aside(path):
    """It may hold the pages that the file has lost; SQLite would remove it."""
    path.touch()
    journal = path.with_name("whisperd.db-journal")
    journal.write_bytes(b"x")

    assert undo(path)
    assert journal.exists()


# --- changes by others ---

WRITE = """
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1])
conn.execute("update task set priority = 7")
conn.commit()
conn.close()
"""
READ = WRITE.replace("update task set priority = 7", "select count(*) from task").replace("conn.commit()", "")


def test_a_sealed_file_that_another_program_wrote_to_is_changed_and_sound(closed):
    in_another_process(WRITE, closed)
    found = examine(closed)

    assert (found.condition, found.tasks) == (Condition.CHANGED, 40)
    assert "no daemon" in found.reason


def test_a_sealed_file_that_another_program_only_read_is_clean(closed):
    in_another_process(READ, closed)

    assert examine(closed).condition == Condition.CLEAN


def test_a_sealed_file_with_a_wal_of_another_program_is_changed(closed):
    in_another_process(WRITE.replace("conn.close()", "import os; os._exit(0)"), closed)

    assert os.path.getsize(f"{closed}-wal") > 0
    assert examine(closed).condition == Condition.CHANGED


def test_another_sound_database_in_the_place_of_a_sealed_one_is_changed(closed, tmp_path):
    other = tmp_path / "other.db"
    asyncio.run(submit(other, 3))
    other.replace(closed)
    found = examine(closed)

    assert (found.condition, found.tasks) == (Condition.CHANGED, 3)


@pytest.mark.parametrize("content", [b"", b"{", b'{"size": 1}', b'{"size": 1, "sha256": "\xff"}'])
def test_a_seal_that_is_damaged_proves_nothing(closed, content):
    closed.with_name("whisperd.db.seal").write_bytes(content)

    assert examine(closed).condition == Condition.CHANGED


# --- what is not ours to open ---


def test_a_database_of_another_program_is_foreign(path):
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("create table contact (name text)")

    assert examine(path).condition == Condition.FOREIGN


@pytest.mark.parametrize("sealed", [True, False])
def test_a_newer_schema_is_too_new_and_the_reason_names_both(closed, sealed):
    with closing(sqlite3.connect(closed)) as conn:
        conn.execute("pragma user_version = 999")
    unseal(closed)
    if sealed:  # by the newer whisperd
        assert seal(closed)
    found = examine(closed)

    assert (found.condition, found.schema) == (Condition.TOO_NEW, 999)
    assert f"schema 999, this one knows {NEWEST_SCHEMA}" in found.reason


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_unreadable(path, make):
    make(path)
    found = examine(path)

    assert (found.condition, found.reason) == (Condition.UNREADABLE, "it is not a file")


def test_a_file_that_may_not_be_read_is_unreadable(closed):
    closed.chmod(0)
    if os.geteuid() != 0:
        assert examine(closed).condition == Condition.UNREADABLE
        return
    code = (
        "import os, sys; from pathlib import Path; from whisperd.condition import examine; os.setuid(65534)"
    )
    code += "; print(examine(Path(sys.argv[1])).condition)"
    for folder in (closed.parent, *closed.parent.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o011)
    command = [sys.executable, "-P", "-c", code, str(closed)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("unreadable\n", "")


# --- the seal ---


def test_a_seal_is_the_size_and_hash_of_the_file_and_only_its_owner_may_read_it(closed):
    file = closed.with_name("whisperd.db.seal")
    content = json.loads(file.read_text())

    assert content["size"] == closed.stat().st_size
    assert len(content["sha256"]) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_database_that_was_not_closed_in_order_gets_no_seal(crashed):
    assert seal(crashed) is False
    os.unlink(f"{crashed}-wal")
    assert seal(crashed) is False
    assert not crashed.with_name("whisperd.db.seal").exists()


def test_a_database_with_the_wal_of_another_program_gets_no_seal(closed):
    in_another_process(WRITE.replace("conn.close()", "import os; os._exit(0)"), closed)

    assert seal(closed) is False


def test_a_seal_that_would_take_too_long_is_not_made_and_the_old_one_is_gone(closed):
    assert seal(closed, within=-1) is False
    assert not closed.with_name("whisperd.db.seal").exists()


def test_a_seal_that_finds_no_room_leaves_nothing(closed):
    with files_end_at(10), pytest.raises(OSError, match="too large"):
        seal(closed)

    assert [file.name for file in closed.parent.iterdir()] == [closed.name]


def test_a_seal_is_on_the_disk_before_it_has_its_name(closed, monkeypatch):
    seen = []
    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(seen, getattr(os, name)))
    seal(closed)

    assert seen == [
        ("fsync", ".whisperd.db.seal.part"),
        ("replace", ".whisperd.db.seal.part"),
        ("fsync", closed.parent.name),
    ]


def noted(seen, call):
    def noting(what, *args, **more):
        name = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else os.fspath(what)
        seen.append((call.__name__, os.path.basename(name)))
        return call(what, *args, **more)

    return noting


def test_a_seal_lies_beside_the_file_whatever_link_leads_to_it(closed, tmp_path):
    link = tmp_path / "link.db"
    link.symlink_to(closed)
    unseal(link)

    assert not closed.with_name("whisperd.db.seal").exists()
    assert seal(link)
    assert closed.with_name("whisperd.db.seal").exists()


# --- what it knows ---


def test_commits_are_counted_and_none_where_the_schema_does_not_count(closed):
    with closing(sqlite3.connect(closed)) as conn:
        assert commits(conn) == 40
        conn.execute("delete from session")
        assert commits(conn) == 0
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        assert commits(conn) == 0
        migrate(conn, SCRIPTS[:1])
        assert commits(conn) == 0


def test_tasks_that_are_only_in_the_wal_are_known(crashed):
    with closing(sqlite3.connect(f"{crashed.as_uri()}?mode=ro", uri=True)) as conn:
        ids = {row[0] for row in conn.execute("select id from task")}

    assert known_tasks(crashed, [*ids, "strange"]) == ids
    assert len(ids) == 40


# --- the last change ---


@pytest.mark.parametrize(
    "change",
    [
        "update task set state = 'cancelled', waiting = 0, finished_at = 2e6 where seq = 3",
        "update task set state = 'processing', started_at = 2e6 where seq = 3",
        "update chunk set state = 'running', beat_at = 2e6 where task = 3",
        "update task set created_at = 2e6 where seq = 40",
        "insert into idempotency values ('default', 'k', 'h', 3, 2e6)",
    ],
)
def test_the_last_change_is_the_latest_of_all_that_leaves_a_time_behind(closed, change):
    with closing(sqlite3.connect(closed)) as conn:
        assert last_change(conn) == 1_000_040.0
        conn.execute(change)
        assert last_change(conn) == 2e6


def test_the_last_change_is_found_by_indexes(closed):
    statements = []
    with closing(sqlite3.connect(closed)) as conn:
        conn.set_trace_callback(statements.append)
        last_change(conn)
        plan = [row[3] for row in conn.execute(f"explain query plan {statements[0]}")]

    walks = [step for step in plan if step.startswith("SCAN")]
    assert walks == ["SCAN CONSTANT ROW", "SCAN task"]  # from the newest seq on, and one step of it
