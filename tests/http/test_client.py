"""The Python client against the real application, directly and over a network that fails."""

import asyncio
import contextlib
import gc
import io
import os
import threading
from functools import partial
from inspect import signature

import pytest

from tests.flaky import Flaky, Turn
from tests.http_server import SOUND, until
from whisperd import client as whisperd
from whisperd.client import AsyncClient, Client, ProgressEvent, SegmentEvent, TaskEvent

QUICK = {"retry_delay": 0.001}
RUBBISH = b"SSH-2.0-OpenSSH_9.6\r\n"


def refusal(status, retry_after="0"):
    head = f"HTTP/1.1 {status} No\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n"
    return f"{head}Connection: close\r\n\r\n".encode()


def a_pipe(content):
    read, write = os.pipe()
    os.write(write, content)
    os.close(write)
    return open(read, "rb")


def open_files():
    return [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]


@pytest.fixture
def with_client(with_server):
    """Run a test body with a client of the application, in the same loop."""

    def run(body, **settings):
        async def main(server):
            async with AsyncClient(f"http://127.0.0.1:{server.port}", **QUICK) as client:
                await body(server, client)

        with_server(main, **settings)

    return run


@pytest.fixture
def over_a_bad_line(with_server):
    """The same, with a proxy between that fails as its turns say."""

    def run(body, **options):
        async def main(server):
            async with Flaky(server.port).listening() as line:
                async with AsyncClient(line.url, **{**QUICK, **options}) as client:
                    await body(server, line, client)
                await until(lambda: line.open == 0)

        with_server(main)

    return run


# --- what it asks, and what it gives back ---


def test_a_submission_goes_from_the_file_to_a_typed_transcript(with_client, tmp_path):
    (tmp_path / "talk.wav").write_bytes(SOUND)

    async def body(server, client):
        task = await client.submit(tmp_path / "talk.wav", language="en", priority=5, metadata={"a": 1})
        assert (task.status, task.priority, task.metadata, task.position) == ("queued", 5, {"a": 1}, 1)
        assert (task.audio.name, task.audio.size, task.finished) == ("talk.wav", len(SOUND), False)
        await server.plan(1)
        await server.finish("Ask not.", "Ask what.")
        done = await client.wait(task.task_id)
        transcript = await client.result(task.task_id)

        assert (done.status, done.audio.duration, done.finished) == ("completed", 10.0, True)
        assert done.finished_at >= done.started_at >= done.created_at
        assert transcript.text == "Ask not. Ask what."
        assert [(s.start, s.end, s.text) for s in transcript.segments] == [
            (0.0, 1.0, "Ask not."),
            (1.0, 2.0, "Ask what."),
        ]
        assert (await client.result_as(task.task_id, "vtt")).startswith("WEBVTT")

    with_client(body)


def test_the_synchronous_client_does_the_same(with_server, tmp_path):
    def calls(url):
        with Client(url, **QUICK) as client:
            task = client.submit(io.BytesIO(SOUND), name="talk.wav")
            changed = client.change(task.task_id, priority=7)
            cancelled = client.cancel(task.task_id)
            again = client.retry(task.task_id)
            return task, changed, cancelled, again, client.stats(), list(client.list_all())

    async def body(server):
        url = f"http://127.0.0.1:{server.port}"
        task, changed, cancelled, again, stats, tasks = await asyncio.to_thread(calls, url)

        assert (changed.priority, cancelled.status, again.status) == (7, "cancelled", "queued")
        assert (stats.total, stats.queued, stats.paused) == (1, 1, False)
        assert [t.task_id for t in tasks] == [task.task_id]

    with_server(body)


def test_audio_may_be_bytes_an_open_file_or_a_file_of_the_daemon(with_client, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"head" + SOUND)

    async def body(server, client):
        with (tmp_path / "a.wav").open("rb") as file:
            file.seek(4)
            opened = await client.submit(file)
            assert not file.closed
        sent = await client.submit(SOUND)
        named = await client.submit(audio_path=str(server.allowed / "a.wav"))

        assert {t.audio.sha256 for t in (opened, sent, named)} == {sent.audio.sha256}
        assert [t.audio.name for t in (opened, sent, named)] == ["a.wav", "audio", "a.wav"]

    with_client(body)


def test_a_pipe_is_submitted_once_and_to_its_end(with_client):
    async def body(server, client):
        with a_pipe(SOUND) as source:
            task = await client.submit(source)

        assert task.audio.size == len(SOUND)

    with_client(body)


