"""/tasks/{id} and /tasks: look, wait, read the result, list, change, cancel, retry."""

import asyncio
import json
import re
import threading
from itertools import pairwise

import msgspec
import pytest
from msgspec import structs

from tests.http_server import SECOND, SOUND, a_field, a_request, said, the_error, the_file, until
from whisperd.events import Event
from whisperd.routes.tasks import _tag as tag
from whisperd.routes.view import TaskView
from whisperd.spool import Spool
from whisperd.task import Cut, Piece, Plan, Problem, Segment

BOOM = Problem("worker_crashed", "child 7 was killed by signal 11")


async def failed(server):
    task = await server.submit()
    await server.queue.fail(await server.queue.claim(), BOOM, final=True)
    return task


async def cancelled(server):
    task = await server.submit()
    answer = await server.client.delete(f"/tasks/{task['task_id']}")
    assert answer.status_code == 200
    return task


# --- look and wait ---


def test_who_polls_a_task_is_sent_it_when_there_is_news(with_server):
    async def body(server):
        path = f"/tasks/{(await server.submit())['task_id']}"
        first = await server.client.get(path)
        headers = {"If-None-Match": first.headers["etag"]}
        same = await server.client.get(path, headers=headers)
        await server.plan(2)
        news = await server.client.get(path, headers=headers)

        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", first.headers["etag"])
        assert "content-type" not in same.headers
        assert (news.status_code, news.json()["status"]) == (200, "processing")

    with_server(body)


def test_that_seconds_pass_is_no_news(with_server):
    async def body(server):
        await server.completed()  # so that it is known how long work takes
        path = f"/tasks/{(await server.submit())['task_id']}"
        first = await server.client.get(path)
        view = msgspec.json.decode(first.content, type=TaskView)

        assert tag(view) == tag(structs.replace(view, eta_seconds=1.5)) == first.headers["etag"]
        assert tag(view) != tag(structs.replace(view, position=7))

    with_server(body)


def test_a_task_is_shown_with_what_happens_to_it(with_server):
    async def body(server):
        task_id = (await server.submit(metadata='{"a":1}'))["task_id"]
        await server.plan(chunks=4)
        planned = await server.task(task_id)
        await server.finish("Ask not.")
        half = await server.task(task_id)
        for _ in range(3):
            await server.finish("what.")
        done = await server.task(task_id)

        assert (planned["status"], planned["progress"], planned["position"]) == ("processing", 0, None)
        assert (planned["language"], planned["audio"]["duration"]) == ("en", 40.0)
        assert half["progress"] == 0.25
        assert (done["status"], done["progress"], done["error"]) == ("completed", 1, None)
        assert done["created_at"] <= done["started_at"] <= done["finished_at"]
        assert done["metadata"] == {"a": 1}

    with_server(body)


def test_times_are_rfc_3339_in_utc_with_milliseconds(with_server):
    async def body(server):
        task = await server.submit(run_at="2100-01-01T01:00:00.5+01:00")
        assert task["created_at"] == "2023-11-14T22:13:20.250Z"
        assert task["run_at"] == "2100-01-01T00:00:00.500Z"

    with_server(body, now=lambda: 1_700_000_000.25)


def test_the_position_counts_who_runs_before(with_server):
    async def body(server):
        low = await server.submit(priority="-1")
        first = await server.submit()
        second = await server.submit()

        assert [(await server.task(task["task_id"]))["position"] for task in (low, first, second)] == [
            3,
            2,
            1,
        ]

    with_server(body)


@pytest.mark.parametrize(
    "path", ["/tasks/nosuch", "/tasks/nosuch/result", "/tasks/nosuch/audio", "/tasks/nosuch/events"]
)
def test_an_unknown_task_is_not_found(with_idle_server, path):
    async def body(server):
        assert the_error(await server.get(path)) == (404, "not_found", None)

    with_idle_server(body)


