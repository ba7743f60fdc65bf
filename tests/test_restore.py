"""How a queue comes back: equal row by row, nothing deleted, and whole whenever it is cut off."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import a_task
from tests.test_durable import told_to_the_disk
from tests.trouble import on_a_small_disk
from whisperd import archive, restore
from whisperd.archive import BadBackup, NotABackup
from whisperd.arrival import prepare
from whisperd.backup import BackupStore
from whisperd.condition import Condition, examine
from whisperd.db import SCRIPTS, Database, DatabaseTooNew, migrate
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.snapshot import snapshot_of
from whisperd.task import Cut, Piece, Plan, Segment

ROOT = Path(__file__).resolve().parents[1]


class Box:
    """A data folder, as a daemon leaves it."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "whisperd.db"
        self.spool = folder / "spool"
        self.store = BackupStore(folder / "backups")
        self.spool.mkdir(parents=True)

    def run(self, body):
        async def main():
            async with Database(self.path) as db:
                queue = SqliteQueue(db, Events())
                queue.db = db
                return await body(queue)

        return asyncio.run(main())

    def submit(self, *names, **fields):
        async def body(queue):
            for name in names:
                await queue.submit(a_task(id=name, **fields))
                (self.spool / f"{name}.audio").write_text(name)

        self.run(body)

    def back_up(self):
        async def body(queue):
            return await self.store.take(queue.db, "manual")

        return self.run(body)

    def restore(self, source):
        return restore.restore(source, self.path, self.spool, self.store.folder)

    @property
    def ids(self):
        return [row[0] for row in rows(self.path, "select id from task order by seq")]

    @property
    def audio(self):
        """Where each task's audio is by now."""
        found = list(self.folder.rglob("*.audio"))
        assert all(file.read_text() == file.stem for file in found)
        return {file.stem: file.parent.name for file in found}


@pytest.fixture
def box(tmp_path):
    return Box(tmp_path / "box")


def rows(path, sql):
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as conn:
        return conn.execute(sql).fetchall()


def everything(path):
    tables = [row[0] for row in rows(path, "select name from sqlite_schema where type = 'table'")]
    return {table: rows(path, f"select * from {table}") for table in tables if table != "session"}


def left_over(box):
    return [file.name for file in box.folder.iterdir() if ".restoring" in file.name or "preview" in file.name]


# --- a restore ---


def test_a_restore_on_an_empty_folder_gives_back_every_row(box, tmp_path):
    async def body(queue):
        for n in range(6):
            fields = {"priority": n % 3, "tenant": f"t{n % 2}", "metadata": {"n": n}}
            await queue.submit(a_task(id=f"t{n}", idempotency_key=f"k{n}", **fields))
        plan = await queue.claim()
        cuts = tuple(Cut(pieces=(Piece(n, n + 16_000),)) for n in (0, 16_000))
        await queue.plan(plan, Plan(fingerprint="f", cuts=cuts, duration=2.0, language="en"))
        await queue.finish(await queue.claim(), [Segment(start=0, end=1, text="hello")])
        await queue.finish(await queue.claim(), [Segment(start=1, end=2, text="world")])
        await queue.plan(await queue.claim(), Plan(fingerprint="g", cuts=cuts, duration=2.0, language="en"))
        await queue.finish(await queue.claim(), [Segment(start=0, end=1, text="half")])
        await queue.cancel("t0")
        return await box.store.take(queue.db, "manual")

    backup = box.run(body)
    there = Box(tmp_path / "there")

    done = there.restore(backup.path)

    assert everything(there.path) == everything(box.path)
    assert (done.tasks, done.by_state) == (6, {"completed": 1, "processing": 1, "queued": 3, "cancelled": 1})
    assert (done.set_aside, done.orphans) == (None, 0)
    assert examine(there.path).condition == Condition.CLEAN


def test_what_is_replaced_is_set_aside_with_all_that_belongs_to_it(box):
    box.submit("a")
    backup = box.back_up()
    box.submit("b")
    for end in ("-wal", "-shm", ".seal"):
        Path(f"{box.path}{end}").write_text(end)

    done = box.restore(backup.path)

    assert box.ids == ["a"]
    assert sorted(file.name for file in done.set_aside.iterdir()) == [
        "b.audio", "whisperd.db", "whisperd.db-shm", "whisperd.db-wal", "whisperd.db.seal",
    ]  # fmt: skip
    assert done.set_aside.parent == box.folder / "set-aside"
    assert not Path(f"{box.path}-wal").exists()
    assert left_over(box) == []