def test_both_clients_have_the_same_calls_with_the_same_parameters():
    def calls(client):
        """Name -> its parameters with their types and defaults, and what comes back when it is awaited."""
        found = {name: signature(call) for name, call in vars(client).items() if not name.startswith("_")}
        return {name: str(one).replace("AsyncIterator", "Iterator") for name, one in found.items()}

    blocking, asynchronous = calls(Client), calls(AsyncClient)
    blocking["aclose"] = blocking.pop("close")

    assert blocking == asynchronous
    assert signature(Client).parameters == signature(AsyncClient).parameters


def test_many_tasks_run_again_and_those_that_do_not_are_told(with_client, monkeypatch):
    monkeypatch.setattr("whisperd.client.calls.PAGE", 2)

    async def body(server, client):
        ids = [(await server.submit())["task_id"] for _ in range(5)]
        for task_id in ids[1:]:
            await client.cancel(task_id)
        server.spool.remove(ids[2])
        refused = await client.retry_many([*ids, "nosuch"])

        assert refused == {ids[0]: "wrong_state", ids[2]: "audio_gone", "nosuch": "not_found"}
        assert [(await client.task(task_id)).status for task_id in ids[3:]] == ["queued"] * 2

    with_client(body)


def test_a_list_of_all_goes_over_the_pages(with_client, monkeypatch):
    monkeypatch.setattr("whisperd.client.async_client.PAGE", 2)

    async def body(server, client):
        for _ in range(5):
            await server.submit()
        ids = [task.task_id async for task in client.list_all(status="queued")]

        assert ids == sorted(ids, reverse=True)
        assert len(ids) == 5

    with_client(body)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda client, queued: client.task("gone"), whisperd.NotFound),
        (lambda client, queued: client.result(queued), whisperd.NotFinished),
        (lambda client, queued: client.retry(queued), whisperd.WrongState),
        (lambda client, queued: client.submit(SOUND, beam_size=99), whisperd.InvalidRequest),
        (lambda client, queued: client.submit(b"%PDF-1.7\n" + bytes(64)), whisperd.UnsupportedMedia),
        (lambda client, queued: client.submit(SOUND + bytes(2**21)), whisperd.TooLarge),
    ],
)
def test_each_refusal_is_an_error_of_its_own(with_client, call, error):
    async def body(server, client):
        queued = (await server.submit())["task_id"]
        with pytest.raises(error) as caught:
            await call(client, queued)

        assert type(caught.value) is error
        assert caught.value.status >= 400
        assert caught.value.message

    with_client(body)


def test_a_task_that_ended_without_a_transcript_is_an_error_that_has_the_task(with_client):
    async def body(server, client):
        task = await client.submit(SOUND)
        await client.cancel(task.task_id)
        with pytest.raises(whisperd.TaskCancelled, match="was cancelled") as caught:
            await client.result(task.task_id)

        assert caught.value.task.status == "cancelled"

    with_client(body)


def test_a_full_queue_says_how_long_to_wait(with_server):
    async def body(server):
        async with AsyncClient(f"http://127.0.0.1:{server.port}", retries=0) as client:
            await client.submit(SOUND)
            with pytest.raises(whisperd.QueueFull) as caught:
                await client.submit(SOUND + b"other")

        assert caught.value.retry_after == 60  # as long as the last task took, or a minute

    with_server(body, max_queued=1)


def test_what_is_certain_of_a_result_can_be_had_before_its_end(with_client):
    async def body(server, client):
        task = await client.submit(SOUND)
        await server.plan(2)
        await server.finish("Ask not.")

        assert (await client.result(task.task_id, partial=True)).text == "Ask not."
        assert await client.result_as(task.task_id, "text", partial=True) == "Ask not.\n"

    with_client(body)


def test_waiting_ends_when_its_seconds_are_over(with_client):
    async def body(server, client):
        task = await client.submit(SOUND)
        with pytest.raises(TimeoutError, match=r"is queued after 0\.02 s"):
            await client.wait(task.task_id, seconds=0.02)

    with_client(body)


# --- over a bad line ---


@pytest.mark.parametrize(
    "turn",
    [
        Turn(hang_up=True),
        Turn(swallow=True),
        Turn(cut_after=40),
        Turn(say=RUBBISH),
        Turn(say=refusal(429)),
        Turn(say=refusal(503)),
    ],
    ids=lambda turn: repr(turn),
)
def test_a_look_that_fails_is_tried_again(over_a_bad_line, turn):
    async def body(server, line, client):
        line.turns = [turn, turn]

        assert (await client.stats()).total == 0
        assert line.seen == 3

    over_a_bad_line(body)


@pytest.mark.parametrize("turn", [Turn(swallow=True), Turn(cut_after=1), Turn(cut_after=200)], ids=repr)
def test_a_submission_whose_answer_is_lost_makes_one_task(over_a_bad_line, turn):
    async def body(server, line, client):
        line.turns = [turn, turn]
        task = await client.submit(SOUND)

        assert line.seen == 3
        assert [t.task_id for t in await client.list()] == [task.task_id]
        assert (await server.left())["files"] == [f"{task.task_id}.audio"]

    over_a_bad_line(body)