@pytest.mark.parametrize(
    "task_id", ["..", "%2e%2e%2fq.db", "a%00b", "%ff", "' or 1=1 --", "x" * 5000, "%0d%0aX-Injected:%201"]
)
def test_no_task_id_leads_anywhere_else(with_idle_server, task_id):
    async def body(server):
        target = f"/tasks/{task_id.replace(' ', '%20')}/audio"
        status, headers, content = await server.exchange(
            a_request(b"", target=target, method="GET", kind=None)
        )

        assert (status, headers["content-type"]) == (404, "application/json")
        assert "x-injected" not in headers
        assert json.loads(content)["error"]["code"] == "not_found"

    with_idle_server(body)


def test_a_wait_is_answered_when_the_task_is_over(with_server):
    async def body(server):
        task = await server.submit()
        asking = asyncio.create_task(server.get(f"/tasks/{task['task_id']}", wait=30))
        await until(server.listeners)
        await server.plan()
        await server.finish("Ask not.")

        assert (await asking).json()["status"] == "completed"
        await until(lambda: server.listeners() == 0)

    with_server(body)


def test_a_wait_ends_with_its_client(with_server):
    async def body(server):
        task = await server.submit()
        asking = asyncio.create_task(server.get(f"/tasks/{task['task_id']}", wait=30))
        await until(server.listeners)
        asking.cancel()

        await until(lambda: server.listeners() == 0)
        assert (await server.task(task["task_id"]))["status"] == "queued"

    with_server(body)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_wait_ends_with_every_way_a_task_can_end(with_server, end):
    async def body(server):
        task = await server.submit()
        asking = asyncio.create_task(server.get(f"/tasks/{task['task_id']}", wait=30))
        await until(server.listeners)
        if end == "failed":
            await server.queue.fail(await server.queue.claim(), BOOM, final=True)
        else:
            await server.queue.cancel(task["task_id"])

        answer = (await asking).json()
        assert answer["status"] == end
        assert answer["error"] == ({"code": BOOM.code, "message": BOOM.message} if end == "failed" else None)

    with_server(body)


def test_a_wait_for_a_task_that_is_over_is_answered_at_once(with_server):
    async def body(server):
        task = await server.completed()
        assert (await server.get(f"/tasks/{task['task_id']}", wait=300)).json()["status"] == "completed"

    with_server(body)


def test_a_wait_is_over_when_its_seconds_are_however_much_the_task_goes_on(with_server):
    async def body(server):
        task = await server.submit()
        await server.plan()
        progress = Event("progress", (await server.queue.get(task["task_id"])))
        asking = asyncio.create_task(server.get(f"/tasks/{task['task_id']}", wait=0.1))
        async with asyncio.timeout(5):
            while not asking.done():
                server.events.publish(progress)
                await asyncio.sleep(0)

        assert (await asking).json()["status"] == "processing"

    with_server(body)


def test_a_wait_ends_when_the_daemon_stops(with_server):
    async def body(server):
        task = await server.submit()
        asking = asyncio.create_task(server.get(f"/tasks/{task['task_id']}", wait=300))
        await until(server.listeners)
        server.events.close()

        assert (await asking).json()["status"] == "queued"

    with_server(body)


@pytest.mark.parametrize("wait", ["-1", "soon", "nan", "1s"])
def test_a_wait_that_is_no_number_of_seconds_is_refused(with_idle_server, wait):
    async def body(server):
        assert the_error(await server.get("/tasks/x", wait=wait)) == (422, "invalid_field", "wait")

    with_idle_server(body)


# --- the result ---

RESULTS = {
    "json": ("application/json", '"text":"Ask not what"'),
    "text": ("text/plain; charset=utf-8", "Ask not what\n"),
    "srt": ("text/plain; charset=utf-8", "1\n00:00:00,000 --> 00:00:01,000\nAsk not\n\n2\n"),
    "vtt": ("text/vtt; charset=utf-8", "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nAsk not\n"),
    "tsv": ("text/tab-separated-values; charset=utf-8", "start\tend\ttext\n0\t1000\tAsk not\n"),
    "verbose_json": ("application/json", '"task":"transcribe","language":"english"'),
}