def test_the_audio_of_tasks_that_came_after_the_backup_is_kept_where_no_clean_up_finds_it(box):
    box.submit("a", "b")
    backup = box.back_up()
    box.submit("c", "d")

    done = box.restore(backup.path)

    assert done.orphans == 2
    assert box.audio == {"a": "spool", "b": "spool", "c": done.set_aside.name, "d": done.set_aside.name}


def test_a_backup_that_was_used_is_marked(box):
    box.submit("a")
    backup = box.back_up()

    assert box.restore(backup.path).backup == backup.name

    (used,) = box.store.list()
    assert (used.name, used.restored) == (f"{backup.name}.restored", True)
    assert box.restore(used.path).tasks == 1  # by its name it may be used again
    assert [backup.name for backup in box.store.list()] == [used.name]


def test_a_backup_elsewhere_keeps_its_name(box, tmp_path):
    box.submit("a")
    backup = box.back_up()
    elsewhere = backup.path.rename(tmp_path / backup.name)

    assert box.restore(elsewhere).backup == ""
    assert elsewhere.exists()


def test_two_restores_set_aside_into_two_folders(box):
    box.submit("a")
    backup = box.back_up()
    folders = {box.restore(backup.path).set_aside, box.restore(box.store.list()[0].path).set_aside}

    assert len(folders) == 2
    assert all((folder / "whisperd.db").exists() for folder in folders)


def test_a_link_to_the_database_stays_a_link(box, tmp_path):
    box.submit("a")
    backup = box.back_up()
    box.submit("b")
    (tmp_path / "link.db").symlink_to(box.path)

    restore.restore(backup.path, tmp_path / "link.db", box.spool, box.store.folder)

    assert (tmp_path / "link.db").is_symlink()
    assert box.ids == ["a"]


def test_the_database_is_set_aside_before_what_is_worth_nothing_without_it(box):
    """Killed in between, the other way round, it is a database that lost its -wal."""
    box.submit("a")
    for end in ("-wal", "-shm", ".seal"):
        Path(f"{box.path}{end}").write_text(end)
    with told_to_the_disk() as told:
        restore.set_aside(box.path, box.folder / "set-aside" / "now")

    names = ["whisperd.db", "whisperd.db-wal", "whisperd.db-shm", "whisperd.db.seal"]
    made = ["sync box/", "sync set-aside/"]
    assert told == [*made, *(f"name {name} {name}" for name in names), "sync now/", "sync box/"]


def test_a_restore_is_decided_once_all_of_it_is_on_the_disk(box):
    box.submit("a")
    backup = box.back_up()
    with told_to_the_disk() as told:
        box.restore(backup.path)

    part = "whisperd.db.restoring-part"
    decided = told.index(f"name {part} whisperd.db.restoring.{backup.name}")
    assert told[:decided] == [f"sync {part}", f"sync {part}"]  # as it was unpacked, and as it was adopted
    assert told[decided + 1] == "sync box/"


def test_nothing_is_set_aside_over_another_file(box):
    box.submit("a")
    (box.folder / "set-aside" / "now").mkdir(parents=True)
    (box.folder / "set-aside" / "now" / "whisperd.db").write_text("mine")

    with pytest.raises(FileExistsError, match="move it elsewhere"):
        restore.set_aside(box.path, box.folder / "set-aside" / "now")
    assert box.ids == ["a"]


OTHER_DISK = """
import sys
from pathlib import Path
from whisperd import restore

spool = Path(sys.argv[1])
for name in ("a", "b"):
    (spool / f"{name}.audio").write_text(name)
aside = spool.parent / "set-aside" / "now"
print(restore.keep_orphans(spool, {"a"}, aside), restore.keep_orphans(spool, {"a"}, aside))
print(*sorted(str(path.relative_to(spool)) for path in spool.rglob("*.audio")))
"""


def test_audio_on_another_disk_is_set_aside_there(tmp_path):
    """A copy could find no room, or be cut off and then be in the way of every later start."""
    (tmp_path / "spool").mkdir()
    said = on_a_small_disk(tmp_path / "spool", OTHER_DISK).splitlines()

    assert said[-2:] == ["1 0", "a.audio set-aside/now/b.audio"]


def test_a_queue_that_was_given_up_never_has_more_commits_than_the_one_that_goes_on(box):
    """Else a start after a crash takes its last backup for what the restored database has lost."""
    box.submit("a")
    older = box.back_up()
    box.submit("b", "c")
    box.back_up()
    given_up = restore.highest_commits(box.store.folder)

    box.restore(older.path)

    assert box.ids == ["a"]
    assert archive.take_census(box.path).commits > given_up
    assert restore.highest_commits(None) == restore.highest_commits(box.folder / "none") == 0


