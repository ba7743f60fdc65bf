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
from whisperd.condition import Condition, examine, last_change, seal, unseal
from whisperd.db import NEWEST_SCHEMA, SCRIPTS, Database, migrate
from whisperd.events import Events
from whisperd.queue import SqliteQueue

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
    assert (found.schema, found.tasks, found.last_change) == (NEWEST_SCHEMA, 40, 1_000_040.0)


def test_a_sealed_one_is_clean_without_any_check_and_without_the_seal_it_is_checked(closed):
    assert examine(closed).reason == "it is as it was left"
    unseal(closed)
    assert examine(closed).reason == "it was closed in order"


def test_no_file_is_absent(path):
    assert examine(path).condition == Condition.ABSENT


def test_a_link_to_nowhere_is_absent(path):
    path.symlink_to(path.with_name("nowhere.db"))

    assert examine(path).condition == Condition.ABSENT


def test_a_killed_daemon_leaves_a_crashed_one_whose_wal_is_read(crashed):
    found = examine(crashed)

    assert found.condition == Condition.CRASHED
    assert (found.tasks, found.last_change) == (40, 1_000_040.0)


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
    assert (found.tasks, found.last_change) == (0, None)


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
        assert examine(closed).condition in {
            Condition.CHANGED,
            Condition.TORN,
            Condition.FOREIGN,
            Condition.TOO_NEW,
        }
        closed.write_bytes(whole)
    assert examine(closed).condition == Condition.CLEAN


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


def test_a_seal_that_is_damaged_proves_nothing(closed):
    closed.with_name("whisperd.db.seal").write_text("{")

    assert examine(closed).condition == Condition.CHANGED


# --- what is not ours to open ---


def test_a_database_of_another_program_is_foreign(path):
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("create table contact (name text)")

    assert examine(path).condition == Condition.FOREIGN


def test_a_newer_schema_is_too_new_and_the_reason_names_both(closed):
    with closing(sqlite3.connect(closed)) as conn:
        conn.execute("pragma user_version = 999")
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


def test_a_seal_lies_beside_the_file_whatever_link_leads_to_it(closed, tmp_path):
    link = tmp_path / "link.db"
    link.symlink_to(closed)
    unseal(link)

    assert not closed.with_name("whisperd.db.seal").exists()
    assert seal(link)
    assert closed.with_name("whisperd.db.seal").exists()


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