@pytest.mark.parametrize("format", RESULTS)
def test_a_result_comes_in_every_format(with_server, format):
    media_type, content = RESULTS[format]

    async def body(server):
        task = await server.completed("Ask not", "what")
        answer = await server.get(f"/tasks/{task['task_id']}/result", format=format)

        assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
        assert content in answer.text
        if format == "json":
            assert answer.text == (await server.get(f"/tasks/{task['task_id']}/result")).text

    with_server(body)


def test_a_result_in_an_unknown_format_is_refused(with_server):
    async def body(server):
        task = await server.completed()
        for format in ("xml", "", "JSON", "../json"):
            answer = await server.get(f"/tasks/{task['task_id']}/result", format=format)
            assert the_error(answer) == (422, "invalid_field", "format")

    with_server(body)


def test_there_is_no_result_before_the_end(with_server):
    async def body(server):
        task = await server.submit()
        path = f"/tasks/{task['task_id']}/result"
        assert the_error(await server.get(path)) == (409, "not_finished", None)
        await server.plan(2)
        await server.finish("Ask not.")
        assert the_error(await server.get(path)) == (409, "not_finished", None)

    with_server(body)


def test_there_is_no_result_of_what_failed_or_was_cancelled(with_server):
    async def body(server):
        lost = await server.get(f"/tasks/{(await failed(server))['task_id']}/result")
        gone = await server.get(f"/tasks/{(await cancelled(server))['task_id']}/result")

        assert the_error(lost) == (410, "failed", None)
        assert lost.json()["error"]["message"] == BOOM.message
        assert the_error(gone) == (410, "cancelled", None)

    with_server(body)


@pytest.mark.parametrize("format", RESULTS)
def test_a_partial_result_grows_and_never_changes_what_it_has_said(with_server, format):
    async def body(server):
        task = await server.submit()
        path, seen = f"/tasks/{task['task_id']}/result", []

        async def look():
            answer = await server.get(path, format=format, partial="true")
            assert (answer.status_code, answer.headers["content-type"]) == (200, RESULTS[format][0])
            seen.append((answer.headers.get("whisperd-partial"), answer.text))

        await look()
        await server.plan(3)
        chunks = [await server.queue.claim() for _ in range(3)]
        for number in (2, 1, 3):  # that chunk 2 is finished tells nothing yet
            await look()
            await server.queue.finish(chunks[number - 1], said(number, f"{number}a", f"{number}b"))
        await look()

        assert [partial for partial, _ in seen] == ["true"] * 4 + [None]
        written = [words(text, format) for _, text in seen]
        assert written == [[], [], [], ["1a", "1b", "2a", "2b"], ["1a", "1b", "2a", "2b", "3a", "3b"]]
        if "json" not in format:
            assert all(later.startswith(text.rstrip("\n")) for (_, text), (_, later) in pairwise(seen))
        assert seen[-1][1] == (await server.get(path, format=format)).text

    with_server(body)


def words(text, format):
    """The words of chunks, in a result of any format."""
    return re.findall(r"\b\d[ab]\b", json.loads(text)["text"] if "json" in format else text)


async def so_far(server, task):
    return (await server.get(f"/tasks/{task['task_id']}/result", partial="true", format="text")).text


