import asyncio
import contextlib
import hashlib
import os
import stat
import threading
from itertools import groupby

import pytest

from tests.trouble import files_end_at, on_a_small_disk
from whisperd.spool import BUFFER, BUFFERS, HEAD, LEAST_BUFFER, Spool, TooLarge
from whisperd.task import StorageFull

SOUND = os.urandom(3 * BUFFER + 17)  # several flushes, and a rest


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "spool"


@pytest.fixture
def spool(folder):
    return Spool(folder, max_bytes=len(SOUND))


async def receive(spool, task_id="t1", data=SOUND, piece=100_000, declared=0):
    async with spool.receive(task_id, declared) as incoming:
        for start in range(0, len(data), piece):
            await incoming.write(data[start : start + piece])
    return incoming


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_what_comes_is_kept_under_the_task_id_and_described(spool, folder):
    incoming = asyncio.run(receive(spool))

    assert spool.audio("t1").read_bytes() == SOUND
    assert left_in(folder) == ["t1.audio"]
    assert (incoming.size, incoming.sha256) == (len(SOUND), hashlib.sha256(SOUND).hexdigest())
    assert incoming.head == SOUND[:HEAD]


@pytest.mark.parametrize("piece", [1, HEAD - 1, HEAD, HEAD + 1])
def test_the_head_is_the_first_bytes_however_they_come(spool, piece):
    incoming = asyncio.run(receive(spool, data=SOUND[: 2 * HEAD], piece=piece))

    assert incoming.head == SOUND[:HEAD]


def test_nobody_else_can_read_what_was_sent(folder):
    umask = os.umask(0o022)
    try:
        asyncio.run(receive(Spool(folder, max_bytes=len(SOUND))))
    finally:
        os.umask(umask)

    assert mode(folder) == 0o700
    assert mode(folder / "t1.audio") == 0o600


