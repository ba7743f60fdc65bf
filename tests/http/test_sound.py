"""/tasks/{id}/audio and /tasks/{id}/peaks: what a player in a browser asks for."""

import pytest

from tests.http_server import SOUND, the_error
from whisperd.task import PLAN, Cut, Piece, Plan


async def part_of(server, task, wanted, **headers):
    path = f"/tasks/{task['task_id']}/audio"
    return await server.client.get(path, headers={"Range": wanted, **headers})


async def planned(server, peaks):
    """Make the next plan, with this waveform."""
    chunk = await server.queue.claim()
    assert chunk.number == PLAN
    cuts = (Cut(pieces=(Piece(0, 16_000),)),)
    await server.queue.plan(chunk, Plan(fingerprint="f", cuts=cuts, duration=1.5, language="en", peaks=peaks))


# --- the audio in parts ---


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=4-7", 4, 7),
        ("bytes=5-", 5, len(SOUND) - 1),
        ("bytes=0-", 0, len(SOUND) - 1),
        ("bytes=-3", len(SOUND) - 3, len(SOUND) - 1),
        ("bytes=2-999999999", 2, len(SOUND) - 1),
        ("bytes=-999999999", 0, len(SOUND) - 1),
    ],
)
def test_a_player_is_sent_the_part_it_seeks(with_server, wanted, first, last):
    async def body(server):
        answer = await part_of(server, (await server.post()).json(), wanted)

        assert (answer.status_code, answer.content) == (206, SOUND[first : last + 1])
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(SOUND)}"
        assert answer.headers["accept-ranges"] == "bytes"

    with_server(body)


@pytest.mark.parametrize("wanted", [f"bytes={len(SOUND)}-", "bytes=999999-1000000", "bytes=-0"])
def test_a_part_behind_the_end_is_refused_with_the_size(with_server, wanted):
    async def body(server):
        answer = await part_of(server, (await server.post()).json(), wanted)

        assert the_error(answer) == (416, "range_not_satisfiable", "Range")
        assert answer.headers["content-range"] == f"bytes */{len(SOUND)}"

    with_server(body)


@pytest.mark.parametrize(
    "wanted",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=9-2",
        "bytes=0-1,4-5",
        "lines=0-1",
        "bytes=" + "9" * 5000 + "-",
    ],
)
def test_what_is_not_one_range_is_passed_over(with_server, wanted):
    async def body(server):
        answer = await part_of(server, (await server.post()).json(), wanted)

        assert (answer.status_code, answer.content) == (200, SOUND)

    with_server(body)


def test_a_part_is_of_the_audio_that_the_player_knows(with_server):
    async def body(server):
        task = (await server.post()).json()
        tag = (await server.get(f"/tasks/{task['task_id']}/audio")).headers["etag"]

        assert (await part_of(server, task, "bytes=0-1", **{"If-Range": tag})).status_code == 206
        assert (await part_of(server, task, "bytes=0-1", **{"If-Range": '"old"'})).status_code == 200

    with_server(body)


def test_a_player_is_told_what_kind_of_media_it_is(with_server):
    async def body(server):
        task = await server.submit(sound=b"fLaC" + SOUND, name="talk.html")
        answer = await server.get(f"/tasks/{task['task_id']}/audio")

        assert answer.headers["content-type"] == "audio/flac"

    with_server(body)


# --- the waveform ---


@pytest.mark.parametrize(
    ("buckets", "shown"),
    [
        (1, [1.0]),
        (2, [0.502, 1.0]),
        (4, [0.0, 0.502, 1.0, 0.2]),
        (8, [0.0, 0.0, 0.502, 0.502, 1.0, 1.0, 0.2, 0.2]),
    ],
)
def test_the_waveform_comes_in_as_many_numbers_as_are_asked_for(with_server, buckets, shown):
    async def body(server):
        task = await server.submit()
        await planned(server, bytes([0, 128, 255, 51]))
        answer = await server.get(f"/tasks/{task['task_id']}/peaks", buckets=buckets)

        assert answer.json() == {"duration": 1.5, "peaks": shown}

    with_server(body)


def test_the_waveform_stays_when_the_audio_goes(with_server):
    async def body(server):
        task = await server.submit()
        await planned(server, bytes(range(200)))
        server.spool.remove(task["task_id"])

        assert len((await server.get(f"/tasks/{task['task_id']}/peaks")).json()["peaks"]) == 800

    with_server(body)


def test_a_task_without_a_waveform_says_so(with_server):
    async def body(server):
        task = await server.submit()
        before = await server.get(f"/tasks/{task['task_id']}/peaks")
        await server.plan(1)  # as an older version did
        after = await server.get(f"/tasks/{task['task_id']}/peaks")

        assert the_error(before) == the_error(after) == (404, "no_peaks", None)

    with_server(body)


@pytest.mark.parametrize("buckets", ["0", "2001", "-1", "x", "1.5"])
def test_no_other_number_of_peaks_is_made(with_idle_server, buckets):
    async def body(server):
        answer = await server.get("/tasks/x/peaks", buckets=buckets)

        assert the_error(answer) == (422, "invalid_field", "buckets")

    with_idle_server(body)


def test_a_waveform_goes_with_its_task(with_server):
    async def body(server):
        await server.submit()
        await planned(server, b"\x01")
        await server.finish("Ask not.")
        await server.queue.clear(["completed"], float("inf"))

        assert await server.db.read(lambda c: c.execute("select count(*) from waveform").fetchone()[0]) == 0

    with_server(body)