def test_of_split_channels_nothing_is_told_before_which_something_may_come(with_server):
    """Their chunks overlap: B's first words may begin before A's last ones, and be finished later."""

    async def body(server):
        task = await server.submit(channels="split")
        cuts = [
            Cut(pieces=(Piece(0, 20 * SECOND),), channel=0, channels=2),
            Cut(pieces=(Piece(5 * SECOND, 25 * SECOND),), channel=1, channels=2),
        ]
        plan = Plan(fingerprint="f", cuts=tuple(cuts), duration=25.0, language="en")
        await server.queue.plan(await server.queue.claim(), plan)
        chunks = [await server.queue.claim() for _ in range(2)]
        one, three = (Segment(start=at, end=at + 1, text=str(at), speaker="A") for at in (1, 15))
        await server.queue.finish(chunks[0], [one, three])
        early = await so_far(server, task)
        await server.queue.finish(chunks[1], [Segment(start=6, end=7, text="6", speaker="B")])
        late = await so_far(server, task)

        assert (early, late) == ("A: 1\n", "A: 1\nB: 6\nA: 15\n")

    with_server(body)


def test_there_is_no_partial_result_of_what_failed(with_server):
    async def body(server):
        answer = await server.get(f"/tasks/{(await failed(server))['task_id']}/result", partial="true")

        assert the_error(answer) == (410, "failed", None)

    with_server(body)


def test_a_result_is_sent_once_to_who_names_its_etag(with_server):
    async def body(server):
        task = await server.submit()
        path = f"/tasks/{task['task_id']}/result?partial=true&format=vtt"
        await server.plan(2)
        await server.finish("one")
        first = await server.client.get(path)
        headers = {"If-None-Match": f'"other", {first.headers["etag"]}'}
        same = await server.client.get(path, headers=headers)
        has_any = await server.client.get(path, headers={"If-None-Match": "*"})
        await server.finish("two")
        more = await server.client.get(path, headers=headers)

        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", first.headers["etag"])
        assert has_any.status_code == 304
        assert (more.status_code, "two" in more.text) == (200, True)

    with_server(body)


def test_a_long_list_of_etags_keeps_nobody_waiting(with_server):
    """Cut by a pattern that allows spaces, the time for it grew with the square of their number."""

    async def body(server):
        path = f"/tasks/{(await server.completed())['task_id']}/result"
        headers = {"If-None-Match": '"a"' + " " * 60_000 + '"b"'}
        answers = await asyncio.gather(*(server.client.get(path, headers=headers) for _ in range(4)))

        assert [answer.status_code for answer in answers] == [200] * 4

    with_server(body)


def test_a_transcript_without_words_is_a_result_too(with_server):
    async def body(server):
        task = await server.submit()
        await server.plan(chunks=0)
        answer = await server.get(f"/tasks/{task['task_id']}/result")

        assert (answer.status_code, answer.json()["text"], answer.json()["segments"]) == (200, "", [])

    with_server(body)


# --- the audio ---


def test_the_audio_comes_back_as_a_download_and_never_as_a_page(with_server):
    async def body(server):
        task = await server.submit(name="talk.html", sound=SOUND + b"<script>alert(1)</script>")
        answer = await server.get(f"/tasks/{task['task_id']}/audio")

        assert (answer.status_code, answer.content) == (200, SOUND + b"<script>alert(1)</script>")
        assert answer.headers["content-type"] == "audio/wav"
        assert answer.headers["content-disposition"] == 'attachment; filename="talk.html"'
        assert answer.headers["x-content-type-options"] == "nosniff"

    with_server(body)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ('a"; filename="b.exe', "attachment; filename*=utf-8''a%22%3B%20filename%3D%22b.exe"),
        ("Gespräch 🎤.wav", "attachment; filename*=utf-8''Gespr%C3%A4ch%20%F0%9F%8E%A4.wav"),
        ("a%0d%0aX: y.wav", "attachment; filename*=utf-8''a%250d%250aX%3A%20y.wav"),
    ],
)
def test_the_audio_has_its_name_whatever_it_is(with_server, sent, shown):
    async def body(server):
        escaped = sent.replace('"', '\\"')
        task = (await server.post_form(the_file(escaped))).json()
        answer = await server.get(f"/tasks/{task['task_id']}/audio")

        assert task["audio"]["name"] == sent
        assert answer.headers["content-disposition"] == shown

    with_server(body)


