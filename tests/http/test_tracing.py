"""One trace from the request to the chunk, as a collector receives it. The tests play the worker."""

import asyncio
import contextlib
from collections import Counter

import pytest

from tests.collector import Collector, attributes
from tests.http_server import SOUND, said, until
from whisperd.config import Tracing as Settings
from whisperd.task import Cut, Death, Effort, Piece, Plan, Problem
from whisperd.tracing import Tracing

CALLER = "b7ad6b7169203331"
SUBMIT = "POST /tasks/transcription"


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def tracing(collector, monkeypatch):
    """Sends what it has after a moment: OpenTelemetry would wait for five seconds."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    made = Tracing(Settings(endpoint=collector.url))
    yield made
    asyncio.run(made.close(10))


def called_by(flags="01"):
    return {"traceparent": f"00-{Collector.TRACE}-{CALLER}-{flags}"}


@contextlib.asynccontextmanager
async def followed(server, tracing):
    async with asyncio.TaskGroup() as group:
        following = group.create_task(tracing.follow(server.events, server.services.history))
        yield
        following.cancel()


async def worked_on(server, effort):
    await server.queue.plan(await server.queue.claim(), _plan(), effort)
    return await server.queue.finish(await server.queue.claim(), said(1, "Ask not."), (), effort)


def _plan():
    return Plan(fingerprint="f", cuts=(Cut(pieces=(Piece(0, 160_000),)),), duration=10.0, language="en")


async def whole(collector):
    """The spans of the trace by name, once that of the task has come."""

    def found():
        return {span.name: span for span in collector.spans(Collector.TRACE)}

    await until(lambda: {"task", SUBMIT} <= found().keys())
    return found()


def effort(**more):
    return Effort(worker=1, seconds=0.5, device="cpu", threads=1, **more)


def test_a_trace_leads_from_the_request_of_a_caller_to_the_chunk_and_tells_no_secrets(
    with_server, collector, tracing
):
    async def body(server):
        async with followed(server, tracing):
            answer = await server.post(name="secret talk.wav", headers=called_by(), tenant="acme")
            await worked_on(server, effort())
            spans = await whole(collector)

            assert spans.keys() == {SUBMIT, "task", "wait", "plan", "chunk"}
            request, task, chunk = spans[SUBMIT], spans["task"], spans["chunk"]
            assert request.parent_span_id.hex() == CALLER
            assert task.parent_span_id == request.span_id
            assert {spans[name].parent_span_id for name in ("wait", "plan", "chunk")} == {task.span_id}
            assert attributes(request) == {
                "http.request.method": "POST",
                "http.route": "/tasks/transcription",
                "http.response.status_code": 202,
            }
            assert attributes(task) == {
                "whisperd.task": answer.json()["task_id"],
                "whisperd.model": "tiny.en",
                "whisperd.state": "completed",
                "whisperd.priority": 0,
                "whisperd.attempt": 1,
            }
            assert attributes(chunk) == {
                "whisperd.chunk": 1,
                "whisperd.worker": 1,
                "whisperd.audio_seconds": 10.0,
                "whisperd.real_time_factor": 0.05,
            }
            assert chunk.end_time_unix_nano - chunk.start_time_unix_nano == pytest.approx(0.5e9, abs=1e6)
            await until_noted(server, 0)
        sent = b"".join(collector.bodies)
        for secret in ("secret talk", "Ask not", "acme", str(server.folder)):
            assert secret.encode() not in sent

    with_server(body, tracing=tracing)


async def until_noted(server, number):
    async with asyncio.timeout(10):
        while await noted(server) != number:  # noqa: ASYNC110  # the database tells nobody
            await asyncio.sleep(0.01)


async def noted(server):
    return await server.db.read(lambda conn: conn.execute("select count(*) from trace").fetchone()[0])


def test_what_ended_while_nobody_listened_is_told_at_the_next_start(with_server, collector, tracing):
    async def body(server):
        await server.post(headers=called_by())
        await worked_on(server, effort())
        assert await noted(server) == 1
        async with followed(server, tracing):
            spans = await whole(collector)
            await until_noted(server, 0)

        assert spans["task"].parent_span_id == spans[SUBMIT].span_id

    with_server(body, tracing=tracing)


def test_a_slow_collector_gets_all_that_ended_while_nobody_listened(with_server, collector, monkeypatch):
    for name, most in (("QUEUE_SIZE", "8"), ("EXPORT_BATCH_SIZE", "4")):
        monkeypatch.setenv(f"OTEL_BSP_MAX_{name}", most)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    tracing, number = Tracing(Settings(endpoint=collector.url)), 12

    async def body(server):
        for n in range(number):
            await server.post(SOUND + bytes([n]), headers=called_by())
            await worked_on(server, effort())
        collector.seconds = 0.05
        async with followed(server, tracing):
            await until_noted(server, 0)

        names = Counter(span.name for span in collector.spans(Collector.TRACE))
        assert {names[name] for name in ("task", "wait", "plan", "chunk")} == {number}

    with_server(body, tracing=tracing)
    asyncio.run(tracing.close(10))


def test_a_failure_and_what_led_to_it_are_in_the_span_of_the_task(with_server, collector, tracing):
    async def body(server):
        async with followed(server, tracing):
            await server.post(headers=called_by(), max_retries=0)
            problem = Problem("worker_crashed", "child 7 was killed")
            died = effort(death=Death(problem, "/home/me: secret words"))
            await server.queue.fail(await server.queue.claim(), problem, effort=died)
            span = (await whole(collector))["task"]

        assert (span.status.code, span.status.message) == (2, "worker_crashed")
        assert [event.name for event in span.events] == ["worker_died"]
        assert b"secret words" not in b"".join(collector.bodies)

    with_server(body, tracing=tracing)


def test_a_trace_that_lacks_its_first_chunks_says_so(with_server, collector, tracing, monkeypatch):
    monkeypatch.setattr("whisperd.sql.timeline.MOST_CHUNKS", 2)

    async def body(server):
        async with followed(server, tracing):
            await server.post(headers=called_by())
            await server.plan(chunks=3)
            for _ in range(3):
                await server.finish("Ask not.")
            task = (await whole(collector))["task"]
        chunks = [span for span in collector.spans(Collector.TRACE) if span.name == "chunk"]

        assert attributes(task)["whisperd.truncated"] is True
        assert {attributes(chunk)["whisperd.chunk"] for chunk in chunks} == {2, 3}

    with_server(body, tracing=tracing)


async def the_only(collector):
    """The span of the one request of the trace."""
    await until(lambda: collector.spans(Collector.TRACE))
    (span,) = collector.spans(Collector.TRACE)
    return span


def test_a_method_that_a_client_invents_names_no_span(with_server, collector, tracing):
    async def body(server):
        answer = await server.ask("/stats", "SECRET-WORDS", headers=[*called_by().items()])
        span = await the_only(collector)

        assert answer.status_code == 405
        assert span.name == "HTTP /stats"
        assert attributes(span)["http.request.method"] == "_OTHER"
        assert b"SECRET" not in b"".join(collector.bodies)

    with_server(body, tracing=tracing)


def test_a_trace_is_taken_over_without_what_else_strangers_have_to_say(with_server, collector, tracing):
    async def body(server):
        await server.post(headers={**called_by(), "tracestate": "stranger=words"})
        span = await the_only(collector)

        assert (span.parent_span_id.hex(), span.trace_state) == (CALLER, "")

    with_server(body, tracing=tracing)


def test_what_the_daemon_could_not_do_is_an_error_and_what_it_refused_is_none(
    with_server, collector, tracing, nothing_broke
):
    async def body(server):
        await server.ask("/tasks/of-none", headers=[*called_by().items()])
        server.services.draining = True
        await server.post(headers=called_by())
        server.services.history = None
        with pytest.raises(AttributeError):
            await server.ask("/usage", headers=[*called_by().items()])
        nothing_broke.clear()
        await until(lambda: len(collector.spans(Collector.TRACE)) == 3)

        assert {
            span.name: (attributes(span)["http.response.status_code"], span.status.code)
            for span in collector.spans(Collector.TRACE)
        } == {"GET /tasks/{task_id}": (404, 0), SUBMIT: (503, 2), "GET /usage": (500, 2)}

    with_server(body, tracing=tracing)


def test_what_the_caller_does_not_sample_is_not_noted(with_server, tracing):
    async def body(server):
        assert (await server.post(headers=called_by("00"))).status_code == 202
        assert await noted(server) == 0

    with_server(body, tracing=tracing)


def test_without_a_trace_of_the_callers_a_request_begins_one(with_server, collector, tracing):
    async def body(server):
        assert (await server.post(headers={"traceparent": "nonsense"})).status_code == 202
        assert await noted(server) == 1

    with_server(body, tracing=tracing)


def test_where_it_is_off_a_trace_of_the_callers_is_passed_over(with_server):
    async def body(server):
        assert (await server.post(headers=called_by())).status_code == 202
        assert await noted(server) == 0

    with_server(body)
