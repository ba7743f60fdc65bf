"""What the calls share whose client waits, connected: seen through a call that is made here."""

import asyncio
import contextlib

import pytest
from starlette.routing import Route
from ulid import ULID

from tests.http_server import DEADLINE, SOUND, the_error, until
from whisperd.routes import Json
from whisperd.routes.interactive import WhenOver, check_completed, submit_or_join
from whisperd.task import Audio, NewTask, Problem

NEVER, AT_ONCE = 3600.0, 0.0
PATIENT = {"heartbeat_after_seconds": NEVER, "abandoned_seconds": NEVER}
BEATING = {"heartbeat_after_seconds": AT_ONCE, "heartbeat_seconds": 0.01, "abandoned_seconds": NEVER}
BOOM = Problem("worker_crashed", "child 7 was killed by signal 11")


@pytest.fixture
def with_waiting_server(with_server):
    """A server with POST /wait: the body is the audio, the answer comes when the task is over."""

    def run(body, **http):
        async def with_route(server):
            server.app.router.routes.append(Route("/wait", _waiting(server.services), methods=["POST"]))
            await body(server)

        with_server(with_route, http={**PATIENT, **http})

    return run


def _waiting(here):
    async def wait(request):
        task_id = str(ULID())
        async with here.spool.receive(task_id) as incoming:
            async for data in request.stream():
                await incoming.write(data)
            audio = Audio(name="a.wav", size=incoming.size, sha256=incoming.sha256)
        task = await submit_or_join(here, NewTask(id=task_id, audio=audio, model="tiny.en"))
        spaced = None if request.query_params.get("plain") else "application/json"
        return WhenOver(here, task, write, spaced)

    async def write(task):
        check_completed(task)
        return Json({"text": task.id})

    return wait


def waiting(server, sound=SOUND, **params):
    return asyncio.create_task(server.client.post("/wait", content=sound, params=params))


async def waited_for(server, clients=1):
    """The one task of the server, once so many clients wait for it."""
    await until(lambda: server.listeners() == clients)
    (task,) = (await server.get("/tasks")).json()["tasks"]
    return task


async def leave(client):
    client.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await client


async def status_of(server, task_id, wanted):
    assert (await server.get(f"/tasks/{task_id}", wait=DEADLINE)).json()["status"] == wanted


async def work(server):
    await server.plan(1)
    await server.finish("Ask not.")


# --- the end ---


def test_a_client_is_answered_when_its_task_is_completed(with_waiting_server):
    async def body(server):
        client = waiting(server)
        task = await waited_for(server)
        await work(server)
        answer = await client

        assert (answer.status_code, answer.json()) == (200, {"text": task["task_id"]})
        assert answer.headers["content-type"] == "application/json"

    with_waiting_server(body)


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (BOOM, 500),
        (Problem("model_unusable", "the model tiny.en is damaged"), 500),
        (Problem("no_audio", "there is no audio in it"), 422),
        (Problem("unsupported_media", "this is no media"), 422),
        (Problem("audio_too_long", "it is longer than 12 hours"), 422),
        (Problem("timeout", "the task took longer than its timeout_seconds"), 422),
    ],
)
def test_a_failure_says_whose_fault_it_is(with_waiting_server, problem, status):
    async def body(server):
        client = waiting(server)
        await waited_for(server)
        await server.queue.fail(await server.queue.claim(), problem, final=True)

        assert the_error(await client)[:2] == (status, problem.code)

    with_waiting_server(body)


def test_a_task_that_somebody_cancels_ends_the_wait(with_waiting_server):
    async def body(server):
        client = waiting(server)
        task = await waited_for(server)
        await server.queue.cancel(task["task_id"])

        assert the_error(await client)[:2] == (410, "cancelled")

    with_waiting_server(body)


def test_a_stop_sends_those_who_wait_away_to_come_again(with_waiting_server):
    async def body(server):
        client = waiting(server)
        await waited_for(server)
        server.events.close()
        answer = await client

        assert the_error(answer)[:2] == (503, "shutting_down")
        assert answer.headers["retry-after"]

    with_waiting_server(body)


# --- heartbeats ---


def test_a_long_wait_is_filled_with_spaces_that_a_reader_of_json_skips(with_waiting_server):
    async def body(server):
        async with server.client.stream("POST", "/wait", content=SOUND) as answer:
            pieces = answer.aiter_raw()
            first = [await anext(pieces) for _ in range(3)]
            await work(server)
            rest = b"".join([piece async for piece in pieces])

        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert b"".join(first).strip(b" ") == b""
        assert rest.lstrip(b" ").startswith(b'{"text":"')

    with_waiting_server(body, **BEATING)


def test_an_answer_that_is_no_json_is_not_begun_before_its_end(with_waiting_server):
    async def body(server):
        client = waiting(server, plain="1")
        await waited_for(server)
        await server.queue.fail(await server.queue.claim(), BOOM, final=True)

        assert (await client).status_code == 500

    with_waiting_server(body, **BEATING)