def test_the_synchronous_client_bears_the_same(with_server):
    def calls(url):
        with Client(url, **QUICK) as client:
            task = client.submit(SOUND)
            client.cancel(task.task_id)
        with Client(url, **QUICK) as client:
            return client.stats(), list(client.events(task.task_id))

    async def body(server):
        async with Flaky(server.port).listening() as line:
            lost, cut = Turn(swallow=True), Turn(cut_after=300)
            line.turns = [lost, lost, lost, cut, Turn(), cut, lost, cut]
            stats, events = await asyncio.to_thread(calls, line.url)

        assert line.turns == []
        assert (stats.total, stats.cancelled) == (1, 1)
        assert [e.task.status for e in events if isinstance(e, TaskEvent)] == ["cancelled"]

    with_server(body)


def test_two_submissions_of_the_same_are_two_tasks(over_a_bad_line):
    async def body(server, line, client):
        first, second = await client.submit(SOUND), await client.submit(SOUND)

        assert first.task_id != second.task_id

    over_a_bad_line(body)


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_a_move_whose_answer_is_lost_is_not_taken_for_a_refusal(over_a_bad_line, verb):
    async def body(server, line, client):
        task = await client.submit(SOUND)
        if verb == "retry":
            await client.cancel(task.task_id)
        await client.aclose()
        async with AsyncClient(line.url, **QUICK) as fresh:
            line.turns = [Turn(swallow=True)]
            moved = await getattr(fresh, verb)(task.task_id)

        assert moved.status == {"cancel": "cancelled", "retry": "queued"}[verb]

    over_a_bad_line(body)


def test_what_cannot_be_done_twice_is_not_sent_again(over_a_bad_line):
    async def body(server, line, client):
        line.turns = [Turn(swallow=True)]
        with pytest.raises(whisperd.DaemonAway, match="stopped answering"):
            await client.clear(["completed"], 1)

        assert line.seen == 1

    over_a_bad_line(body)


def test_a_pipe_cannot_be_sent_again(over_a_bad_line):
    async def body(server, line, client):
        line.turns = [Turn(swallow=True)]
        with a_pipe(SOUND) as source, pytest.raises(whisperd.DaemonAway):
            await client.submit(source)

        assert line.seen == 1

    over_a_bad_line(body)


def test_trouble_that_lasts_is_told_after_so_many_tries(over_a_bad_line):
    async def body(server, line, client):
        line.turns = [Turn(say=refusal(503))] * 9
        with pytest.raises(whisperd.Unavailable):
            await client.stats()
        assert line.seen == 3

        line.turns = [Turn(say=refusal(429, retry_after="3600"))]  # longer than anybody wants to hang
        with pytest.raises(whisperd.RateLimited) as caught:
            await client.stats()
        assert (line.seen, caught.value.retry_after) == (4, 3600)

    over_a_bad_line(body, retries=2)


def test_a_daemon_that_says_nothing_is_told_after_the_patience(over_a_bad_line):
    async def body(server, line, client):
        task_id = (await server.submit())["task_id"]
        with pytest.raises(whisperd.DaemonAway, match="ReadTimeout"):  # it holds the poll for 30 s more
            await client._run(client._calls._sent(silent_poll(task_id)))

    def silent_poll(task_id):
        return whisperd.calls.Request("GET", f"/tasks/{task_id}", {"wait": "30"})

    over_a_bad_line(body, retries=0, patience=0.05)


def test_a_file_that_grows_while_it_is_sent_goes_as_it_was(with_client, tmp_path):
    path = tmp_path / "growing.wav"
    path.write_bytes(SOUND + bytes(300_000))
    size = path.stat().st_size

    def grow(sent, total):
        with path.open("ab") as file:
            file.write(bytes(100_000))

    async def body(server, client):
        assert (await client.submit(path, on_sent=grow)).audio.size == size

    with_client(body)


def test_a_file_that_shrinks_while_it_is_sent_is_told(with_client, tmp_path):
    path = tmp_path / "shrinking.wav"
    path.write_bytes(SOUND + bytes(300_000))

    async def body(server, client):
        with pytest.raises(whisperd.ClientError, match="the file became shorter"):
            await client.submit(path, on_sent=lambda sent, total: os.truncate(path, 1000))

        await until(lambda: not os.listdir(server.folder))

    with_client(body)


# --- events ---


async def heard(client, task_id, after=None):
    return [event async for event in client.events(task_id, after)]