def test_a_program_in_a_backup_is_not_taken_over_and_ours_are_as_they_should_be(box):
    box.submit("a")
    ours = programs(box.path)
    with closing(sqlite3.connect(box.path)) as conn:
        conn.execute('create trigger "a ""b" after insert on task begin delete from chunk; end')
        conn.execute("create view spy as select * from task")
        conn.execute("drop trigger tally_insert")
        conn.execute(dict(ours)["tally_insert"].replace(", 1)", ", 7)"))
        conn.execute("drop trigger place_enter")
    backup = box.store.take_file(box.path, "manual")
    assert programs(box.path) != ours

    box.restore(backup.path)

    assert programs(box.path) == ours
    box.submit("b")
    assert box.ids == ["a", "b"]


def programs(path):
    return set(rows(path, "select name, sql from sqlite_schema where type in ('trigger', 'view')"))


def test_a_database_of_the_first_schema_is_restored(tmp_path):
    path = tmp_path / "old" / "whisperd.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        migrate(conn, SCRIPTS[:1])

    restore.restore(path, tmp_path / "whisperd.db")
    assert rows(tmp_path / "whisperd.db", "pragma user_version") == [(1,)]


# --- plain databases ---


def test_a_plain_database_is_restored_with_its_wal_and_left_as_it_is(box, tmp_path):
    source = Box(tmp_path / "source")
    source.submit("a")
    with closing(sqlite3.connect(source.path, isolation_level=None)) as conn:
        conn.execute("pragma journal_mode = wal")
        conn.execute("update task set id = 'b'")  # in the -wal only
        for end in ("", "-wal"):
            (tmp_path / f"copy.db{end}").write_bytes(Path(f"{source.path}{end}").read_bytes())
    before = {file.name: file.read_bytes() for file in tmp_path.glob("copy.db*")}

    box.restore(tmp_path / "copy.db")

    assert box.ids == ["b"]
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_latest_db_and_what_was_set_aside_can_be_restored(box):
    box.submit("a")
    backup = box.back_up()
    box.submit("b")
    first = box.restore(box.store.folder / "latest.db")
    assert box.ids == ["a"]

    box.restore(first.set_aside / "whisperd.db")
    assert box.ids == ["a", "b"]
    assert backup.path.exists()


def test_what_cannot_be_restored_is_refused_and_the_database_untouched(box, tmp_path):
    box.submit("a")
    before = box.path.read_bytes()
    text, foreign, torn = tmp_path / "text", tmp_path / "foreign.db", tmp_path / "torn.db"
    text.write_text("hello")
    with closing(sqlite3.connect(foreign)) as conn:
        conn.execute("create table song (name)")
    torn.write_bytes(before[:10_000])
    for source, error, message in [
        (text, NotABackup, "no backup"),
        (foreign, BadBackup, "another program"),
        (torn, BadBackup, "cut short"),
        (box.path, NotABackup, "the database itself"),
        (tmp_path / "none", FileNotFoundError, "No such file"),
    ]:
        with pytest.raises(error, match=message):
            box.restore(source)

    assert box.path.read_bytes() == before
    assert left_over(box) == []
    assert not (box.folder / "set-aside").exists()


def of_a_newer_version(box, tmp_path):
    snapshot_of(box.path, tmp_path / "new.db", threading.Event())
    with closing(sqlite3.connect(tmp_path / "new.db")) as conn:
        conn.execute("pragma user_version = 999")
    return tmp_path / "new.db"


def test_a_backup_of_a_newer_version_is_refused(box, tmp_path):
    box.submit("a")
    new = of_a_newer_version(box, tmp_path)
    packed = tmp_path / "whisperd-20991123T045454.123Z.db.zst"
    archive.pack(new, packed, reason="manual", taken_at=0)

    for source in (new, packed):
        with pytest.raises(DatabaseTooNew, match="999"):
            box.restore(source)
    assert box.ids == ["a"]
    assert left_over(box) == []


# --- the newest that is sound ---


def test_the_newest_sound_backup_is_restored_and_what_was_skipped_is_said(box):
    backups = []
    for name in ("a", "b", "c", "d"):
        box.submit(name)
        backups.append(box.back_up())
    os.truncate(backups[3].path, 5000)
    with open(backups[2].path, "r+b") as file:
        file.seek(6000)
        file.write(b"\x00\x00\x00")

    done = restore.restore_newest(box.store, box.path, box.spool)

    assert done.backup == backups[1].name
    assert box.ids == ["a", "b"]
    assert [text.split(":")[0] for text in done.skipped] == [backups[3].name, backups[2].name]