async def begun(server):
    """The raw connection of a client whose answer has begun."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(SOUND)}\r\n\r\n"
    writer.write(head.encode() + SOUND)
    await reader.readuntil(b"\r\n\r\n1\r\n \r\n")
    return reader, writer


@pytest.mark.parametrize("end", ["failed", "cancelled", "stop"])
def test_what_goes_wrong_after_the_first_space_cuts_the_connection(with_waiting_server, end):
    async def body(server):
        reader, writer = await begun(server)
        chunk = await server.queue.claim()
        match end:
            case "failed":
                await server.queue.fail(chunk, BOOM, final=True)
            case "cancelled":
                await server.queue.cancel(chunk.task.id)
            case "stop":
                server.events.close()
        rest = await asyncio.wait_for(reader.read(), DEADLINE)
        writer.close()

        assert not rest.endswith(b"0\r\n\r\n")  # the end of a chunked body

    with_waiting_server(body, **BEATING)


def test_the_retry_of_a_client_that_was_cut_off_is_told_why_at_once(with_waiting_server):
    async def body(server):
        reader, writer = await begun(server)
        await server.queue.fail(await server.queue.claim(), BOOM, final=True)
        await asyncio.wait_for(reader.read(), DEADLINE)
        writer.close()
        for _ in range(2):  # a client may try twice more
            assert the_error(await waiting(server))[:2] == (500, "worker_crashed")

        assert (await server.left())["task"] == 1

    with_waiting_server(body, **BEATING)


def test_a_failure_that_its_client_has_heard_of_is_tried_anew_when_asked_again(with_waiting_server):
    async def body(server):
        client = waiting(server)
        await waited_for(server)
        await server.queue.fail(await server.queue.claim(), BOOM, final=True)
        await client
        again = waiting(server)
        await until(lambda: server.listeners() == 1)
        await work(server)

        assert (await again).status_code == 200

    with_waiting_server(body)


# --- a client that comes back ---


def test_the_same_requests_at_the_same_moment_are_one_task(with_waiting_server):
    async def body(server):
        clients = [waiting(server) for _ in range(8)]
        task = await waited_for(server, clients=8)

        assert [path.name for path in server.folder.iterdir()] == [
            server.services.spool.audio(task["task_id"]).name
        ]
        await work(server)
        assert {(await client).json()["text"] for client in clients} == {task["task_id"]}
        assert not server.services.attendance._submitting

    with_waiting_server(body)


@pytest.mark.parametrize("state", ["queued", "processing", "completed"])
def test_the_same_request_joins_the_task_and_its_upload_is_dropped(with_waiting_server, state):
    async def body(server):
        first = waiting(server)
        task = await waited_for(server)
        if state != "queued":
            await server.plan(1)
        if state == "completed":
            await server.finish("Ask not.")
            await first
        second = waiting(server)
        if state != "completed":
            await waited_for(server, clients=2)
            await (work(server) if state == "queued" else server.finish("Ask not."))

        assert (await second).json() == (await first).json() == {"text": task["task_id"]}
        left = await server.left()
        assert (left["task"], left["files"]) == (1, [f"{task['task_id']}.audio"])

    with_waiting_server(body)


def test_another_sound_gets_a_task_of_its_own(with_waiting_server):
    async def body(server):
        clients = [waiting(server), waiting(server, SOUND + b"\0")]
        await until(lambda: server.listeners() == 2)
        assert (await server.left())["task"] == 2
        for client in clients:
            await leave(client)

    with_waiting_server(body)


def test_a_client_that_leaves_for_good_has_its_task_cancelled(with_waiting_server):
    async def body(server):
        client = waiting(server)
        task = await waited_for(server)
        await leave(client)

        await status_of(server, task["task_id"], "cancelled")
        assert server.listeners() == 0

    with_waiting_server(body, abandoned_seconds=AT_ONCE)


def test_a_client_that_leaves_an_answer_that_has_begun_has_its_task_cancelled_too(with_waiting_server):
    async def body(server):
        _, writer = await begun(server)
        task = await waited_for(server)
        writer.transport.abort()

        await status_of(server, task["task_id"], "cancelled")

    with_waiting_server(body, **{**BEATING, "abandoned_seconds": AT_ONCE})


def test_a_client_that_comes_back_within_the_grace_goes_on_with_its_task(with_waiting_server):
    async def body(server):
        first = waiting(server)
        task = await waited_for(server)
        await server.plan(2)
        await server.finish("Ask not.")
        await leave(first)
        await until(lambda: server.listeners() == 0)
        second = waiting(server)
        await until(lambda: server.listeners() == 1)
        await server.finish("what.")

        assert (await second).json() == {"text": task["task_id"]}

    with_waiting_server(body)


def test_a_task_goes_on_for_the_client_that_stays(with_waiting_server):
    async def body(server):
        first = waiting(server)
        await waited_for(server)
        second = waiting(server)
        await waited_for(server, clients=2)
        await leave(first)
        await until(lambda: server.listeners() == 1)
        await work(server)

        assert (await second).status_code == 200

    with_waiting_server(body, abandoned_seconds=AT_ONCE)


def test_the_task_of_a_client_that_left_is_not_joined_once_it_is_cancelled(with_waiting_server):
    async def body(server):
        first = waiting(server)
        task = await waited_for(server)
        await leave(first)
        await status_of(server, task["task_id"], "cancelled")
        second = waiting(server)
        await until(lambda: server.listeners() == 1)
        await work(server)

        assert (await second).json() != {"text": task["task_id"]}

    with_waiting_server(body, abandoned_seconds=AT_ONCE)


def test_what_cannot_be_queued_leaves_nothing(with_server):
    async def body(server):
        await server.submit()
        before = await server.left()
        server.app.router.routes.append(Route("/wait", _waiting(server.services), methods=["POST"]))

        assert the_error(await waiting(server))[:2] == (503, "queue_full")
        assert await server.left() == before

    with_server(body, max_queued=1)