def test_audio_that_is_not_kept_any_more_is_not_found(with_server):
    async def body(server):
        task = await server.completed()
        server.spool.remove(task["task_id"])

        assert the_error(await server.get(f"/tasks/{task['task_id']}/audio")) == (404, "not_found", None)

    with_server(body)


# --- the list ---


async def listed(server, **filters):
    answer = await server.get("/tasks", **filters)
    assert answer.status_code == 200, answer.text
    return [task["audio"]["name"] for task in answer.json()["tasks"]]


def test_the_list_is_newest_first(with_server):
    async def body(server):
        assert (await server.get("/tasks")).json() == {"tasks": [], "next_cursor": None}
        for name in ("a.wav", "b.wav", "c.wav"):
            await server.submit(name=name)

        assert await listed(server) == ["c.wav", "b.wav", "a.wav"]
        first = (await server.get("/tasks")).json()["tasks"][0]
        assert first == await server.task(first["task_id"])

    with_server(body)


def test_the_list_is_filtered(with_server):
    async def body(server):
        await server.completed(name="done.wav", tenant="acme")
        for name in ("failed.wav", "gone.wav"):
            await server.submit(name=name)
            chunk = await server.queue.claim()
            if name == "failed.wav":
                await server.queue.fail(chunk, BOOM, final=True)
            else:
                await server.queue.cancel(chunk.task.id)
        await server.submit(name="Waiting.wav", tenant="acme")

        assert await listed(server, status="completed") == ["done.wav"]
        assert await listed(server, status="failed,queued") == ["Waiting.wav", "failed.wav"]
        assert await listed(server, status="processing") == []
        assert await listed(server, status="") == ["Waiting.wav", "gone.wav", "failed.wav", "done.wav"]
        assert await listed(server, tenant="acme") == ["Waiting.wav", "done.wav"]
        assert await listed(server, tenant="acme", status="queued") == ["Waiting.wav"]
        assert len(await listed(server, kind="transcription")) == 4
        assert await listed(server, kind="risk_detection") == []

    with_server(body)


def test_the_cursor_walks_through_all_tasks_once_while_new_ones_come(with_server):
    async def body(server):
        names = [f"{n}.wav" for n in range(7)]
        for name in names:
            await server.submit(name=name)
        seen, cursor = [], ""
        for page in range(5):
            answer = (await server.get("/tasks", limit=3, cursor=cursor)).json()
            seen += [task["audio"]["name"] for task in answer["tasks"]]
            await server.submit(name=f"new{page}.wav")
            if (cursor := answer["next_cursor"]) is None:
                break

        assert seen == names[::-1]

    with_server(body)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "done"),
        ("status", "queued;failed"),
        ("kind", "speech"),
        ("limit", "0"),
        ("limit", "-1"),
        ("limit", "all"),
        ("limit", "nan"),
        ("cursor", "-1"),
        ("cursor", "x"),
        ("cursor", "nan"),
        ("cursor", "inf"),
        ("cursor", "9" * 400),
    ],
)
def test_a_filter_with_a_wrong_value_is_refused_by_its_name(with_idle_server, name, value):
    async def body(server):
        assert the_error(await server.get("/tasks", **{name: value})) == (422, "invalid_field", name)

    with_idle_server(body)


def test_a_limit_is_cut_to_what_a_page_may_hold_and_a_cursor_to_what_there_is(with_idle_server):
    async def body(server):
        for filters in ({"limit": "1000000"}, {"limit": "9" * 400}, {"cursor": "9" * 18}):
            assert await listed(server, **filters) == []

    with_idle_server(body)


# --- change ---


