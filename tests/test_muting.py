"""Recordings in which some of the audio is silent, as a real child makes them of real files."""

import asyncio
import math
import struct
import wave
from array import array

import pytest

from tests.conftest import a_task
from whisperd.housekeeping import clean_spool
from whisperd.muting import AudioMissing, CannotMute, Muting
from whisperd.orders import PoolSettings
from whisperd.spool import Spool
from whisperd.task import Options, Piece, StorageFull

SECOND = 16_000  # samples


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", max_bytes=2**20)


@pytest.fixture
def made(spool, with_queue):
    """Makes a recording of a file."""

    def make(source, *silent, spool=spool, **options):
        found = []

        async def body(queue):
            task, _ = await queue.submit(a_task(options=Options(**options)))
            if source is not None:
                spool.audio(task.id).write_bytes(source.read_bytes())
            muting = Muting(spool, PoolSettings(workers=1, threads=1))
            found.append(await muting.recording(task, [Piece(*piece) for piece in silent]))

        with_queue(body)
        return found[0]

    return make


def heard(path):
    """The samples of each channel."""
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getsampwidth()) == (SECOND, 2)
        samples = array("h", file.readframes(file.getnframes()))
        return [samples[channel :: file.getnchannels()] for channel in range(file.getnchannels())]


def tones(path, *hertz, seconds=2, rate=SECOND):
    """A WAV file with one of them in each channel."""
    frames = (
        round(20_000 * math.sin(2 * math.pi * tone * n / rate))
        for n in range(seconds * rate)
        for tone in hertz
    )
    with wave.open(str(path), "wb") as file:
        file.setparams((len(hertz), 2, rate, 0, "NONE", ""))
        file.writeframes(struct.pack(f"<{len(hertz) * seconds * rate}h", *frames))
    return path


def test_nothing_is_heard_where_it_is_to_be_silent_and_the_rest_is_as_it_was(made, jfk):
    (was,) = heard(jfk)
    (now,) = heard(made(jfk, (SECOND, 3 * SECOND), (100_000, 100_001)))

    assert not any([*now[SECOND : 3 * SECOND], now[100_000]])
    assert (now[:SECOND], now[3 * SECOND : 100_000]) == (was[:SECOND], was[3 * SECOND : 100_000])
    assert now[100_001:] == was[100_001:]


def test_where_speakers_have_channels_all_of_them_are_muted_and_both_stay(made, tmp_path):
    call = tones(tmp_path / "call.wav", 440, 880)
    left, right = heard(made(call, (0, SECOND), channels="split"))

    assert not any([*left[:SECOND], *right[:SECOND]])
    assert min(max(left[SECOND:]), max(right[SECOND:])) > 19_000
    assert left[SECOND:] != right[SECOND:]


@pytest.mark.parametrize("silent", [(-5, 10), (31_990, 99_999_999), (99_000_000, 99_999_999), (7, 7)])
def test_what_lies_outside_of_the_audio_is_passed_over(made, tmp_path, silent):
    (now,) = heard(made(tones(tmp_path / "a.wav", 440), silent))
    start, end = max(0, silent[0]), min(silent[1], 2 * SECOND)

    assert len(now) == 2 * SECOND
    assert not any(now[start:end])
    assert sum(sample != 0 for sample in now) > 2 * SECOND - 300  # a tone goes through zero, too


def test_a_recording_is_made_once_for_all_who_ask_and_anew_for_other_silence(spool, with_queue, jfk):
    async def body(queue):
        task, _ = await queue.submit(a_task())
        spool.audio(task.id).write_bytes(jfk.read_bytes())
        muting = Muting(spool, PoolSettings(workers=1, threads=1))
        first, second = await asyncio.gather(*(muting.recording(task, [Piece(0, 9)]) for _ in range(2)))
        made_at = first.stat().st_mtime_ns
        other = await muting.recording(task, [Piece(0, 10)])

        assert first == second != other
        assert (await muting.recording(task, [Piece(0, 9)])).stat().st_mtime_ns == made_at

    with_queue(body)


def test_without_the_audio_there_is_no_recording(made):
    with pytest.raises(AudioMissing):
        made(None, (0, 9))


def test_what_cannot_be_decoded_is_refused_and_leaves_no_recording(made, spool, tmp_path):
    noise = tmp_path / "noise"
    noise.write_bytes(bytes(range(256)) * 100)
    with pytest.raises(CannotMute):
        made(noise, (0, 9))

    assert list(spool.audio("x").parent.glob("*.muted/*")) == []


def test_the_disk_keeps_the_room_that_the_database_needs(made, tmp_path, jfk):
    full = Spool(tmp_path / "full", max_bytes=2**20, min_free_bytes=2**60)
    with pytest.raises(StorageFull):
        made(jfk, (0, 9), spool=full)


def test_a_recording_goes_when_the_spool_is_tidied_and_can_be_made_again(spool, with_queue, jfk):
    async def body(queue):
        task, _ = await queue.submit(a_task())
        spool.audio(task.id).write_bytes(jfk.read_bytes())
        muting = Muting(spool, PoolSettings(workers=1, threads=1))
        path = await muting.recording(task, [Piece(0, 9)])
        await queue.cancel(task.id)
        await clean_spool(queue, spool)

        assert (path.exists(), spool.has_audio(task.id)) == (False, True)
        assert (await muting.recording(task, [Piece(0, 9)])).exists()
        spool.remove(task.id)
        assert list(spool.audio(task.id).parent.iterdir()) == []

    with_queue(body)