def test_a_backup_is_not_restored_twice_unless_it_is_named(box):
    names = []
    for name in ("a", "b"):
        box.submit(name)
        names.append(box.back_up().name)

    assert restore.restore_newest(box.store, box.path).backup == names[1]
    assert restore.restore_newest(box.store, box.path).backup == names[0]
    with pytest.raises(restore.NoneSound) as found:
        restore.restore_newest(box.store, box.path)
    assert [text.split(": ")[1] for text in found.value.skipped] == ["it was restored before"] * 2


def test_a_backup_that_knows_less_than_the_database_is_skipped(box):
    box.submit("a")
    box.back_up()
    known = restore.highest_commits(box.store.folder)
    assert known > 0

    with pytest.raises(restore.NoneSound, match="later changes"):
        restore.restore_newest(box.store, box.path, at_least=known + 1)
    assert restore.restore_newest(box.store, box.path, at_least=known).tasks == 1


def test_only_the_newest_sound_backup_is_weighed_against_the_database(box):
    """An older one may know more, but of a queue that was given up."""
    for commits in (1000, 5):
        box.submit(f"t{commits}")
        with closing(sqlite3.connect(box.path)) as conn:
            conn.execute("update session set commits = ?", (commits,))
            conn.commit()
        box.store.take_file(box.path, "manual")
    newest, older = box.store.list()

    with pytest.raises(restore.NoneSound) as found:
        restore.restore_newest(box.store, box.path, at_least=500)
    assert len(found.value.skipped) == 1

    os.truncate(newest.path, 5000)
    assert restore.restore_newest(box.store, box.path, at_least=500).backup == older.name


def test_one_that_was_used_is_still_what_a_database_is_compared_with(box):
    box.submit("a")
    box.back_up()
    restore.restore_newest(box.store, box.path)

    with pytest.raises(restore.NoneSound, match="restored before"):
        restore.restore_newest(box.store, box.path, at_least=0)


# --- what an earlier restore left to do ---


@pytest.fixture
def two(box):
    """A box with two backups, of a, and of a and b."""
    backups = []
    for name in ("a", "b"):
        box.submit(name)
        backups.append(box.back_up())
    box.submit("c")
    return backups


def decided(box, backup):
    """As if a restore of it had been killed."""
    archive.unpack(backup.path, box.folder / f"whisperd.db.restoring.{backup.name}")


def test_a_restore_of_the_newest_that_was_cut_off_is_finished_and_no_older_one_restored(box, two):
    decided(box, two[1])

    done = restore.restore_newest(box.store, box.path, box.spool)

    assert (done.backup, box.ids) == (two[1].name, ["a", "b"])
    assert [backup.restored for backup in box.store.list()] == [True, False]
    assert left_over(box) == []


def test_a_restore_of_an_older_one_that_was_cut_off_comes_before_that_of_the_newest(box, two):
    decided(box, two[0])

    done = restore.restore_newest(box.store, box.path, box.spool)

    assert (done.backup, box.ids) == (two[1].name, ["a", "b"])
    assert left_over(box) == []


def test_with_no_other_backup_the_restore_that_was_cut_off_is_what_was_done(box, two):
    decided(box, two[0])
    for backup in two:
        backup.path.unlink()

    assert restore.restore_newest(box.store, box.path, box.spool).backup == two[0].name
    assert box.ids == ["a"]


def test_a_restore_that_was_cut_off_does_not_come_after_one_that_was_named_later(box, two):
    decided(box, two[1])

    assert box.restore(two[0].path).backup == two[0].name

    assert box.ids == ["a"]
    assert left_over(box) == []
    assert restore.finish(box.path, box.spool, box.store.folder) is None


def test_a_restore_that_was_cut_off_may_be_asked_for_again(box, two):
    decided(box, two[0])

    assert box.restore(two[0].path).backup == two[0].name
    assert box.ids == ["a"]


@pytest.mark.parametrize("content", [b"rubbish", b"SQLite format 3\0" + b"\xff" * 5000, b""])
def test_a_decided_restore_that_was_damaged_since_is_set_aside_and_in_nobodys_way(box, two, content):
    ready = box.folder / f"whisperd.db.restoring.{two[0].name}"
    ready.write_bytes(content)

    assert restore.finish(box.path, box.spool, box.store.folder) is None

    assert box.ids == ["a", "b", "c"]
    assert [path.read_bytes() for path in box.folder.rglob(ready.name)] == [content]
    assert left_over(box) == []
    assert not any(backup.restored for backup in box.store.list())


def test_what_a_killed_preview_left_is_cleared_by_the_next_start(box):
    (box.folder / ".preview-x").mkdir()
    (box.folder / ".preview-x" / "whisperd.db").touch()

    restore.finish(box.path)

    assert left_over(box) == []