def test_what_waits_can_be_changed(with_server):
    async def body(server):
        path = f"/tasks/{(await server.submit())['task_id']}"
        for change, shown in [
            ({"priority": 7}, {"priority": 7}),
            ({"metadata": {"a": [1]}}, {"metadata": {"a": [1]}, "priority": 7}),
            ({"run_at": "2100-01-01T00:00:00Z"}, {"run_at": "2100-01-01T00:00:00.000Z", "position": None}),
            ({"run_at": "2000-01-01T00:00:00Z", "priority": -7}, {"run_at": None, "position": 1}),
            ({}, {"priority": -7, "metadata": {"a": [1]}}),
            ({"priority": None, "metadata": None, "run_at": None}, {"priority": -7, "metadata": {"a": [1]}}),
        ]:
            answer = await server.client.patch(path, json=change)
            assert answer.status_code == 200, answer.text
            assert {name: answer.json()[name] for name in shown} == shown
            assert (await server.get(path)).json() == answer.json()

    with_server(body)


def test_a_change_of_priority_changes_who_runs_next(with_server):
    async def body(server):
        urgent = await server.submit()
        await server.submit()
        await server.client.patch(f"/tasks/{urgent['task_id']}", json={"priority": 1})

        assert (await server.queue.claim()).task.id == urgent["task_id"]

    with_server(body)


DEEP = '{"metadata":{"a":' + "[" * 100 + "]" * 100 + "}}"


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        ('{"priority":101}', "invalid_field", "priority"),
        ('{"priority":"1"}', "invalid_field", "priority"),
        ('{"run_at":"tomorrow"}', "invalid_field", "run_at"),
        ('{"run_at":"2100-01-01T00:00:00"}', "invalid_field", "run_at"),
        ('{"run_at":"9999-12-31T23:59:59-12:00"}', "invalid_field", "run_at"),
        ('{"metadata":[]}', "invalid_field", "metadata"),
        (json.dumps({"metadata": {"a": "x" * 16 * 1024}}), "invalid_field", "metadata"),
        (DEEP, "invalid_field", "metadata"),
        ('{"status":"completed"}', "unknown_field", "status"),
        ('{"model":"tiny"}', "unknown_field", "model"),
    ],
)
def test_a_wrong_change_is_refused_by_the_name_of_its_field(with_server, content, code, param):
    async def body(server):
        task = await server.submit()
        answer = await server.client.patch(f"/tasks/{task['task_id']}", content=content)

        assert the_error(answer) == (422, code, param)
        assert await server.task(task["task_id"]) == task

    with_server(body)


def test_a_change_that_is_no_json_object_is_refused(with_idle_server):
    async def body(server):
        for content in (b"", b"[]", b"{", b"priority=1"):
            answer = await server.client.patch("/tasks/x", content=content)
            assert the_error(answer) == (400, "malformed_json", None)
        answer = await server.client.patch("/tasks/x", content=b" " * 300_000)
        assert the_error(answer) == (413, "too_large", None)
        assert the_error(await server.client.patch("/tasks/x", json={}))[0] == 404

    with_idle_server(body)


def test_what_does_not_wait_cannot_be_changed(with_server):
    async def body(server):
        done = await server.completed()
        running = await server.submit()
        await server.plan()
        for task in (done, running):
            answer = await server.client.patch(f"/tasks/{task['task_id']}", json={"priority": 1})
            assert the_error(answer) == (409, "wrong_state", None)

    with_server(body)


# --- cancel and retry ---


def test_a_waiting_task_is_cancelled_at_once_and_only_once(with_server):
    async def body(server):
        path = f"/tasks/{(await server.submit())['task_id']}"
        answer = await server.client.delete(path)

        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        assert answer.json()["finished_at"]
        assert the_error(await server.client.delete(path)) == (409, "wrong_state", None)

    with_server(body)


