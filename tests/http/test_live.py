"""Live updates: GET /tasks/{id}/events and the WebSocket."""

import asyncio
import contextlib
import json
from itertools import groupby

import pytest
from websockets.exceptions import ConnectionClosed

from tests.http_server import DEADLINE, Stage, a_request, a_server, said, the_error, until
from whisperd.events import BACKLOG, Event
from whisperd.routes import live
from whisperd.task import Problem


async def collected(frames):
    return [frame async for frame in frames]


def of(kind, frames):
    return [data for frame in frames if frame is not None for _, event, data in [frame] if event == kind]


def texts(frames):
    return [segment["text"] for segment in of("segment", frames)]


# --- Server-Sent Events ---


def test_a_stream_tells_the_task_its_segments_and_progress_and_ends_with_the_task(with_server):
    async def body(server):
        task_id = (await server.submit())["task_id"]
        async with server.events_of(task_id) as frames:
            first = await anext(frames)
            await server.plan(2)
            await server.finish("one", "two")
            await server.finish("three")
            rest = await collected(frames)

        assert first == ("0.0", "task", {**first[2], "status": "queued", "position": 1})
        kinds = [kind for _, kind, _ in rest]
        assert kinds[-2:] == ["progress", "task"]
        assert set(kinds) == {"task", "segment", "progress"}
        assert kinds.index("task") < kinds.index("segment")
        assert texts(rest) == ["one", "two", "three"]
        assert rest[-1][2] == await server.task(task_id)
        assert rest[-1][2]["status"] == "completed"
        progress = [data["progress"] for data in of("progress", rest)]
        assert progress == sorted(progress)
        assert progress[-1] == 1

    with_server(body)


def test_a_segment_says_where_it_stands(with_server):
    async def body(server):
        task_id = (await server.completed("Ask not."))["task_id"]
        async with server.events_of(task_id) as stream:
            frames = await collected(stream)

        (segment,) = [frame for frame in frames if frame[1] == "segment"]
        assert segment == (
            "1.1",
            "segment",
            {"task_id": task_id, "start": 0.0, "end": 1.0, "text": "Ask not."},
        )

    with_server(body)


def test_segments_come_in_the_transcripts_order_though_chunks_finish_out_of_order(with_server):
    async def body(server):
        task_id = (await server.submit())["task_id"]
        await server.plan(4)
        chunks = [await server.queue.claim() for _ in range(4)]
        async with server.events_of(task_id) as frames:
            await until(server.listeners)
            for number in (3, 1, 4, 2):
                await server.queue.finish(chunks[number - 1], said(number, f"{number}a", f"{number}b"))
            seen = await collected(frames)

        assert texts(seen) == ["1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b"]
        marks = [mark for mark, kind, _ in seen if kind == "segment"]
        assert marks == [f"{chunk}.{n}" for chunk in (1, 2, 3, 4) for n in (1, 2)]

    with_server(body)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_stream_ends_with_every_way_a_task_can_end(with_server, end):
    async def body(server):
        task_id = (await server.submit())["task_id"]
        await server.plan(2)
        await server.finish("one")
        async with server.events_of(task_id) as frames:
            await until(server.listeners)
            if end == "failed":
                problem = Problem("worker_crashed", "boom")
                await server.queue.fail(await server.queue.claim(), problem, final=True)
            else:
                await server.queue.cancel(task_id)
            seen = await collected(frames)

        assert texts(seen) == ["one"]
        assert seen[-1][1:] == ("task", await server.task(task_id))
        assert seen[-1][2]["status"] == end

    with_server(body)


def test_a_stream_of_a_task_that_is_over_tells_all_and_ends(with_server):
    async def body(server):
        task = await server.completed("one", "two")
        async with server.events_of(task["task_id"]) as stream:
            frames = await collected(stream)

        assert [kind for _, kind, _ in frames] == ["segment", "segment", "progress", "task"]
        assert server.listeners() == 0

    with_server(body)


def test_a_stream_goes_on_from_every_mark_without_gap_or_double(with_server):
    async def body(server):
        task_id = (await server.submit())["task_id"]
        await server.plan(5)
        said_so_far = []
        chunks = [await server.queue.claim() for _ in range(5)]
        for number, count in ((2, 1), (1, 3), (3, 0), (5, 2), (4, 2)):  # chunk 3 has no words
            words = [f"{number}.{n + 1}" for n in range(count)]
            await server.queue.finish(chunks[number - 1], said(number, *words))
            said_so_far.append(words)
            whole = [str(mark) for mark, _ in await server.queue.segments(task_id)]
            for seen, mark in enumerate(["0.0", *whole]):
                async with server.events_of(task_id, after=mark) as frames:
                    rest = []
                    while not rest or rest[-1][1] != "progress":  # which follows what there is so far
                        rest.append(await anext(frames))
                assert texts(rest) == whole[seen:], mark

        assert whole == ["1.1", "1.2", "1.3", "2.1", "4.1", "4.2", "5.1", "5.2"]

    with_server(body)


