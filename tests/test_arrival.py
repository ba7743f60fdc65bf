"""What a start does about the database that it finds: never a silent empty queue."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import a_task
from tests.notes import in_another_process
from tests.test_condition import flip
from tests.test_restore import Box
from whisperd import arrival, condition, db
from whisperd.arrival import CannotStart, NoBackup
from whisperd.condition import Condition
from whisperd.db import NEWEST_SCHEMA, DatabaseTooNew, migrate


@pytest.fixture
def box(tmp_path):
    return Box(tmp_path / "box")


def prepare(box, **how):
    return arrival.prepare(box.path, box.store, box.spool, **how)


def files(box):
    """Save the -shm: SQLite makes it anew whenever somebody looks."""
    found = [file for file in box.folder.rglob("*") if file.is_file()]
    return {file: file.read_bytes() for file in found if not file.name.endswith("-shm")}


def refused(box, error, match=None, **how):
    before = files(box)
    with pytest.raises(error, match=match) as found:
        prepare(box, **how)
    assert files(box) == before
    return str(found.value)


def crash(box, *names):
    """A life that submits and is killed; its commits are in the -wal."""
    before = {file.name for file in box.folder.iterdir()}
    live = Box(box.folder / "live")
    if box.path.exists():
        box.path.rename(live.path)

    async def body(queue):
        for name in names:
            await queue.submit(a_task(id=name))
            (box.spool / f"{name}.audio").write_text(name)
        for file in live.folder.glob("whisperd.db*"):  # as a kill leaves them
            shutil.copy(file, box.folder)

    live.run(body)
    shutil.rmtree(live.folder)
    assert before <= {file.name for file in box.folder.iterdir()} | {"live"}


# --- nothing to bring back ---


def test_a_first_start_has_an_empty_queue(box):
    found = prepare(box)

    assert (found.condition, found.recovered) == (Condition.ABSENT, False)
    assert not box.path.exists()


@pytest.mark.parametrize("left", ["nothing in it", "and a journal", "a page without tables", "and a -wal"])
def test_a_first_start_that_was_cut_off_is_one_again(box, left):
    """SQLite makes its first page with a -journal."""
    box.path.touch()
    match left:
        case "and a journal":
            journal(box).write_bytes(bytes.fromhex("d9d505f920a163d7") + bytes(504))
        case "a page without tables":
            without_tables(box)
        case "and a -wal":
            without_tables(box)
            Path(f"{box.path}-wal").touch()

    found = prepare(box)
    assert not found.recovered
    assert "a first start" in found.message
    box.submit("a")
    assert box.ids == ["a"]


def without_tables(box):
    with closing(sqlite3.connect(box.path)) as conn:
        conn.execute("pragma journal_mode = wal")


def journal(box):
    return Path(f"{box.path}-journal")


def test_a_database_that_was_closed_in_order_is_used(box):
    box.submit("a")
    box.back_up()
    condition.seal(box.path)

    found = prepare(box)

    assert (found.condition, found.recovered, found.restored) == (Condition.CLEAN, False, None)
    assert box.ids == ["a"]


def test_a_crash_needs_no_backup(box):
    box.submit("a")
    box.back_up()
    crash(box, "b", "c")

    found = prepare(box)

    assert (found.condition, found.recovered) == (Condition.CRASHED, False)
    assert box.ids == ["a", "b", "c"]
    assert box.audio == dict.fromkeys("abc", "spool")
    assert found.skipped == ()


@pytest.mark.parametrize("after", ["a crash", "an end without a seal"])
def test_audio_of_no_task_is_set_aside_and_not_left_to_the_clean_up(box, after):
    """An upload that was cut off between its file and its row, or a task that the file has lost."""
    box.submit("a")
    if after == "a crash":
        crash(box, "b")
    (box.spool / "x.audio").write_text("x")

    found = prepare(box)

    assert (found.recovered, found.orphans) == (False, 1)
    assert "1 audio files of no task were set aside" in found.message
    assert {name for name, place in box.audio.items() if place != "spool"} == {"x"}
    assert box.audio["x"] == found.set_aside.name


def test_audio_of_no_task_stays_where_the_file_is_just_what_was_left(box):
    """The clean-up may have it: nothing was lost."""
    box.submit("a")
    condition.seal(box.path)
    (box.spool / "x.audio").write_text("x")

    assert prepare(box).orphans == 0
    assert box.audio["x"] == "spool"


# --- a file that has lost something ---


def damage(wal, how):
    size = wal.stat().st_size
    match how:
        case "emptied":
            os.truncate(wal, 0)
        case "cut short":
            os.truncate(wal, size // 4)
        case "a flipped bit":
            flip(wal, size // 4)
        case "a flipped bit in its head":
            flip(wal, 9)


@pytest.mark.parametrize("how", ["emptied", "cut short", "a flipped bit", "a flipped bit in its head"])
def test_a_damaged_wal_loses_nothing_that_a_backup_knows(box, how):
    names = [f"t{n:02}" for n in range(20)]
    box.submit("a")
    crash(box, *names)
    backup = box.store.take_file(box.path, "manual")
    damage(Path(f"{box.path}-wal"), how)

    found = prepare(box)

    assert (found.recovered, found.restored) == (True, backup.name)
    assert box.ids == ["a", *names]
    assert set(box.audio.values()) == {"spool"}
    assert (found.set_aside / "whisperd.db-wal").exists()


def test_a_wal_that_is_damaged_where_no_backup_knows_more_is_used_and_it_is_said(box):
    box.submit("a")
    backup = box.back_up()
    names = [f"t{n:02}" for n in range(20)]
    crash(box, *names)
    damage(Path(f"{box.path}-wal"), "a flipped bit")

    found = prepare(box)

    assert (found.condition, found.recovered, found.restored) == (Condition.BARE, True, None)
    assert "commits in it cannot be read" in found.message
    assert len(found.skipped) == 1
    assert backup.name in found.skipped[0]
    kept = box.ids
    assert 1 < len(kept) < 21
    assert {name for name, place in box.audio.items() if place == "spool"} == set(kept)
    assert found.orphans == 21 - len(kept)


def test_an_old_copy_in_the_place_of_the_database_gives_way_to_what_knows_more(box):
    """As after `cp backups/latest.db whisperd.db` with one that is not the latest any more."""
    box.submit("a")
    box.back_up()
    latest = (box.store.folder / "latest.db").read_bytes()
    box.submit("b")
    newer = box.back_up()
    box.path.write_bytes(latest)

    found = prepare(box)

    assert (found.recovered, found.restored) == (True, newer.name)
    assert box.ids == ["a", "b"]


@pytest.mark.parametrize("then", ["started", "crashed"])
def test_an_older_backup_that_was_restored_on_purpose_stays(box, then):
    box.submit("a")
    older = box.back_up()
    box.submit("b")
    box.back_up()
    box.restore(older.path)
    if then == "crashed":
        crash(box, "c")

    assert not prepare(box).recovered
    assert box.ids == (["a", "c"] if then == "crashed" else ["a"])


# --- missing ---


def test_a_missing_database_is_restored_from_the_newest_backup_and_it_is_said(box):
    box.submit("a")
    backup = box.back_up()
    box.submit("b")
    box.path.unlink()

    found = prepare(box)

    assert found.recovered
    assert found.restored == backup.name
    assert box.ids == ["a"]
    assert "is missing" in found.message
    assert f"restored {backup.name} with 1 tasks, 1 audio files" in found.message
    assert box.audio == {"a": "spool", "b": found.set_aside.name}


@pytest.mark.parametrize("trace", ["whisperd.db-wal", "whisperd.db.seal", "set-aside/", "spool/x.audio"])
def test_a_missing_database_with_any_trace_of_an_earlier_one_is_a_loss(box, trace):
    if trace.endswith("/"):
        (box.folder / trace).mkdir()
    else:
        (box.folder / trace).write_text("x")

    message = refused(box, NoBackup)
    assert "whisperd restore FILE" in message
    assert "--begin-afresh" in message
    assert str(box.store.folder) in message


def test_a_database_and_backups_that_are_all_broken_are_not_an_empty_queue(box):
    box.submit("a")
    backup = box.back_up()
    os.truncate(backup.path, 100)
    os.truncate(box.path, 100)

    assert backup.name in refused(box, NoBackup)


def test_who_says_so_begins_afresh_and_nothing_is_deleted(box):
    box.submit("a")
    os.truncate(box.path, 100)

    found = prepare(box, begin_afresh=True)

    assert found.recovered
    assert not box.path.exists()
    assert sorted(file.name for file in found.set_aside.iterdir()) == ["a.audio", "whisperd.db"]
    box.submit("b")
    assert not prepare(box).recovered


def test_begin_afresh_gives_up_nothing_that_can_be_had(box):
    box.submit("a")
    assert prepare(box, begin_afresh=True).condition == Condition.CLEAN
    box.back_up()
    box.path.unlink()
    assert prepare(box, begin_afresh=True).restored
    assert box.ids == ["a"]


# --- torn ---


@pytest.mark.parametrize("how", ["truncated", "emptied", "overwritten", "flipped pages"])
def test_a_torn_database_is_set_aside_and_the_newest_backup_restored(box, how):
    box.submit("a")
    box.back_up()
    match how:
        case "truncated":
            os.truncate(box.path, 10_000)
        case "emptied":
            os.truncate(box.path, 0)
        case "overwritten":
            box.path.write_text("hello" * 10_000)
        case _:
            with open(box.path, "r+b") as file:
                file.seek(4096)
                file.write(b"\xff" * 16_384)
    torn = box.path.read_bytes()

    found = prepare(box)

    assert (found.condition, found.recovered) == (Condition.TORN, True)
    assert box.ids == ["a"]
    assert (found.set_aside / "whisperd.db").read_bytes() == torn


def test_a_torn_database_beside_a_journal_is_torn_all_the_same(box):
    box.submit("a")
    backup = box.back_up()
    box.path.write_text("hello" * 10_000)
    journal(box).write_text("x")

    assert prepare(box).restored == backup.name
    assert box.ids == ["a"]


def test_a_change_that_cannot_be_undone_keeps_it_from_starting(box):
    older(box)
    with closing(sqlite3.connect(box.path, isolation_level=None)) as other:
        other.execute("begin exclusive")
        other.execute("update task set metadata = '{}'")
        other.execute("pragma cache_size = 1")
        other.execute("insert into tally select 'x', 0, hex(randomblob(90000)), 1, 1")
        assert journal(box).stat().st_size > 0

        with pytest.raises(CannotStart, match="could not undo it"):
            prepare(box)


# --- copies and changes ---


def bare(box, *names):
    """A live database, copied without its -wal: `names` were only there."""
    crash(box, *names)
    Path(f"{box.path}-wal").unlink()
    Path(f"{box.path}-shm").unlink(missing_ok=True)


def test_a_copy_without_its_wal_gives_way_to_a_backup_that_knows_more(box):
    box.submit("a")
    crash(box, "b")
    backup = box.store.take_file(box.path, "manual")
    Path(f"{box.path}-wal").unlink()

    found = prepare(box)

    assert (found.condition, found.recovered) == (Condition.BARE, True)
    assert found.restored == backup.name
    assert (found.set_aside / "whisperd.db").exists()
    assert box.ids == ["a", "b"]


def test_a_copy_without_its_wal_does_not_give_way_to_a_backup_that_knows_no_more(box):
    """Chunks that were finished since carry no time: they are in the file, and not in the backup."""
    box.submit("a")
    box.back_up()
    bare(box, "b")

    found = prepare(box)

    assert (found.condition, found.recovered, found.restored) == (Condition.BARE, True, None)
    assert box.audio == {"a": "spool", "b": found.set_aside.name}


def not_closed(box):
    """As a daemon leaves the file that was idle and then lost its -wal."""
    with closing(sqlite3.connect(box.path)) as conn:
        conn.execute("update session set clean = 0")
        conn.commit()
        conn.execute("pragma wal_checkpoint(truncate)")


@pytest.mark.parametrize(
    "change",
    [
        "delete from task",
        "update task set created_at = 1",
        "update task set state = 'queued', waiting = 1, finished_at = null",
    ],
    ids=["all was cleared", "the clock was set back", "a retry"],
)
def test_a_file_that_knows_more_is_used_whatever_its_times_say(box, change):
    async def body(queue):
        await queue.submit(a_task(id="a"))
        await queue.cancel("a")
        await box.store.take(queue.db, "manual")
        await queue.db.write(lambda conn: conn.execute(change) and None)

    box.run(body)
    not_closed(box)

    found = prepare(box)

    assert (found.condition, found.restored) == (Condition.BARE, None)
    assert box.ids == ([] if "delete" in change else ["a"])


def test_only_the_newest_backup_is_compared(box):
    """An older one may be of a queue that was given up, and know more of that."""
    for n in range(9):
        box.submit(f"a{n}")
    box.back_up()
    for file in box.folder.glob("whisperd.db*"):
        file.unlink()
    box.submit("b")
    box.back_up()
    box.submit("c")
    not_closed(box)

    assert prepare(box).restored is None
    assert box.ids == ["b", "c"]


@pytest.mark.parametrize("wal", [True, False])
def test_a_file_without_tables_gives_way_to_any_backup(box, wal):
    older(box)
    backup = box.store.take_file(box.path, "manual")  # of a schema that does not count
    box.path.unlink()
    without_tables(box)
    if wal:
        Path(f"{box.path}-wal").touch()

    assert prepare(box).restored == backup.name
    assert box.ids == ["a"]


@pytest.mark.parametrize("wal", [True, False])
def test_a_file_without_tables_is_no_queue_where_there_was_one(box, wal):
    without_tables(box)
    if wal:
        Path(f"{box.path}-wal").touch()
    (box.spool / "x.audio").write_text("x")

    assert "holds no tables" in refused(box, NoBackup)


def test_a_file_whose_tables_are_in_a_damaged_wal_is_no_first_start(box):
    with closing(sqlite3.connect(box.folder / "live.db", isolation_level=None)) as conn:
        conn.execute("pragma journal_mode = wal")
        migrate(conn)
        for end in ("", "-wal"):
            shutil.copy(f"{box.folder / 'live.db'}{end}", f"{box.path}{end}")
    flip(Path(f"{box.path}-wal"), 9)

    assert "commits in it cannot be read" in refused(box, NoBackup)


def test_a_copy_without_its_wal_is_used_where_there_is_no_backup_and_it_is_said(box):
    box.submit("a")
    bare(box, "b")

    found = prepare(box)

    assert (found.condition, found.recovered, found.restored) == (Condition.BARE, True, None)
    assert "-wal is missing" in found.message
    assert "used as it is" in found.message
    assert box.ids == ["a"]
    assert box.audio == {"a": "spool", "b": found.set_aside.name}


def changed(box, sql="update task set priority = 7"):
    condition.seal(box.path)
    with closing(sqlite3.connect(box.path)) as conn:
        conn.execute(sql)
        conn.commit()
        conn.execute("pragma wal_checkpoint(truncate)")
    for end in ("-wal", "-shm"):
        Path(f"{box.path}{end}").unlink(missing_ok=True)


def test_a_database_that_somebody_changed_gives_way_to_a_backup_that_knows_as_much(box):
    box.submit("a")
    box.back_up()
    changed(box)

    found = prepare(box)

    assert (found.condition, found.recovered) == (Condition.CHANGED, True)
    assert "changed" in found.message
    with closing(sqlite3.connect(box.path)) as conn:
        assert conn.execute("select priority from task").fetchone() == (0,)


def test_a_database_that_somebody_changed_is_used_where_no_backup_knows_as_much(box):
    box.submit("a")
    box.back_up()
    box.submit("b")
    changed(box)

    found = prepare(box)

    assert (found.condition, found.recovered, found.restored) == (Condition.CHANGED, True, None)
    assert box.ids == ["a", "b"]
    assert len(found.skipped) == 1


# --- not ours to touch ---


def test_a_newer_database_is_refused_and_left(box):
    box.submit("a")
    box.back_up()
    with closing(sqlite3.connect(box.path)) as conn:
        conn.execute("pragma user_version = 999")
        conn.execute("pragma wal_checkpoint(truncate)")

    refused(box, DatabaseTooNew, "999", begin_afresh=True)


def test_a_database_of_another_program_is_refused_and_left(box):
    with closing(sqlite3.connect(box.path)) as conn:
        conn.execute("create table song (name)")
        conn.commit()

    refused(box, CannotStart, "another program", begin_afresh=True)


def test_what_is_no_file_is_refused(box):
    box.path.mkdir()

    refused(box, CannotStart, "not a file")


def test_a_folder_that_cannot_be_written_is_refused_by_name(box, tmp_path):
    """Mounted read-only: modes do not stop root."""
    box.submit("a")
    code = (
        "import sys; from pathlib import Path; from whisperd.arrival import prepare, CannotStart\n"
        "from whisperd.backup import BackupStore\n"
        "folder = Path(sys.argv[1])\n"
        "try: prepare(folder / 'whisperd.db', BackupStore(folder / 'backups'), folder / 'spool')\n"
        "except CannotStart as error: print(error)"
    )
    mount = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    alone = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    command = [*alone, "sh", "-c", mount, "sh", str(box.folder)]
    if subprocess.run([*command, "true"], capture_output=True).returncode != 0:
        pytest.skip("nobody may mount here")
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [*command, sys.executable, "-P", "-c", code, str(box.folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )

    assert "cannot be written" in done.stdout, done.stderr


# --- upgrades ---


def older(box):
    """As the first version left it."""
    with closing(sqlite3.connect(box.path, isolation_level=None)) as conn:
        migrate(conn, db.SCRIPTS[:1])
        conn.execute(
            "insert into task (id, kind, priority, tenant, model, options, audio_name, audio_size, "
            "audio_sha256, max_retries, created_at) "
            "values ('a', 'transcription', 0, 'd', 'm', '{}', 'a', 1, '', 3, 1)"
        )


def test_an_older_schema_is_backed_up_before_it_is_migrated(box):
    older(box)

    found = prepare(box)

    assert not found.recovered
    (backup,) = box.store.list()
    assert (backup.reason, backup.tasks) == ("upgrade", 1)
    box.submit("b")
    assert box.ids == ["a", "b"]
    prepare(box)
    assert len(box.store.list()) == 1  # the schema is the newest now


CUT_OFF = """
import os, sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None)
conn.execute("pragma cache_size = 5")
conn.execute("begin")
conn.execute("insert into tally select 'x', 0, hex(randomblob(90000)), 1, 1")
os._exit(0)
"""


def test_an_older_schema_with_a_change_that_was_cut_off_is_backed_up_too(box):
    older(box)
    in_another_process(CUT_OFF, box.path)
    assert journal(box).stat().st_size > 0

    prepare(box)

    (backup,) = box.store.list()
    assert (backup.reason, backup.tasks) == ("upgrade", 1)
    assert not journal(box).exists()
    with closing(sqlite3.connect(box.path)) as conn:
        assert conn.execute("select count(*) from tally where state = 'x'").fetchone() == (0,)


def test_an_older_schema_is_not_compared_with_backups_that_count(box):
    box.submit("a", "b")
    box.back_up()
    box.path.unlink()
    older(box)

    assert prepare(box).restored is None
    assert box.ids == ["a"]


def test_the_backup_before_an_upgrade_can_be_restored_and_migrated(box):
    older(box)
    prepare(box)
    (backup,) = box.store.list()
    box.submit("b")

    box.restore(backup.path)
    prepare(box)
    box.submit("c")

    assert box.ids == ["a", "c"]
    assert condition.examine(box.path).schema == NEWEST_SCHEMA


def test_without_its_backup_an_upgrade_does_not_begin(box):
    older(box)
    box.store.folder.write_text("a file is in the way")

    refused(box, Exception, "File exists")