def test_a_running_task_is_cancelled_and_its_worker_loses_it(with_server):
    async def body(server):
        task = await server.submit()
        await server.plan()
        await server.queue.claim()
        with server.events.subscribe() as heard:
            answer = await server.client.delete(f"/tasks/{task['task_id']}")
            event = await heard.next(1)

        assert answer.json()["status"] == "cancelled"
        assert (event.task.id, event.task.state) == (task["task_id"], "cancelled")

    with_server(body)


def test_what_is_over_or_unknown_cannot_be_cancelled(with_server):
    async def body(server):
        for task in (await server.completed(), await failed(server)):
            answer = await server.client.delete(f"/tasks/{task['task_id']}")
            assert the_error(answer) == (409, "wrong_state", None)
        assert the_error(await server.client.delete("/tasks/nosuch")) == (404, "not_found", None)

    with_server(body)


def test_what_failed_or_was_cancelled_runs_again_from_its_first_attempt(with_server):
    async def body(server):
        for task in (await failed(server), await cancelled(server)):
            answer = await server.client.post(f"/tasks/{task['task_id']}/retry")
            shown = answer.json()

            assert answer.status_code == 202
            assert (shown["status"], shown["attempt"], shown["error"]) == ("queued", 1, None)
            assert (shown["started_at"], shown["finished_at"]) == (None, None)
            assert (await server.queue.claim()).task.id == task["task_id"]

    with_server(body)


def test_a_task_whose_audio_is_gone_cannot_run_again(with_server):
    async def body(server):
        task = await failed(server)
        server.spool.remove(task["task_id"])
        answer = await server.client.post(f"/tasks/{task['task_id']}/retry")

        assert the_error(answer) == (409, "audio_gone", None)
        assert (await server.task(task["task_id"]))["status"] == "failed"

    with_server(body)


def test_a_task_says_whether_its_audio_is_there_to_run_again(with_server):
    async def body(server):
        kept, gone = await failed(server), await failed(server)
        server.spool.remove(gone["task_id"])
        waits = await server.submit()
        listed = (await server.client.get("/tasks")).json()["tasks"]

        assert [task["audio_kept"] for task in listed] == [True, False, True]
        assert waits["audio_kept"]
        assert (await server.task(kept["task_id"]))["audio_kept"]

    with_server(body)


def test_what_waits_runs_or_is_completed_is_not_retried(with_server):
    async def body(server):
        done = await server.completed()
        running = await server.submit()
        await server.plan()
        waiting = await server.submit()
        for task in (done, running, waiting):
            answer = await server.client.post(f"/tasks/{task['task_id']}/retry")
            assert the_error(answer) == (409, "wrong_state", None)
        assert the_error(await server.client.post("/tasks/nosuch/retry")) == (404, "not_found", None)

    with_server(body)


# --- methods and paths ---


@pytest.mark.parametrize(
    "path", ["/nosuch", "/tasks/", "/tasks/a/b", "/TASKS", "//tasks", "/tasks/x/result/", "/ws"]
)
def test_an_unknown_path_is_not_found(with_idle_server, path):
    async def body(server):
        answer = await server.client.get(f"http://127.0.0.1:{server.port}{path}")
        assert the_error(answer) == (404, "not_found", None)

    with_idle_server(body)


ALLOWED = {
    "/tasks": {"GET", "HEAD"},
    "/tasks/transcription": {"POST"},
    "/tasks/x": {"GET", "HEAD", "PATCH", "DELETE"},
    "/tasks/x/result": {"GET", "HEAD", "PUT", "DELETE"},
    "/tasks/x/audio": {"GET", "HEAD"},
    "/tasks/x/peaks": {"GET", "HEAD"},
    "/tasks/x/retry": {"POST"},
    "/tasks/x/risk": {"GET", "HEAD"},
    "/tasks/risk-detection": {"POST"},
    "/tasks/bulk": {"POST"},
    "/tasks/x/events": {"GET", "HEAD"},
    "/stats": {"GET", "HEAD"},
    "/workers": {"GET", "HEAD"},
    "/health": {"GET", "HEAD"},
    "/health/live": {"GET", "HEAD"},
    "/health/ready": {"GET", "HEAD"},
}