def test_a_client_that_is_cut_off_after_every_frame_still_has_the_whole_transcript_once(with_server):
    async def body(server):
        task_id = (await server.submit())["task_id"]
        await server.plan(3)
        chunks = [await server.queue.claim() for _ in range(3)]
        working = asyncio.create_task(_finish_out_of_order(server, chunks))
        heard, mark = [], None
        while not heard or heard[-1][2].get("status") != "completed":
            async with server.events_of(task_id, after=mark) as frames:
                _, kind, _ = frame = await anext(frames)
                while kind != "segment" and frame[2].get("status") != "completed":
                    _, kind, _ = frame = await anext(frames)
            heard.append(frame)
            mark = frame[0]
        await working

        assert texts(heard) == ["1a", "1b", "2a", "2b", "3a", "3b"]

    with_server(body)


async def _finish_out_of_order(server, chunks):
    for number in (2, 3, 1):
        await server.queue.finish(chunks[number - 1], said(number, f"{number}a", f"{number}b"))
        await asyncio.sleep(0.02)


def test_a_mark_that_is_none_of_ours_is_refused(with_server):
    async def body(server):
        target = f"/tasks/{(await server.submit())['task_id']}/events"
        for mark in ("", "x", "1", "1.2.3", "1.2.queued", "1.2.", "-1.0", "1.x", "0x1.1", "9999999999.1"):
            request = a_request(b"", f"Last-Event-ID: {mark}", target=target, method="GET", kind=None)
            status, _, content = await server.exchange(request)

            assert (status, json.loads(content)["error"]["param"]) == (422, "Last-Event-ID"), mark

    with_server(body)


def test_a_mark_behind_the_end_skips_all_segments(with_server):
    async def body(server):
        task = await server.completed("one")
        async with server.events_of(task["task_id"], after="999.999") as stream:
            assert [kind for _, kind, _ in await collected(stream)] == ["progress", "task"]

    with_server(body)


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_who_comes_back_behind_the_last_event_is_told_that_there_is_no_more(with_server, end):
    """Else a browser's EventSource would hear the end of the task again every few seconds, for ever."""

    async def body(server):
        task_id = await _over(server, end)
        async with server.events_of(task_id) as stream:
            last = (await collected(stream))[-1]
        headers = {"Last-Event-ID": last[0]}
        answer = await server.client.get(f"/tasks/{task_id}/events", headers=headers)

        assert last[:2] == (f"1.1.{end}", "task")
        assert (answer.status_code, answer.content) == (204, b"")

    with_server(body)


async def _over(server, end):
    task_id = (await server.submit())["task_id"]
    await server.plan(2)
    await server.finish("one")
    match end:
        case "completed":
            await server.finish()
        case "failed":
            problem = Problem("worker_crashed", "boom")
            await server.queue.fail(await server.queue.claim(), problem, final=True)
        case "cancelled":
            await server.queue.cancel(task_id)
    return task_id


def test_who_heard_the_last_segment_but_not_the_end_is_told_the_end(with_server):
    async def body(server):
        task_id = await _over(server, "completed")
        async with server.events_of(task_id, after="1.1") as stream:
            assert [frame[:2] for frame in await collected(stream)] == [
                ("1.1", "progress"),
                ("1.1.completed", "task"),
            ]

    with_server(body)


def test_who_heard_of_a_failure_hears_of_the_retry_and_of_its_end(with_server):
    async def body(server):
        task_id = await _over(server, "failed")
        await server.queue.retry(task_id)
        async with server.events_of(task_id, after="1.1.failed") as frames:
            assert (await anext(frames))[2]["status"] == "queued"
            await server.plan(2)
            await server.finish("two")
            seen = await collected(frames)
        async with server.events_of(task_id, after="1.1.failed") as frames:  # who had slept all the while
            late = await collected(frames)

        assert texts(seen) == texts(late) == ["two"]
        assert seen[-1][0] == late[-1][0] == "2.1.completed"

    with_server(body)