# --- looking first ---


def test_a_preview_shows_what_would_run_next_and_changes_nothing(box):
    box.submit("low", priority=-1)
    box.submit("old", "new")
    box.submit("later", run_at=4e9)
    box.submit("high", priority=5)
    (box.spool / "old.audio").unlink()

    async def claim(queue):
        await queue.claim()

    box.run(claim)
    backup = box.back_up()
    before = {file: file.read_bytes() for file in box.folder.rglob("*") if file.is_file()}

    lifo = restore.preview(backup.path, box.path, box.spool, "lifo")
    fifo = restore.preview(backup.path, box.path, box.spool, "fifo", limit=2)

    assert [task.id for task in lifo.upcoming] == ["high", "new", "old", "low", "later"]
    assert [task.id for task in fifo.upcoming] == ["high", "old"]
    assert {task.id: task.audio for task in lifo.upcoming if not task.audio} == {"old": False}
    assert lifo.upcoming[-1].run_at == 4e9
    assert (lifo.tasks, lifo.by_state) == (5, {"queued": 4, "processing": 1})
    assert {file: file.read_bytes() for file in box.folder.rglob("*") if file.is_file()} == before


# --- killed anywhere ---

# Kills itself before the n-th thing that it does to the disk, or ends as it should.
KILL = """
import os, signal, sys
from pathlib import Path
from whisperd import restore
from whisperd.arrival import prepare
from whisperd.backup import BackupStore

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "sqlite3.connect"}

def kill_before(n, folder):
    def hook(event, args):
        nonlocal n
        if event in EVENTS and folder in str(args[0]):
            n -= 1
            if n < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def restored(folder, source):
    restore.restore(source, folder / "whisperd.db", folder / "spool", folder / "backups")

def started(folder, source):
    prepare(folder / "whisperd.db", BackupStore(folder / "backups"), folder / "spool")

verb = {"restore": restored, "start": started}[sys.argv[1]]
for line in sys.stdin:
    n, folder, source = line.split()
    if (child := os.fork()) == 0:
        kill_before(int(n), folder)
        verb(Path(folder), Path(source))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def killed_everywhere(verb, make, tmp_path):
    """Yields (whether it was killed, the box) for each place where `verb` can be killed."""
    command = [sys.executable, "-P", "-c", KILL, verb]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stdin=-1, stdout=-1, text=True) as killer:
        for n in range(1000):
            box = Box(tmp_path / f"{n}")
            source = make(box)
            killer.stdin.write(f"{n} {box.folder} {source}\n")
            killer.stdin.flush()
            status = int(killer.stdout.readline())
            assert status in (0, -9)
            yield status == -9, box
            if status == 0:
                break
        killer.stdin.close()
    assert n > 10  # else the hook saw nothing


@pytest.fixture
def before(tmp_path):
    """A box with a backup of a and b, and with c submitted after it; and how to make another like it."""
    first = Box(tmp_path / "first")
    first.submit("a", "b")
    backup = first.back_up()
    first.submit("c")

    def make(box):
        subprocess.run(["cp", "-a", f"{first.folder}/.", box.folder], check=True)
        return box.store.folder / backup.name

    return make


def test_a_restore_that_is_killed_anywhere_leaves_the_old_queue_or_brings_the_new_one(before, tmp_path):
    outcomes = []
    for killed, box in killed_everywhere("restore", before, tmp_path):
        if killed:
            prepare(box.path, box.store, box.spool)  # the next start
        outcomes.append(tuple(box.ids))

        assert box.ids in (["a", "b", "c"], ["a", "b"])
        assert set(box.audio) == {"a", "b", "c"}
        assert all(box.audio[name] == "spool" for name in box.ids)
        assert ("c" in box.ids) or box.store.list()[0].restored
        assert left_over(box) == []
        assert len(list(box.folder.rglob("whisperd.db"))) == (1 if "c" in box.ids else 2)

    decided = outcomes.index(("a", "b"))
    assert set(outcomes[decided:]) == {("a", "b")}  # once decided, it is done


def test_a_start_that_is_killed_in_its_restore_leaves_it_to_the_next_start(before, tmp_path):
    def make(box):
        before(box)
        os.truncate(box.path, 10_000)
        return "-"

    for killed, box in killed_everywhere("start", make, tmp_path):
        if killed:
            prepare(box.path, box.store, box.spool)

        assert box.ids == ["a", "b"]
        assert box.audio.keys() == {"a", "b", "c"}
        assert box.store.list()[0].restored
        assert left_over(box) == []