@pytest.mark.parametrize("path", ALLOWED)
def test_a_wrong_method_is_told_the_right_ones(with_idle_server, path):
    async def body(server):
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} - ALLOWED[path]:
            answer = await server.client.request(method, path)

            assert the_error(answer) == (405, "method_not_allowed", None), method
            assert set(answer.headers["allow"].split(", ")) == ALLOWED[path]
            said = f"{method} is not allowed here; allowed: {answer.headers['allow']}"
            assert answer.json()["error"]["message"] == said

    with_idle_server(body)


def test_head_is_get_without_a_body(with_server):
    async def body(server):
        task_id = (await server.completed())["task_id"]
        for path in (
            f"/tasks/{task_id}",
            f"/tasks/{task_id}/result",
            f"/tasks/{task_id}/audio",
            "/tasks",
            "/stats",
            "/health/live",
            "/tasks/nosuch",
        ):
            head, get = await server.client.head(path), await server.client.get(path)

            assert (head.status_code, head.content) == (get.status_code, b""), path
            for name in ("content-type", "content-length"):
                assert head.headers[name] == get.headers[name], path

    with_server(body)


def test_head_of_an_event_stream_ends(with_server):
    async def body(server):
        task = await server.submit()
        answer = await server.client.head(f"/tasks/{task['task_id']}/events")

        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert server.listeners() == 0
        assert the_error_of_head(await server.client.head("/tasks/nosuch/events"))

    with_server(body)


def the_error_of_head(answer):
    return (answer.status_code, answer.headers["content-type"]) == (404, "application/json")


def test_requests_in_a_row_are_answered_in_that_order_on_one_connection(with_server):
    async def body(server):
        task = await server.submit()
        gets = [
            a_request(b"", target=target, method="GET", kind=None).replace(b"Connection: close\r\n", b"")
            for target in (f"/tasks/{task['task_id']}", "/nosuch", "/health/live")
        ]
        last = a_request(b"", target="/stats", method="GET", kind=None)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"".join([*gets, last]))
        content = await asyncio.wait_for(reader.read(), 10)
        writer.close()

        places = [
            content.index(part) for part in (task["task_id"].encode(), b"not_found", b'"ok"', b'"total"')
        ]
        assert all(one < next for one, next in pairwise(places))

    with_server(body)


def test_every_answer_forbids_to_guess_its_type_and_to_keep_it(with_server):
    async def body(server):
        task = await server.submit()
        answers = [
            await server.get("/tasks"),
            await server.get("/nosuch"),
            await server.get(f"/tasks/{task['task_id']}/audio"),
            await server.client.put("/tasks"),
            await server.client.get("/tasks", headers={"Host": "evil.example"}),
            await server.post_form(a_field("a", "b")),
        ]
        for answer in answers:
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert "server" not in answer.headers

    with_server(body)


def test_a_page_of_what_is_over_asks_the_disk_on_one_thread_beside_the_loop(with_server, monkeypatch):
    threads, has_audio = [], Spool.has_audio

    def noted(spool, task_id):
        threads.append(threading.get_ident())
        return has_audio(spool, task_id)

    async def body(server):
        kept, gone = [(await server.submit())["task_id"] for _ in range(2)]
        for task_id in (kept, gone):
            await server.client.delete(f"/tasks/{task_id}")
        server.spool.audio(gone).unlink()
        monkeypatch.setattr(Spool, "has_audio", noted)
        page = (await server.get("/tasks")).json()["tasks"]

        assert {task["task_id"]: task["audio_kept"] for task in page} == {kept: True, gone: False}
        assert len(threads) == 2
        assert len({*threads, threading.get_ident()}) == 2

    with_server(body)
