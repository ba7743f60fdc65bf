"""Copies in S3: against a real server of its protocol, which comes and goes."""

import asyncio
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.conftest import a_task
from tests.s3_server import KEY, SECRET, a_free_port, client, serving
from whisperd import archive, restore
from whisperd.backup import Backup, BackupStore, Keep
from whisperd.config import BackupS3
from whisperd.db import Database
from whisperd.events import Events
from whisperd.offsite import Offsite, OffsiteError
from whisperd.queue import SqliteQueue


@pytest.fixture
def port():
    with serving() as port:
        yield port


def settings(port, **fields):
    keys = {"access_key_id": KEY, "secret_access_key": SECRET, "bucket": "backups"}
    return BackupS3(endpoint=f"http://127.0.0.1:{port}", **{**keys, **fields})


@asynccontextmanager
async def running(offsite):
    """As in the daemon: a task of a group, cancelled in the end."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(offsite.run())
        yield
        task.cancel()


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (the server tells nothing)
            await asyncio.sleep(0.005)


@pytest.fixture
def backups(tmp_path):
    """Three of them, of one, two and three tasks."""

    async def main():
        store = BackupStore(tmp_path / "backups")
        async with Database(tmp_path / "q.db") as db:
            queue = SqliteQueue(db, Events())
            taken = []
            for n in range(3):
                await queue.submit(a_task(id=f"t{n}"))
                taken.append(await store.take(db, "interval"))
        return taken

    return asyncio.run(main())


def names(port):
    return [found["Key"] for found in client(port).list_objects_v2(Bucket="backups").get("Contents", [])]


def test_what_is_offered_is_copied_byte_by_byte(port, backups):
    async def main():
        offsite = Offsite(settings(port), Keep())
        async with running(offsite):
            offsite.offer(backups[0])
            await until(lambda: offsite.last)

        assert (offsite.last, offsite.trouble) == (backups[0].name, None)
        assert offsite.last_at > backups[0].taken_at

    asyncio.run(main())
    found = client(port).get_object(Bucket="backups", Key=f"whisperd/{backups[0].name}")
    assert found["Body"].read() == backups[0].path.read_bytes()


def test_a_large_one_goes_in_parts(port, tmp_path):
    path = tmp_path / "whisperd-20261123T045454.123Z.db.zst"
    path.write_bytes(b"x" * 20_000_000)

    asyncio.run(Offsite(settings(port), Keep()).copy(Backup(path, 0, 20_000_000)))

    found = client(port).head_object(Bucket="backups", Key=f"whisperd/{path.name}")
    assert found["ContentLength"] == 20_000_000
    assert found["ETag"].endswith('-3"')


def test_a_copy_of_another_size_is_no_copy(port, backups):
    offsite = Offsite(settings(port), Keep())
    with pytest.raises(OffsiteError, match=f"has {backups[0].bytes} bytes"):
        asyncio.run(offsite.copy(replace(backups[0], bytes=1)))

    assert offsite.last is None


def test_of_what_was_offered_while_the_service_was_away_the_newest_is_copied_when_it_is_back(backups):
    port = a_free_port()

    async def main():
        offsite = Offsite(settings(port), Keep(), first_delay=0.01)
        async with running(offsite):
            for backup in backups:
                offsite.offer(backup)
                await until(lambda: offsite.trouble)
            assert "cannot be reached" in offsite.trouble
            assert offsite.state().behind
            with serving(port):
                await until(lambda: offsite.last)
                assert offsite.trouble is None
                assert names(port) == [f"whisperd/{backups[2].name}"]
                state = offsite.state()
                assert (state.last, state.trouble) == (backups[2].name, None)
                assert "cannot be reached" in state.error  # it is over, and told all the same
                assert state.error_at <= state.last_at
                await until(lambda: not offsite.state().behind)

    asyncio.run(main())


def test_old_copies_go_as_the_local_ones_do_and_other_files_stay(port, backups):
    client(port).put_object(Bucket="backups", Key="whisperd/notes.txt", Body=b"mine")
    client(port).put_object(Bucket="backups", Key=f"elsewhere/{backups[0].name}", Body=b"mine")

    async def main():
        offsite = Offsite(settings(port), Keep(2, 0, 0))
        for backup in backups:
            await offsite.copy(backup)

    asyncio.run(main())
    assert names(port) == [
        f"elsewhere/{backups[0].name}",
        "whisperd/notes.txt",
        *(f"whisperd/{backup.name}" for backup in backups[1:]),
    ]


def test_a_bucket_that_refuses_deletes_has_its_copies_all_the_same(backups):
    """It had the same backup again and again, and none of the later ones."""

    def deletes(environ):
        return environ["REQUEST_METHOD"] == "DELETE" or "delete" in environ["QUERY_STRING"]

    async def main(port):
        offsite = Offsite(settings(port), Keep(1, 0, 0), first_delay=60)
        async with running(offsite):
            for backup in backups:
                offsite.offer(backup)
                await until(lambda backup=backup: offsite.last == backup.name)
                await until(lambda: not offsite._offered.is_set())
            assert "old copies stay" in offsite.trouble
            assert "refuses the access key" in offsite.trouble
        assert names(port) == [f"whisperd/{backup.name}" for backup in backups]

    with serving(refuses=deletes) as port:
        asyncio.run(main(port))


def test_other_limits_hold_from_the_next_copy_on(port, backups):
    async def main():
        offsite = Offsite(settings(port), Keep())
        for backup in backups:
            await offsite.copy(backup)
        offsite.keep = Keep(1, 0, 0)
        await offsite.copy(backups[2])

    asyncio.run(main())
    assert names(port) == [f"whisperd/{backups[2].name}"]


def test_a_copy_that_is_there_is_not_uploaded_again(backups):
    """A start offers the last backup, which a crash in a loop does a hundred times."""
    uploads = []

    def counted(environ):
        uploads.extend([1] if environ["REQUEST_METHOD"] == "PUT" else [])

    async def main(port):
        for _ in range(2):
            offsite = Offsite(settings(port), Keep())
            await offsite.copy(backups[0])
            assert offsite.last == backups[0].name

    with serving(refuses=counted) as port:
        asyncio.run(main(port))
    assert len(uploads) == 1


def test_the_backup_of_a_stop_is_given_a_last_chance(port, backups):
    async def main():
        offsite = Offsite(settings(port), Keep())
        assert await offsite.drain(5)  # nothing was offered
        offsite.offer(backups[0])

        assert await offsite.drain(5)
        assert (offsite.last, await offsite.drain(5)) == (backups[0].name, True)

    asyncio.run(main())


def test_a_last_chance_ends_in_time(backups):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as silent:
            offsite = Offsite(settings(silent.getsockname()[1]), Keep())
            offsite.offer(backups[0])
            async with asyncio.timeout(5):
                assert not await offsite.drain(0.05)
        offsite = Offsite(settings(a_free_port()), Keep())
        offsite.offer(backups[0])
        assert not await offsite.drain(5)
        assert "cannot be reached" in offsite.trouble

    asyncio.run(main())


def test_one_that_was_rotated_away_before_its_turn_is_no_trouble(port, backups):
    backups[0].path.unlink()

    async def main():
        offsite = Offsite(settings(port), Keep())
        async with running(offsite):
            offsite.offer(backups[0])
            await until(lambda: not offsite._offered.is_set())
            offsite.offer(backups[1])
            await until(lambda: offsite.last == backups[1].name)
        assert offsite.trouble is None

    asyncio.run(main())


def test_a_new_box_begins_with_a_copy(port, backups, tmp_path):
    async def main():
        offsite = Offsite(settings(port), Keep())
        for backup in backups[:2]:
            await offsite.copy(backup)
        newest, oldest = await offsite.list()
        assert (newest.name, newest.bytes) == (backups[1].name, backups[1].bytes)
        assert newest.taken_at == pytest.approx(backups[1].taken_at, abs=0.001)
        assert oldest.name == backups[0].name
        return await offsite.fetch(newest.name, tmp_path / "fetched.db.zst")

    fetched = asyncio.run(main())

    assert archive.manifest_of(fetched).tasks == 2
    assert restore.restore(fetched, tmp_path / "new" / "whisperd.db").tasks == 2


@pytest.mark.parametrize("trouble", ["none", "broken", "name"])
def test_a_fetch_that_fails_leaves_nothing_and_says_why(port, tmp_path, trouble):
    name, target = "whisperd-20261123T045454.123Z.db.zst", tmp_path / "fetched"
    if trouble == "broken":
        client(port).put_object(Bucket="backups", Key=f"whisperd/{name}", Body=b"rubbish")
    match = {"none": f"there is no {name}", "broken": "no backup", "name": "not the name"}[trouble]

    with pytest.raises(archive.BackupError, match=match):
        asyncio.run(Offsite(settings(port), Keep()).fetch("../../x" if trouble == "name" else name, target))
    assert not target.exists()


def test_a_fetch_never_writes_over_a_file(port, backups, tmp_path):
    (tmp_path / "mine").write_text("mine")

    with pytest.raises(FileExistsError):
        asyncio.run(Offsite(settings(port), Keep()).fetch(backups[0].name, tmp_path / "mine"))
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_bucket_that_is_not_there_is_named(port, backups):
    with pytest.raises(OffsiteError, match="no bucket nowhere at http"):
        asyncio.run(Offsite(settings(port, bucket="nowhere"), Keep()).copy(backups[0]))


def test_no_trouble_tells_the_keys(backups, capsys):
    async def main():
        offsite = Offsite(settings(a_free_port()), Keep(), first_delay=60)
        async with running(offsite):
            offsite.offer(backups[0])
            await until(lambda: offsite.trouble)
        return offsite.trouble

    trouble = asyncio.run(main())
    out = trouble + "".join(capsys.readouterr())
    assert SECRET not in out
    assert KEY not in out


def test_who_has_not_the_library_is_told_how_to_get_it():
    code = (
        "import sys; sys.modules['obstore'] = sys.modules['obstore.store'] = None\n"
        "from whisperd.offsite import Offsite, OffsiteError\n"
        "from whisperd.backup import Keep; from whisperd.config import BackupS3\n"
        "try: Offsite(BackupS3(bucket='b'), Keep())\n"
        "except OffsiteError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "pip install 'whisperd[s3]'" in done.stdout
