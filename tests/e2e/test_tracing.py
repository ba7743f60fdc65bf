"""A real daemon that traces, or does not: what holds it up, and what it loads."""

import socket

import pytest

from tests.collector import Collector

TRACEPARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


def submitted(daemon, path):
    daemon.http.post("/admin/pause")
    daemon.http.headers.update(TRACEPARENT)
    return daemon.queued(path)


def libraries(daemon):
    with open(f"/proc/{daemon.process.pid}/maps") as maps:
        return maps.read()


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.close()


def test_what_was_not_sent_is_sent_with_the_stop_and_the_trace_is_kept(new_daemon, collector, jfk):
    daemon = new_daemon(TRACING__ENDPOINT=collector.url, WORKERS__COUNT=1).start()
    submitted(daemon, jfk)

    assert daemon.stop() == 0
    assert "POST /tasks/transcription" in {span.name for span in collector.spans(collector.TRACE)}
    assert daemon.rows("select count(*) from trace") == [(1,)]


def test_a_collector_that_is_away_holds_up_nothing(new_daemon, jfk):
    away = Collector()
    away.close()
    daemon = new_daemon(TRACING__ENDPOINT=away.url, WORKERS__COUNT=1).start()
    submitted(daemon, jfk)

    assert daemon.stop() == 0


@pytest.fixture
def silence():
    """A collector that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield listening


def test_a_stop_does_not_wait_for_a_collector_that_never_answers(new_daemon, silence, jfk):
    """To wait for 40 batches would take two minutes, but for the library, which gives up after 30 s."""
    endpoint = f"http://127.0.0.1:{silence.getsockname()[1]}"
    daemon = new_daemon(
        environ={"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1"},
        TRACING__ENDPOINT=endpoint,
        SHUTDOWN__GRACE_SECONDS=1,
        WORKERS__COUNT=1,
    ).start()
    submitted(daemon, jfk)
    for _ in range(40):
        daemon.get("/stats")

    assert daemon.stop(timeout=20) == 0
    assert daemon.rows("select count(*) from trace") == [(1,)]
    assert daemon.rows("select state from task") == [("queued",)]


def test_without_an_endpoint_nothing_is_loaded_and_nothing_noted(new_daemon, jfk):
    daemon = new_daemon(WORKERS__COUNT=1).start()
    submitted(daemon, jfk)

    assert daemon.rows("select count(*) from trace") == [(0,)]
    assert "google/_upb" not in libraries(daemon)  # protobuf's