def test_an_idle_stream_is_kept_open_by_pings(with_server, monkeypatch):
    monkeypatch.setattr(live, "PING_SECONDS", 0.01)

    async def body(server):
        task_id = (await server.submit())["task_id"]
        async with server.events_of(task_id) as frames:
            kinds = [frame and frame[1] for frame in [await anext(frames) for _ in range(5)]]
            assert kinds == ["task", "progress", None, None, None]
            await server.plan(0)
            assert of("task", await collected(frames))[-1]["status"] == "completed"

    with_server(body)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_stream_whose_client_leaves_is_given_up(with_server, how):
    async def body(server):
        task_id = (await server.submit())["task_id"]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(a_request(b"", target=f"/tasks/{task_id}/events", method="GET", kind=None))
        await reader.readuntil(b"event: progress")
        assert server.listeners() == 1
        writer.close() if how == "close" else writer.transport.abort()

        await until(lambda: server.listeners() == 0)

    with_server(body)


def test_a_stop_ends_all_streams_at_once_and_those_that_begin_later(with_server):
    async def body(server):
        task_id = (await server.submit())["task_id"]
        async with server.events_of(task_id) as one, server.events_of(task_id) as other:
            await until(lambda: server.listeners() == 2)
            server.events.close()
            for frames in (one, other):
                assert {kind for _, kind, _ in await collected(frames)} == {"task", "progress"}
        async with server.events_of(task_id) as late:
            assert [kind for _, kind, _ in await collected(late)] == ["task", "progress"]

    with_server(body)


def test_a_stream_that_falls_behind_is_cut_off_and_goes_on_from_its_mark(with_server):
    async def body(server):
        task_id = (await server.submit())["task_id"]
        await server.plan(2)
        await server.finish("one")
        task = await server.queue.get(task_id)
        client = _Held(server, f"/tasks/{task_id}/events")
        streaming = asyncio.create_task(client.get())
        await until(server.listeners)
        for _ in range(BACKLOG + 1):
            server.events.publish(Event("progress", task))
        assert server.listeners() == 0
        client.reads.set()
        await asyncio.wait_for(streaming, DEADLINE)  # and does not wait for news that nobody tells it

        assert b"one" in client.body
        assert b'"completed"' not in client.body
        await server.finish("two")
        mark = client.body.decode().rpartition("id: ")[2].split("\n")[0]
        async with server.events_of(task_id, after=mark) as frames:
            assert texts(await collected(frames)) == ["two"]

    with_server(body)


class _Held:
    """A client that takes nothing until it `reads`."""

    def __init__(self, server, path):
        self._server, self._path = server, path
        self.reads = asyncio.Event()
        self.body = b""

    async def get(self):
        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "GET", "path": self._path, "query_string": b"", "headers": headers}
        scope |= {"client": ("127.0.0.1", 1), "asgi": {"spec_version": "2.3"}}
        await self._server.app(scope, asyncio.Event().wait, self._send)

    async def _send(self, message):
        if message["type"] == "http.response.body":
            await self.reads.wait()
            self.body += message["body"]


def test_many_streams_of_one_task_all_hear_everything(with_server):
    async def body(server):
        task_id = (await server.submit())["task_id"]
        async with contextlib.AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(server.events_of(task_id)) for _ in range(20)]
            await until(lambda: server.listeners() == 20)
            await server.plan(1)
            await server.finish("one", "two")
            for frames in streams:
                assert texts(await collected(frames)) == ["one", "two"]

    with_server(body)


# --- the WebSocket ---


@pytest.fixture
def no_stats(monkeypatch):
    """After the first."""
    monkeypatch.setattr(live, "STATS_SECONDS", 3600)


@contextlib.asynccontextmanager
async def listening(server, *subscribed, **options):
    """A WebSocket that has heard its first statistics and been understood."""
    before = server.listeners()
    async with server.websocket(**options) as socket:
        await until(lambda: server.listeners() > before)
        assert (await heard(socket))["type"] == "stats"
        if subscribed:
            await socket.send(json.dumps({"subscribe": list(subscribed)}))
            await understood(socket)
        yield socket


async def heard(socket):
    return json.loads(await asyncio.wait_for(socket.recv(), DEADLINE))


async def understood(socket):
    """All that was sent so far has been read: what is wrong is answered in its turn."""
    await socket.send("?")
    assert (await heard(socket))["type"] == "error"


async def heard_until(socket, last):
    messages = []
    while not messages or not last(messages[-1]):
        messages.append(await heard(socket))
    return messages