def test_many_slow_senders_together_are_kept_in_bounded_memory(folder):
    many, sent = 4 * BUFFERS // BUFFER, BUFFER - LEAST_BUFFER
    spool = Spool(folder, max_bytes=BUFFER)

    async def body():
        async with contextlib.AsyncExitStack() as stack:
            coming = [await stack.enter_async_context(spool.receive(f"t{n}")) for n in range(many)]
            for _ in range(sent // LEAST_BUFFER):
                for incoming in coming:
                    await incoming.write(SOUND[:LEAST_BUFFER])

            assert sum(len(incoming._buffer) for incoming in coming) <= BUFFERS
        assert {spool.audio(f"t{n}").stat().st_size for n in range(many)} == {sent}

    asyncio.run(body())


def test_a_lone_sender_is_written_in_large_pieces(spool, folder):
    async def body():
        async with spool.receive("t1") as incoming:
            await incoming.write(SOUND[: BUFFER - 1])
            assert left_in(folder) == []
            await incoming.write(SOUND[:1])

            assert (folder / "t1.part").stat().st_size == BUFFER

    asyncio.run(body())


def test_an_empty_body_is_an_empty_file(spool):
    incoming = asyncio.run(receive(spool, data=b""))

    assert (incoming.size, incoming.head, spool.audio("t1").read_bytes()) == (0, b"", b"")


def test_the_file_has_its_name_only_once_it_is_whole(spool, folder):
    async def body():
        async with spool.receive("t1") as incoming:
            await incoming.write(SOUND)
            assert left_in(folder) == ["t1.part"]

    asyncio.run(body())
    assert left_in(folder) == ["t1.audio"]


def test_the_file_and_then_its_name_are_on_disk_before_the_block_ends(spool):
    calls = []

    def watch(frame, event, call):
        if event == "c_call" and call.__name__ in ("write", "fsync", "replace"):
            calls.append(call.__name__)

    threading.setprofile(watch)  # of the threads that are started from here on
    try:
        asyncio.run(receive(spool))
    finally:
        threading.setprofile(None)

    in_turn = [call for call, _ in groupby(calls)]
    assert in_turn == ["write", "fsync", "replace", "fsync"]  # the second is that of the folder


async def receive_all(spool, ids, data=b"sound"):
    return await asyncio.gather(*(receive(spool, task_id, data) for task_id in ids), return_exceptions=True)


def test_small_files_that_come_together_share_a_sync_of_their_folder(spool, folder):
    synced = []

    def watch(frame, event, call):
        if event == "c_call" and call.__name__ == "fsync":
            synced.append(call)

    ids = [f"t{n}" for n in range(20)]
    threading.setprofile(watch)
    try:
        asyncio.run(receive_all(spool, ids))
    finally:
        threading.setprofile(None)

    assert left_in(folder) == sorted(f"{task_id}.audio" for task_id in ids)
    assert len(synced) == len(ids) + 2  # the first is not held up for the others


def test_what_goes_wrong_of_one_file_is_not_the_trouble_of_those_beside_it(spool, folder):
    spool.audio("t2").mkdir(parents=True)
    (spool.audio("t2") / "in the way").touch()

    outcomes = asyncio.run(receive_all(spool, ["t1", "t2", "t3", "t4"]))

    assert [isinstance(outcome, OSError) for outcome in outcomes] == [False, True, False, False]
    assert left_in(folder) == ["t1.audio", "t2.audio", "t3.audio", "t4.audio"]


# --- nothing stays of what failed ---


@pytest.mark.parametrize("error", [KeyError("mine"), asyncio.CancelledError(), KeyboardInterrupt()])
def test_nothing_stays_when_the_block_fails(spool, folder, error):
    async def body():
        async with spool.receive("t1") as incoming:
            await incoming.write(SOUND)
            raise error

    with pytest.raises(type(error)):
        asyncio.run(body())
    assert left_in(folder) == []


def test_one_byte_too_many_is_refused_and_nothing_stays(spool, folder):
    with pytest.raises(TooLarge, match=str(len(SOUND))):
        asyncio.run(receive(spool, data=SOUND + b"!"))

    assert left_in(folder) == []


@pytest.mark.parametrize("size", [len(SOUND), 5000])  # in the middle; only when the block ends
def test_a_write_that_the_disk_takes_only_in_part_is_not_taken_for_whole(spool, folder, size):
    with files_end_at(size - 1000), pytest.raises(OSError, match="File too large"):
        asyncio.run(receive(spool, data=SOUND[:size]))

    assert left_in(folder) == []


FILL = """
import asyncio, os, sys
from pathlib import Path
from whisperd.spool import Spool
from whisperd.task import StorageFull

async def receive(spool, task_id, size):
    async with spool.receive(task_id) as incoming:
        for _ in range(size // 1000):
            await incoming.write(bytes(1000))

async def main(spool):
    for size in (900_000, 200_000, 2_000_000):
        try:
            await receive(spool, f"t{size}", size)
            print(size)
        except StorageFull:
            print("full", *spool.owners())
    spool.remove("t900000")
    await receive(spool, "again", 900_000)
    print(*spool.owners())

asyncio.run(main(Spool(Path(sys.argv[1]), max_bytes=10_000_000)))
"""


def test_a_full_disk_is_said_and_nothing_stays_of_what_it_cut_off(tmp_path):
    said = on_a_small_disk(tmp_path, FILL, megabytes=1).splitlines()

    assert said == ["900000", "full t900000", "full t900000", "again"]


RESERVE = """
import asyncio, sys
from pathlib import Path
from whisperd.spool import Spool
from whisperd.task import StorageFull

async def main(spool):
    try:
        async with spool.receive("t1") as incoming:
            for _ in range(900):
                await incoming.write(bytes(1000))
    except StorageFull:
        print(incoming.size > 500_000, *spool.owners())

asyncio.run(main(Spool(Path(sys.argv[1]), max_bytes=10_000_000, min_free_bytes=300_000)))
"""


def test_an_upload_ends_before_it_touches_the_reserve_of_the_database(tmp_path):
    assert on_a_small_disk(tmp_path, RESERVE, megabytes=1).split() == ["True"]


def test_nothing_is_begun_when_the_reserve_is_touched_already(folder):
    spool = Spool(folder, max_bytes=len(SOUND), min_free_bytes=2**62)

    with pytest.raises(StorageFull):
        asyncio.run(receive(spool))
    assert left_in(folder) == []


def test_what_says_that_it_cannot_fit_is_refused_at_once(folder):
    async def body():
        async with Spool(folder, max_bytes=2**62).receive("t1", declared=2**61):
            raise AssertionError("the block was entered")

    with pytest.raises(StorageFull):
        asyncio.run(body())


def test_a_length_that_would_not_be_accepted_is_not_called_a_full_disk(spool):
    """Its own error says more."""
    asyncio.run(receive(spool, declared=2**61))


def test_a_cancelled_receipt_leaves_nothing_wherever_it_was(spool, folder):
    ends = {"cancelled": 0, "kept": 0}

    async def body(steps):
        receiving = asyncio.create_task(receive(spool, data=SOUND[: BUFFER + 1]))
        for _ in range(steps):
            await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        return "cancelled" if receiving.cancelled() else "kept"

    steps = 0
    while ends["kept"] < 3:
        end = asyncio.run(body(steps))  # which waits for its threads
        assert left_in(folder) == (["t1.audio"] if end == "kept" else [])
        spool.remove("t1")
        ends[end] += 1
        steps += 1

    assert ends["cancelled"] > 5


def test_a_cancelled_receipt_ends_only_when_no_thread_is_at_its_file(spool, folder):
    """Closing the file under a write would let that write hit whatever is opened next."""
    writing, go_on = threading.Event(), threading.Event()

    def hold(frame, event, call):
        if event == "c_call" and call.__name__ == "write":
            writing.set()
            go_on.wait(10)

    async def body():
        receiving = asyncio.create_task(receive(spool))
        await asyncio.to_thread(writing.wait, 10)
        receiving.cancel()
        await asyncio.wait([receiving], timeout=0.05)
        assert not receiving.done()
        go_on.set()
        await asyncio.wait([receiving])
        assert receiving.cancelled()

    threading.setprofile(hold)
    try:
        asyncio.run(body())
    finally:
        threading.setprofile(None)
    assert left_in(folder) == []


def test_an_id_that_comes_twice_is_refused_and_the_first_is_not_disturbed(spool, folder):
    async def body():
        async with spool.receive("t1") as incoming:
            with pytest.raises(FileExistsError):
                await receive(spool)
            await incoming.write(b"first")

    asyncio.run(body())
    assert (folder / "t1.audio").read_bytes() == b"first"


# --- what is kept ---


def all_that_is_kept_of(task_id, folder):
    for ending in (".audio", ".part", ".pcm"):
        (folder / f"{task_id}{ending}").touch()
    parts = folder / f"{task_id}.parts"  # what children were decoding
    parts.mkdir()
    (parts / "7").touch()


def parts_of(task_id, folder):
    """What the children that decode it write."""
    parts = folder / f"{task_id}.parts"
    parts.mkdir()
    for name in ("7-1", "8-3"):
        (parts / name).touch()


def test_owners_are_the_ids_of_whatever_is_there(spool, folder):
    asyncio.run(receive(spool, "t1"))
    spool.pcm("t2").write_bytes(b"")
    parts_of("t3", folder)
    (folder / "t4.part").touch()

    assert set(spool.owners()) == {"t1", "t2", "t3", "t4"}


def test_what_a_restore_set_aside_in_the_spool_belongs_to_no_task(spool, folder):
    (folder / "set-aside").mkdir()

    assert set(spool.owners()) == set()


def test_removing_takes_all_of_a_task_and_nothing_of_others(spool, folder):
    for task_id in ("t1", "t2"):
        for ending in (".audio", ".part", ".pcm"):
            (folder / f"{task_id}{ending}").touch()
        parts_of(task_id, folder)

    spool.remove("t1")
    spool.remove("t1")  # again: nothing is there

    assert left_in(folder) == ["t2.audio", "t2.part", "t2.parts", "t2.pcm"]


def test_removing_the_decoded_audio_keeps_what_was_sent(spool, folder):
    for ending in (".audio", ".pcm"):
        (folder / f"t1{ending}").touch()
    parts_of("t1", folder)

    spool.remove_pcm("t1")

    assert left_in(folder) == ["t1.audio"]


def test_what_is_still_coming_belongs_to_nobody_else(spool):
    async def look():
        async with spool.receive("t1") as incoming:
            await incoming.write(SOUND)
            return set(spool.owners())

    assert asyncio.run(look()) == set()
    assert set(spool.owners()) == {"t1"}