def test_events_are_typed_and_end_with_the_task(with_client):
    async def body(server, client):
        task = await client.submit(SOUND)
        listening = asyncio.create_task(heard(client, task.task_id))
        await until(lambda: server.listeners() == 1)
        await server.plan(1)
        await server.finish("Ask not.")
        events = await listening

        assert isinstance(events[0], TaskEvent)
        assert [e.segment.text for e in events if isinstance(e, SegmentEvent)] == ["Ask not."]
        assert [e.progress for e in events if isinstance(e, ProgressEvent)][-1] == 1
        assert isinstance(events[-1], TaskEvent)
        assert events[-1].task.status == "completed"

    with_client(body)


@pytest.mark.parametrize("cut", [1, 150, 500, 900, 1100, 1300])
def test_events_over_a_line_that_is_cut_have_no_gaps_and_no_doubles(over_a_bad_line, cut):
    async def body(server, line, client):
        task = await client.submit(SOUND)
        await server.plan(3)
        for number in range(3):
            await server.finish(*(f"{number}.{n}\u2028\x85" for n in range(4)))
        await client.aclose()
        async with AsyncClient(line.url, **QUICK) as fresh:
            line.turns = [Turn(cut_after=cut + 40 * n) for n in range(4)]
            events = await heard(fresh, task.task_id)

        said = [e.segment.text for e in events if isinstance(e, SegmentEvent)]
        assert said == [f"{number}.{n}\u2028\x85" for number in range(3) for n in range(4)]
        assert [e.task.status for e in events if isinstance(e, TaskEvent)] == ["completed"]
        assert len([e for e in events if isinstance(e, ProgressEvent)]) == 1

    over_a_bad_line(body)


def test_events_go_on_behind_the_one_that_was_seen_last(with_client):
    async def body(server, client):
        task = await server.completed("one", "two", "three")
        events = await heard(client, task["task_id"])
        second = [e for e in events if isinstance(e, SegmentEvent)][1]
        rest = await heard(client, task["task_id"], after=second.id)

        assert [e.segment.text for e in rest if isinstance(e, SegmentEvent)] == ["three"]

    with_client(body)


def test_there_are_no_events_behind_the_last_one(with_client):
    async def body(server, client):
        task_id = (await server.completed())["task_id"]
        last = (await heard(client, task_id))[-1]
        sync = Client(client.url, **QUICK)

        assert await heard(client, task_id, after=last.id) == []
        assert await asyncio.to_thread(lambda: list(sync.events(task_id, last.id))) == []
        await asyncio.to_thread(sync.close)

    with_client(body)


def test_events_that_stay_away_are_told(over_a_bad_line):
    async def body(server, line, client):
        task = await client.submit(SOUND)
        await client.aclose()
        async with AsyncClient(line.url, retries=2, **QUICK) as fresh:
            line.turns = [Turn(hang_up=True)] * 9
            before = line.seen
            with pytest.raises(whisperd.DaemonAway):
                await heard(fresh, task.task_id)

        assert line.seen - before == 3

    over_a_bad_line(body)


# --- cancellation ---


@pytest.mark.parametrize("call", ["wait", "events"])
def test_a_cancelled_call_leaves_no_connection_open(over_a_bad_line, call):
    async def body(server, line, client):
        task = await client.submit(SOUND)
        calls = {"wait": client.wait, "events": partial(heard, client)}
        running = asyncio.create_task(calls[call](task.task_id))
        await until(lambda: server.listeners() == 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        await until(lambda: line.open == 0)

    over_a_bad_line(body)


def test_events_that_nobody_reads_any_more_leave_no_connection_open(over_a_bad_line):
    async def body(server, line, client):
        task = await client.submit(SOUND)
        async for _ in client.events(task.task_id):
            break

        await until(lambda: line.open == 0)

    over_a_bad_line(body)


def test_a_transcription_that_nobody_waits_for_is_cancelled(with_client):
    async def body(server, client):
        running = asyncio.create_task(client.transcribe(SOUND))
        await until(lambda: server.listeners() == 1)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

        assert [task.status for task in await client.list()] == ["cancelled"]

    with_client(body)


def test_an_upload_that_is_cancelled_closes_its_file_and_leaves_nothing(with_client, tmp_path):
    path = tmp_path / "long.wav"
    path.write_bytes(SOUND + bytes(900_000))

    async def body(server, client):
        began = asyncio.Event()
        loop = asyncio.get_running_loop()

        def slowly(sent, total):
            loop.call_soon_threadsafe(began.set)
            if sent > 200_000:
                stopped.wait(5)

        stopped = threading.Event()
        running = asyncio.create_task(client.submit(path, on_sent=slowly))
        await began.wait()
        running.cancel()
        stopped.set()
        with pytest.raises(asyncio.CancelledError):
            await running

        gc.collect()
        assert str(path) not in open_files()
        await until(lambda: not os.listdir(server.folder))
        assert await client.list() == ()

    with_client(body)
