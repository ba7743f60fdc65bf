"""`whisperd backup` and `whisperd restore` on real files; a running daemon is the lock that it holds."""

import asyncio
import fcntl
import json
import os
import shlex
import sqlite3
import stat
from contextlib import closing

import pytest

from tests.conftest import a_task
from tests.stand_in import standing_in
from tests.terminal import command_line
from tests.test_queue import BOOM, completed
from whisperd.db import Database, owned
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.task import ListQuery

NOBODY = "http://127.0.0.1:9"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as somebody else")


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    command = command_line(monkeypatch, capfd, tmp_path)

    def run(*args, url=NOBODY):
        return command(*args, url=url)

    return run


@pytest.fixture
def folder(tmp_path):
    """A data folder whose queue holds a completed, a failed, and two waiting tasks; one's audio is gone."""
    folder = tmp_path / "data"
    (folder / "spool").mkdir(parents=True)
    in_queue(folder, fill)
    (folder / "spool" / "kept.audio").write_bytes(b"sound")
    return folder


async def fill(queue):
    await completed(queue)
    await queue.submit(a_task())
    await queue.fail(await queue.claim(), BOOM, final=True)
    await queue.submit(a_task("gone.wav", id="gone"))
    await queue.submit(a_task("kept.wav", id="kept", priority=5))


def in_queue(folder, body):
    async def main():
        with owned(folder / "whisperd.db"):
            async with Database(folder / "whisperd.db") as db:
                return await body(SqliteQueue(db, Events()))

    return asyncio.run(main())


async def names(queue):
    return sorted([task.audio.name for task in await queue.list(_ALL)])


async def forget_all(queue):
    for task_id in ("gone", "kept"):
        await queue.cancel(task_id)
    await queue.clear(("completed", "failed", "cancelled"), float("inf"))


_ALL = ListQuery()
FULL = ["a.wav", "a.wav", "gone.wav", "kept.wav"]


def at(folder):
    return ("--data-dir", folder)


def backups(folder):
    return sorted(path.name for path in (folder / "backups").glob("whisperd-*"))


# --- backup ---


def test_the_daemon_is_asked_for_the_backup(run):
    with standing_in() as daemon:
        outcome = run("backup", url=daemon.url)
        shown = json.loads(run("backup", "--json", url=daemon.url).out)

    assert outcome.lines == ["backup  /backups/b", "tasks   3", "size    4 kB", "took    250 ms"]
    assert shown["path"] == "/backups/b"
    assert daemon.seen == [("POST", "/admin/backup")] * 2


def test_a_backup_that_the_daemon_cannot_make_is_told(run):
    with standing_in() as daemon:
        daemon.backup = None
        outcome = run("backup", url=daemon.url)

    assert (outcome.status, outcome.err) == (1, "whisperd: the disk gave back something else\n")


def test_with_no_daemon_the_backup_is_made_here(run, folder):
    outcome = run("backup", "--json", *at(folder))
    taken = json.loads(outcome.out)

    assert (outcome.status, taken["tasks"], taken["verified"]) == (0, 4, True)
    assert taken["seconds"] == round(taken["seconds"], 3)  # as the daemon's
    assert [taken["name"]] == backups(folder)
    assert in_queue(folder, names) == FULL


def test_a_daemon_elsewhere_is_not_taken_for_that_of_a_folder_that_is_named(run, folder):
    with standing_in() as daemon:
        run("backup", *at(folder), url=daemon.url)

    assert len(backups(folder)) == 1
    assert daemon.seen == []


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_nothing_is_touched_behind_the_back_of_a_daemon(run, folder, command):
    with owned(folder / "whisperd.db"):
        outcome = run(command, *at(folder))

    assert outcome.status == 1
    assert f"in use by the daemon with pid {os.getpid()}" in outcome.err
    assert ("stop it first" if command == "restore" else "--url") in outcome.err
    assert backups(folder) == []


def test_one_file_holds_the_whole_queue_and_any_sqlite_opens_it(run, folder, tmp_path):
    copy = tmp_path / "copy.db"
    outcome = run("backup", "--to", copy, *at(folder))

    assert f"unpacked  {copy}" in outcome.lines
    with closing(sqlite3.connect(copy)) as conn:
        assert conn.execute("pragma integrity_check").fetchone() == ("ok",)
        assert conn.execute("select count(*) from task").fetchone() == (4,)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert not list(tmp_path.glob(".copy.db*"))