async def close_code(socket):
    """Read all that still comes; the code of the close."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await heard(socket)
    return socket.close_code


def is_over(task_id):
    def over(message):
        task = message.get("task", {})
        return task.get("task_id") == task_id and task["status"] in ("completed", "failed", "cancelled")

    return over


def test_a_websocket_hears_of_every_task(with_server, no_stats):
    async def body(server):
        async with listening(server) as socket:
            one = await server.submit()
            await server.plan(1)
            await server.queue.beat(chunk := await server.queue.claim())
            await server.queue.finish(chunk, said(1, "Ask", "not."))
            other = await server.submit()
            await server.queue.cancel(other["task_id"])
            messages = await heard_until(socket, is_over(other["task_id"]))

        told = [
            (m.get("task", m)["task_id"], m["task"]["status"] if "task" in m else m["type"]) for m in messages
        ]
        expected = ["queued", "processing", "segment", "progress", "completed"]
        assert [
            what for what, _ in groupby(w for task_id, w in told if task_id == one["task_id"])
        ] == expected
        assert [what for task_id, what in told if task_id == other["task_id"]] == ["queued", "cancelled"]
        (progress,) = [m for m in messages if m["type"] == "progress"]
        assert progress == {"type": "progress", "task_id": one["task_id"], "progress": 1}
        segments = [m for m in messages if m["type"] == "segment"]
        assert [(m["text"], m["chunk"], m["start"]) for m in segments] == [("Ask", 1, 0.0), ("not.", 1, 1.0)]

    with_server(body)


def test_a_websocket_that_subscribed_hears_of_those_tasks_only(with_server, no_stats):
    async def body(server):
        tasks = [await server.submit() for _ in range(3)]
        ids = [task["task_id"] for task in tasks]
        async with listening(server, ids[0]) as socket:
            for task_id in (ids[1], ids[0]):
                await server.queue.cancel(task_id)
            assert [m["task"]["task_id"] for m in await heard_until(socket, is_over(ids[0]))] == [ids[0]]

            await socket.send(json.dumps({"subscribe": [ids[2]]}))  # one more
            await understood(socket)
            await server.submit()
            await server.queue.cancel(ids[2])
            assert [m["task"]["task_id"] for m in await heard_until(socket, is_over(ids[2]))] == [ids[2]]

    with_server(body)


def test_what_a_websocket_says_wrongly_is_answered_and_changes_nothing(with_server, no_stats):
    wrong = ["", "?", "[]", "{}", "null", '{"subscribe": "x"}', '{"subscribe": [1]}', '{"subscribe": null}']
    wrong += [
        '{"unsubscribe": []}',
        "[" * 100_000,
        '{"subscribe": ["\\ud800"]}',
        b"",
        b"\x00\xff",
        b'{"subscribe":["x"]}',
        json.dumps({"subscribe": ["x" * 101]}),  # no id, and it would be kept
    ]
    wrong += [json.dumps({"subscribe": [str(n) for n in range(live.MAX_SUBSCRIPTIONS + 1)]})]

    async def body(server):
        async with listening(server) as socket:
            for message in wrong:
                await socket.send(message)
                answer = await heard(socket)
                assert list(answer) == ["type", "message"], message
                assert answer["type"] == "error", message
                assert "subscribe" in answer["message"]
            task = await server.submit()
            assert (await heard(socket))["task"]["task_id"] == task["task_id"]

    with_server(body)


def test_a_websocket_may_name_no_more_tasks_than_it_should(with_server, no_stats, monkeypatch):
    monkeypatch.setattr(live, "MAX_SUBSCRIPTIONS", 3)

    async def body(server):
        async with listening(server, "a", "b", "c") as socket:
            await socket.send('{"subscribe": ["a", "c"]}')  # known ones are no more
            await understood(socket)
            await socket.send('{"subscribe": ["d"]}')
            assert (await heard(socket))["type"] == "error"

    with_server(body)


def test_a_message_of_more_than_a_mebibyte_ends_the_websocket(with_idle_server, no_stats):
    async def body(server):
        async with listening(server) as socket:
            await socket.send("x" * (2**20 + 1))
            assert await close_code(socket) == 1009
        await until(lambda: server.listeners() == 0)

    with_idle_server(body)


def test_a_websocket_hears_the_statistics_again_and_again(with_server, monkeypatch):
    monkeypatch.setattr(live, "STATS_SECONDS", 0.01)

    async def body(server):
        async with listening(server) as socket:
            await server.submit()
            message = {}
            while message.get("total") != 1:
                message = await heard(socket)
            again = await heard(socket)

        assert message["type"] == "stats"
        assert {**again, "oldest_queued_seconds": 0} == {**message, "oldest_queued_seconds": 0}
        stats = (await server.get("/stats")).json()
        assert set(message) == {"type", *stats}

    with_server(body)


def test_a_websocket_outlives_statistics_that_cannot_be_read(with_server, monkeypatch):
    monkeypatch.setattr(live, "STATS_SECONDS", 0.01)

    def renamed(old, new):
        return lambda conn: conn.execute(f"alter table {old} rename to {new}") and None

    async def body(server):
        async with listening(server) as socket:
            await server.db.write(renamed("tally", "away"))
            assert (await server.get("/stats")).status_code == 503
            await server.db.write(renamed("away", "tally"))
            await server.submit()
            while (await heard(socket)).get("total") != 1:
                pass

    with_server(body)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_websocket_whose_client_leaves_is_given_up(with_server, how):
    async def body(server):
        async with listening(server) as socket:
            if how == "close":
                await socket.close()
            else:
                socket.transport.abort()
            await until(lambda: server.listeners() == 0)

    with_server(body)


def test_a_websocket_that_vanishes_while_it_is_told_something_is_given_up(with_server):
    async def body(server):
        task = await server.queue.get((await server.submit())["task_id"])
        async with listening(server) as socket:
            for _ in range(20):
                server.events.publish(Event("task", task))
            socket.transport.abort()
            for _ in range(20):
                server.events.publish(Event("task", task))
                await asyncio.sleep(0)
            await until(lambda: server.listeners() == 0)

    with_server(body)


def test_a_websocket_that_falls_behind_is_dropped_and_the_others_hear_all(with_server, no_stats):
    heavy = {"metadata": json.dumps({"a": "x" * 16_000})}
    count = 1500  # of 16 kB each: more than the buffers of the system hold

    async def body(server):
        task = await server.queue.get((await server.submit(**heavy))["task_id"])
        async with listening(server, compression=None) as slow, listening(server, compression=None) as good:
            told = 0

            async def listen():
                nonlocal told
                while told < count:
                    told += (await heard(good))["type"] == "task"

            hearing = asyncio.create_task(listen())
            for published in range(count):
                server.events.publish(Event("task", task))
                await until(lambda at=published: told > at - BACKLOG // 2)
            await hearing

            assert server.listeners() == 1
            assert await close_code(slow) == 1013
            await server.submit()
            assert (await heard(good))["type"] == "task"

    with_server(body)


def test_a_websocket_does_not_fall_behind_for_tasks_that_it_did_not_ask_for(with_server, no_stats):
    async def body(server):
        mine, other = [await server.queue.get((await server.submit())["task_id"]) for _ in range(2)]
        async with listening(server, mine.id) as socket:
            for _ in range(3 * BACKLOG):  # at once: it has no time to read
                server.events.publish(Event("task", other))
            server.events.publish(Event("task", mine))

            assert (await heard(socket))["task"]["task_id"] == mine.id

    with_server(body)


def test_the_database_is_asked_once_for_the_statistics_of_all_websockets(with_server, no_stats, monkeypatch):
    async def body(server):
        asked = 0

        async def counted(tenant):
            nonlocal asked
            asked += 1
            return await stats(tenant)

        stats = server.queue.stats
        monkeypatch.setattr(server.queue, "stats", counted)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(20):
                await stack.enter_async_context(listening(server))

        assert asked == 1

    with_server(body)


def test_a_stop_closes_all_websockets_as_going_away(with_server):
    async def body(server):
        async with listening(server) as one, listening(server) as other:
            server.events.close()
            for socket in (one, other):
                assert await close_code(socket) == 1001

    with_server(body)


def test_a_server_with_open_streams_stops_within_two_seconds(stage, tmp_path):
    """In the daemon's order: the streams end, then the server. An open one would keep it for its grace."""

    async def main():
        own = Stage(tmp_path)
        async with asyncio.timeout(DEADLINE), own.listening(), a_server(own, tmp_path) as server:
            task_id = (await server.submit())["task_id"]
            async with server.events_of(task_id) as frames, listening(server) as told:
                waiting = asyncio.create_task(server.get(f"/tasks/{task_id}", wait=300))
                await until(lambda: server.listeners() == 3)
                server.events.close()
                own.server.should_exit = True
                async with asyncio.timeout(2):
                    await until(lambda: not own.server.server_state.tasks)
                    await collected(frames)
                    assert (await waiting).status_code == 200
                    assert await close_code(told) == 1001

    stage.run(main())


def test_an_unknown_tasks_stream_is_refused_before_it_begins(with_idle_server):
    async def body(server):
        assert the_error(await server.get("/tasks/nosuch/events")) == (404, "not_found", None)
        assert server.listeners() == 0

    with_idle_server(body)