def test_the_backup_of_a_running_daemon_is_unpacked_too(run, folder, tmp_path):
    taken = json.loads(run("backup", "--json", *at(folder)).out)
    with standing_in() as daemon:
        daemon.backup = taken
        outcome = run("backup", "--to", "copy.db", "--json", url=daemon.url)

    assert json.loads(outcome.out)["unpacked"] == str(tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_bytes().startswith(b"SQLite format 3")


def test_no_file_is_overwritten_unless_told(run, folder, tmp_path):
    copy = tmp_path / "copy.db"
    copy.write_text("mine")
    refused = run("backup", "--to", copy, *at(folder))

    assert (refused.status, copy.read_text()) == (2, "mine")
    assert "--force overwrites it" in " ".join(refused.err.replace("│", "").split())
    assert backups(folder) == []
    assert run("backup", "--to", copy, "--force", *at(folder)).status == 0
    assert copy.read_bytes().startswith(b"SQLite format 3")


def test_a_database_in_use_is_never_overwritten(run, folder, tmp_path):
    live = tmp_path / "live.db"
    with closing(sqlite3.connect(live)) as conn:
        conn.execute("pragma journal_mode = wal")
        conn.execute("create table t (n)")
        outcome = run("backup", "--to", live, "--force", *at(folder))

        assert outcome.status == 2
        assert "is a database in use" in " ".join(outcome.err.replace("│", "").split())


def test_a_copy_that_cannot_be_written_leaves_nothing_and_the_backup(run, folder, tmp_path):
    outcome = run("backup", "--to", tmp_path / "nowhere" / "copy.db", *at(folder))

    assert outcome.status == 1
    assert "No such file or directory" in outcome.err
    assert "Traceback" not in outcome.err
    assert len(backups(folder)) == 1


def test_a_folder_that_is_not_there_is_told(run, tmp_path):
    outcome = run("backup", *at(tmp_path / "nowhere"))

    assert outcome.status == 1
    assert "there is no queue; name its folder with --data-dir" in outcome.err
    assert not (tmp_path / "nowhere").exists()


def test_a_backup_that_cannot_be_written_names_its_folder(run, folder):
    (folder / "backups" / ".lock").mkdir(parents=True)
    outcome = run("backup", *at(folder))

    assert outcome.status == 1
    assert f"see {folder / 'backups'}, and its disk" in outcome.err


def test_a_folder_with_no_queue_has_nothing_to_back_up(run, tmp_path):
    (tmp_path / "empty").mkdir()
    outcome = run("backup", *at(tmp_path / "empty"))

    assert outcome.status == 1
    assert "there is no queue; name its folder with --data-dir" in outcome.err
    assert list((tmp_path / "empty").iterdir()) == []


# --- restore ---


def test_the_newest_backup_is_restored_and_the_old_database_set_aside(run, folder):
    run("backup", *at(folder))
    in_queue(folder, forget_all)
    outcome = run("restore", "--json", *at(folder))
    done = json.loads(outcome.out)

    assert outcome.status == 0
    assert (done["tasks"], done["by_state"]["queued"]) == (4, 2)
    assert in_queue(folder, names) == FULL
    assert backups(folder) == [f"{done['source']}.restored"]
    assert done["undo"].startswith("whisperd restore --data-dir")


def test_a_restore_is_undone_as_its_output_says(run, folder):
    run("backup", *at(folder))
    in_queue(folder, forget_all)
    outcome = run("restore", *at(folder))
    undo = shlex.split(next(line for line in outcome.lines if line.startswith("undo")))[1:]

    assert undo[:4] == ["whisperd", "restore", "--data-dir", str(folder)]
    assert run(*undo[1:]).status == 0
    assert in_queue(folder, names) == []


def test_a_file_is_restored_on_an_empty_machine(run, folder, tmp_path):
    run("backup", "--to", tmp_path / "copy.db", *at(folder))
    outcome = run("restore", tmp_path / "copy.db", *at(tmp_path / "new"))

    assert outcome.status == 0
    assert in_queue(tmp_path / "new", names) == FULL
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_a_backup_that_is_broken_is_skipped_and_said(run, folder):
    for _ in range(2):
        run("backup", *at(folder))
    older, newer = backups(folder)
    spoil(folder / "backups" / newer)
    outcome = run("restore", *at(folder))

    assert outcome.status == 0
    assert f"restored   {older}" in outcome.lines
    assert newer in outcome.err


def spoil(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def test_with_no_sound_backup_nothing_changes(run, folder):
    run("backup", *at(folder))
    spoil(folder / "backups" / backups(folder)[0])
    outcome = run("restore", *at(folder))

    assert outcome.status == 1
    assert backups(folder)[0] in outcome.err
    assert in_queue(folder, names) == FULL


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_what_is_no_backup_is_not_restored(run, folder, tmp_path, dry):
    (tmp_path / "talk.wav").write_bytes(b"RIFF" * 100)
    outcome = run("restore", tmp_path / "talk.wav", *dry, *at(folder))

    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    assert in_queue(folder, names) == FULL


def test_backups_are_listed_newest_first_with_what_is_wrong_with_them(run, folder):
    for _ in range(3):
        run("backup", *at(folder))
    oldest, middle, newest = backups(folder)
    (folder / "backups" / middle).write_bytes(b"cut off")
    (folder / "backups" / oldest).rename(folder / "backups" / f"{oldest}.restored")
    rows = [line.split("\t") for line in run("restore", "--list", *at(folder)).lines]
    listed = json.loads(run("restore", "--list", "--json", *at(folder)).out)

    assert [(row[2], row[5], row[6]) for row in rows] == [
        ("4", "ok", newest),
        ("-", "broken", middle),
        ("4", "restored", f"{oldest}.restored"),
    ]
    assert rows[0][4] == "manual"
    assert [backup["verified"] for backup in listed] == [True, False, True]
    assert listed[1]["problem"]


def test_a_list_needs_neither_a_stop_nor_a_backup(run, folder):
    with owned(folder / "whisperd.db"):
        assert run("restore", "--list", *at(folder)).out == ""
        assert json.loads(run("restore", "--list", "--json", *at(folder)).out) == []


def test_a_dry_run_shows_what_would_run_next_and_changes_nothing(run, folder):
    run("backup", *at(folder))
    in_queue(folder, forget_all)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with owned(folder / "whisperd.db"):  # as while a daemon runs
        found = json.loads(run("restore", "--dry-run", "--json", *at(folder)).out)
        shown = run("restore", "--dry-run", *at(folder)).lines

    assert [(task["task_id"], task["priority"], task["audio"]) for task in found["next"]] == [
        ("kept", 5, True),
        ("gone", 0, False),
    ]
    assert (found["tasks"], found["by_state"]["completed"]) == (4, 1)
    assert "kept\t5\tkept\tkept.wav" in shown
    assert "gone\t0\tgone: it would fail\tgone.wav" in shown
    kept = {path for path in folder.rglob("*") if path.stat().st_mtime_ns == before.get(path)}
    assert {path for path in before.keys() - kept if path.is_file() and path.suffix != ".lock"} == set()
    assert in_queue(folder, names) == []


def test_a_dry_run_takes_the_backup_that_a_restore_would(run, folder):
    for _ in range(3):
        run("backup", *at(folder))
    oldest, middle, newest = backups(folder)
    (folder / "backups" / newest).rename(folder / "backups" / f"{newest}.restored")
    spoil(folder / "backups" / middle)
    outcome = run("restore", "--dry-run", "--json", *at(folder))
    found = json.loads(outcome.out)

    assert found["source"].endswith(oldest)
    assert [reason.split(":")[0] for reason in found["skipped"]] == [f"{newest}.restored", middle]
    assert json.loads(run("restore", "--json", *at(folder)).out)["source"] == oldest


def test_a_dry_run_with_no_backup_says_so(run, folder):
    outcome = run("restore", "--dry-run", *at(folder))

    assert (outcome.status, outcome.err) == (1, "whisperd: there are no backups\n")


@needs_root
def test_root_restores_as_the_owner_of_the_folder(run, folder, tmp_path):
    """Else the daemon, which is not root, could not open what it finds."""
    for path in (tmp_path, *tmp_path.parents):
        if path.name.startswith("pytest-"):
            path.chmod(0o755)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    tmp_path.chmod(0o755)
    run("backup", *at(folder))
    outcome = run("restore", *at(folder))

    assert outcome.status == 0, outcome.err
    assert {path.stat().st_uid for path in folder.rglob("*")} == {65534}
    assert os.geteuid() == 0


# --- copies in S3 ---


@pytest.fixture
def requests():
    """What is asked of the bucket is shown to each of these functions first."""
    return []


@pytest.fixture
def bucket(monkeypatch, run, requests):
    from tests.test_offsite import KEY, SECRET, client, serving

    def shown(environ):
        for look in requests:
            look(environ["REQUEST_METHOD"])

    with serving(refuses=shown) as port:
        settings = {
            "ENDPOINT": f"http://127.0.0.1:{port}",
            "BUCKET": "backups",
            "ACCESS_KEY_ID": KEY,
            "SECRET_ACCESS_KEY": SECRET,
        }
        for name, value in settings.items():
            monkeypatch.setenv(f"WHISPERD_BACKUP__S3__{name}", value)
        yield client(port)


def test_a_new_machine_is_restored_from_a_copy_in_s3(run, folder, tmp_path, bucket):
    run("backup", *at(folder))
    (name,) = backups(folder)
    bucket.upload_file(folder / "backups" / name, "backups", f"whisperd/{name}")
    new = tmp_path / "new"

    listed = run("restore", "--list", *at(new)).lines[0].split("\t")
    assert listed[5:] == ["s3", f"s3:{name}"]
    outcome = run("restore", listed[6], *at(new))
    assert (outcome.status, outcome.err) == (0, "")
    assert in_queue(new, names) == FULL
    assert backups(new) == [f"{name}.restored"]


def test_a_dry_run_of_a_copy_in_s3_leaves_nothing_here(run, folder, tmp_path, bucket):
    run("backup", *at(folder))
    (name,) = backups(folder)
    bucket.upload_file(folder / "backups" / name, "backups", f"whisperd/{name}")
    new = tmp_path / "new"
    new.mkdir()
    outcome = run("restore", f"s3:{name}", "--dry-run", "--json", *at(new))

    assert (outcome.status, outcome.err) == (0, "")
    assert (json.loads(outcome.out)["source"], json.loads(outcome.out)["tasks"]) == (f"s3:{name}", 4)
    assert list(new.iterdir()) == []


def test_a_copy_that_comes_from_s3_is_not_taken_for_what_a_killed_backup_left(
    run, folder, tmp_path, bucket, requests
):
    """Another queue that keeps its backups in the same folder clears it, but for the lock."""
    run("backup", *at(folder))
    (name,) = backups(folder)
    bucket.upload_file(folder / "backups" / name, "backups", f"whisperd/{name}")
    new, locked = tmp_path / "new", []

    def look(method):
        with open(new / "backups" / ".lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                locked.append(method)

    requests.append(look)
    assert run("restore", f"s3:{name}", *at(new)).status == 0
    assert "GET" in locked


def test_a_copy_that_is_not_there_leaves_nothing(run, folder, bucket):
    outcome = run("restore", "s3:whisperd-20260101T000000.000Z.db.zst", *at(folder))

    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    assert [path.name for path in (folder / "backups").iterdir()] == [".lock"]
    assert in_queue(folder, names) == FULL


def test_a_service_that_is_away_hides_no_backup_of_this_machine(run, folder, monkeypatch):
    run("backup", *at(folder))
    monkeypatch.setenv("WHISPERD_BACKUP__S3__BUCKET", "backups")
    monkeypatch.setenv("WHISPERD_BACKUP__S3__ENDPOINT", NOBODY)
    monkeypatch.setenv("WHISPERD_BACKUP__S3__ACCESS_KEY_ID", "id")
    monkeypatch.setenv("WHISPERD_BACKUP__S3__SECRET_ACCESS_KEY", "secret")
    outcome = run("restore", "--list", *at(folder))

    assert (outcome.status, len(outcome.lines)) == (1, 1)
    assert outcome.err.startswith("whisperd: ")


def test_a_copy_is_not_asked_for_where_no_bucket_is_set(run, folder):
    outcome = run("restore", "s3:whisperd-20260101T000000.000Z.db.zst", *at(folder))

    assert (outcome.status, outcome.err) == (1, "whisperd: no bucket is set: backup.s3.bucket\n")
