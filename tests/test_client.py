import socket
import threading
from datetime import UTC, datetime

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from tests.stand_in import serving, standing_in
from whisperd.client import (
    ApiError,
    Audio,
    Client,
    ClientError,
    DaemonAway,
    NotFinished,
    Swept,
    TaskFailed,
    TryLater,
)
from whisperd.client.calls import Calls, Pause, Request


@pytest.fixture(scope="module")
def server():
    with standing_in() as server:
        yield server


@pytest.fixture
def daemon(server):
    server.reset()
    return server


@pytest.fixture
def client(daemon):
    with Client(daemon.url) as client:
        yield client


def test_a_file_is_submitted_with_its_options(daemon, client, tmp_path):
    (tmp_path / "talk.mp3").write_bytes(b"sound")
    task = client.submit(
        tmp_path / "talk.mp3", language="en", vad=False, priority=5, metadata={"a": 1}, prompt=None
    )

    assert task.status == "queued"
    name, content, fields, _ = daemon.submitted[0]
    assert (name, content) == ("talk.mp3", b"sound")
    assert fields == {"language": "en", "vad": "false", "priority": "5", "metadata": '{"a": 1}'}


def test_an_upload_tells_how_much_has_gone(client, tmp_path):
    (tmp_path / "long.wav").write_bytes(bytes(300_000))
    sent = []
    client.submit(tmp_path / "long.wav", on_sent=lambda *told: sent.append(told))

    assert sent == sorted(sent)
    assert len(sent) > 3
    assert sent[-1] == (300_000, 300_000)


def test_an_upload_declares_its_length(daemon, client, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"x")
    client.submit(tmp_path / "a.wav", idempotency_key="once")

    headers = daemon.submitted[0][3]
    assert int(headers["content-length"]) > 0
    assert headers["idempotency-key"] == "once"


def test_a_name_with_odd_characters_arrives(daemon, client, tmp_path):
    path = tmp_path / 'na"me\nü.wav'
    path.write_bytes(b"x")
    client.submit(path)

    assert daemon.submitted[0][0] == "na%22me%0Aü.wav"  # as browsers write it


def test_a_file_that_is_gone_is_an_oserror(client, tmp_path):
    with pytest.raises(FileNotFoundError):
        client.submit(tmp_path / "gone.wav")


def test_waiting_reports_progress_until_the_end(daemon, client):
    daemon.add()
    seen = []
    task = client.wait("01J001", on_progress=lambda task: seen.append((task.status, task.progress)))

    assert task.status == "completed"
    assert seen == [("processing", 0.5), ("completed", 1.0)]
    assert ("GET", "/tasks/01J001?wait=1") in daemon.seen


def test_waiting_without_progress_polls_seldom(daemon, client):
    daemon.add()
    client.wait("01J001")

    assert daemon.seen == [("GET", "/tasks/01J001?wait=30")] * 2


def test_a_result_comes_in_the_format_asked_for(daemon, client):
    daemon.add(status="completed")

    assert client.result_as("01J001", "text") == "Ask not.\n"
    assert client.result("01J001").text == "Ask not."


def test_a_result_that_is_not_there_yet_is_an_error_of_its_own(daemon, client):
    daemon.add()
    with pytest.raises(NotFinished, match="the task is not finished") as caught:
        client.result("01J001")

    assert (caught.value.status, caught.value.code) == (409, "not_finished")


def test_a_link_is_asked_for_as_it_is_wanted(daemon, client):
    daemon.add(status="completed")
    link = client.link("01J001", "srt", seconds=600, redacted=True)
    client.link("01J001")

    assert link.url == "https://s3.lan/links/01J001.srt?X-Amz-Expires=600"
    assert link.expires_at == datetime(2026, 11, 29, 10, 10, tzinfo=UTC)
    assert [path for _, path in daemon.seen] == [
        "/tasks/01J001/link?format=srt&redacted=true&seconds=600",
        "/tasks/01J001/link?format=json&redacted=false",
    ]


def test_a_link_to_what_failed_is_the_failure_of_the_task(daemon, client):
    daemon.add(status="failed")

    with pytest.raises(TaskFailed, match="the worker exited with -11"):
        client.link("01J001")


def test_a_list_goes_over_pages_as_far_as_asked(daemon, client):
    for _ in range(230):
        daemon.add()

    assert len(client.list(limit=1000)) == 230
    assert [task.task_id for task in client.list(limit=2)] == ["01J230", "01J229"]
    assert client.list(status="failed") == ()
    assert daemon.seen[-1] == ("GET", "/tasks?status=failed&limit=50")


def test_a_task_is_cancelled_and_runs_again(daemon, client):
    daemon.add()

    assert client.cancel("01J001").status == "cancelled"
    assert client.retry("01J001").status == "queued"
    with pytest.raises(ApiError, match="the task is queued"):
        client.retry("01J001")


def test_an_id_cannot_name_another_path(daemon, client):
    with pytest.raises(ApiError):
        client.task("../stats")

    assert daemon.seen == [("GET", "/tasks/..%2Fstats")]


def test_stats_workers_and_health_are_read(daemon, client):
    daemon.add()

    assert client.stats().queued == 1
    assert client.workers()[0].pid == 4711
    assert client.health().status == "ok"


def test_a_daemon_that_is_down_still_says_so(daemon, client):
    daemon.health["status"] = "down"

    assert client.health().status == "down"


def test_a_backup_is_asked_for_and_listed(daemon, client):
    assert client.backup().tasks == 3
    assert [backup.name for backup in client.backups()] == ["b"]


def test_a_backup_that_failed_is_an_api_error(daemon, client):
    daemon.backup = None

    with pytest.raises(ApiError, match="the disk gave back something else"):
        client.backup()


def test_the_operator_sweeps_clears_pauses_and_resumes(daemon, client):
    assert client.sweep() == Swept(requeued=2, failed=1)
    assert client.clear(("completed", "failed"), 24) == 12
    assert daemon.cleared == [(["completed", "failed"], 24)]
    assert client.pause()
    assert client.stats().paused
    assert not client.resume()


def test_no_daemon_is_said_with_what_to_do():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"

    with (
        Client(url, retries=0) as client,
        pytest.raises(DaemonAway, match=f"no daemon answers at {url}.*`whisperd serve`"),
    ):
        client.stats()
    with Client(url, retries=0) as client, pytest.raises(DaemonAway):
        list(client.events("1"))


def test_a_daemon_that_dies_in_the_middle_is_away():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            connection, _ = server.accept()
            connection.recv(4096)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"127.0.0.1:{server.getsockname()[1]}"
        with Client(url, retries=0) as client, pytest.raises(DaemonAway, match="stopped answering"):
            client.stats()
        thread.join()


def test_another_program_at_the_url_is_not_taken_for_the_daemon():
    app = Starlette(routes=[Route("/stats", lambda request: HTMLResponse("<h1>It works!</h1>"))])
    with serving(app) as url, Client(url) as client:
        with pytest.raises(ClientError, match="is not whisperd"):
            client.stats()
        with pytest.raises(ApiError, match="/workers answered 404 Not Found"):
            client.workers()


def test_a_url_needs_no_scheme(daemon):
    with Client(daemon.url.removeprefix("http://") + "/") as client:
        assert client.health().status == "ok"


@pytest.mark.parametrize("url", ["http://[", "ftp://127.0.0.1", "http://\x00"])
def test_a_wrong_url_is_an_error_of_the_client(url):
    with pytest.raises(ClientError), Client(url, retries=0) as client:
        client.stats()


def test_a_proxy_is_not_asked_for_this_machine(daemon, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Client(daemon.url) as client:
        assert client.health().status == "ok"


def test_a_key_goes_with_every_request(daemon, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"x")
    with Client(daemon.url, key="secret") as client:
        client.submit(tmp_path / "a.wav")

    assert daemon.submitted[0][3]["authorization"] == "Bearer secret"


def test_url_and_key_come_from_the_environment_where_none_are_given(daemon, monkeypatch, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"x")
    monkeypatch.setenv("QUEUE_SERVICE_URL", daemon.url)
    monkeypatch.setenv("WHISPERD_KEY", "secret\n")
    with Client() as client:
        client.submit(tmp_path / "a.wav")
    monkeypatch.setenv("WHISPERD_URL", "http://127.0.0.1:9")
    with Client() as client:
        assert client.url == "http://127.0.0.1:9"

    assert daemon.submitted[0][3]["authorization"] == "Bearer secret"


def test_a_key_that_cannot_be_one_is_refused_without_being_shown():
    with pytest.raises(ClientError) as caught:
        Client(key="secr\u00e9t")

    assert "secr" not in str(caught.value)


def test_fields_that_are_not_known_are_passed_over(daemon, client):
    daemon.add(future={"a": 1}, audio={"name": "a.mp3", "codec": "mp3"}, tenant="default")

    assert client.task("01J001").audio == Audio(name="a.mp3")


def test_a_submission_has_a_key_of_its_own_each_time(daemon, client, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"x")
    client.submit(tmp_path / "a.wav")
    client.submit(tmp_path / "a.wav")

    first, second = [headers["idempotency-key"] for _, _, _, headers in daemon.submitted]
    assert first != second


def test_text_is_not_taken_for_audio(client, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with (tmp_path / "a.txt").open() as file, pytest.raises(TypeError, match="binary"):
        client.submit(file)


def answered(code=200, headers=None, **fields):
    task = {"task_id": "1", "status": "queued", "created_at": "2026-11-22T10:00:00.000Z", **fields}
    request = httpx.Request("GET", "http://127.0.0.1:8002/tasks/1")
    return httpx.Response(code, headers=headers, json=task, request=request)


def test_a_daemon_that_does_not_hold_a_long_poll_is_not_asked_all_the_time():
    flow = Calls("http://127.0.0.1:8002", retries=0, retry_delay=0.5).wait("1", None, None)
    assert isinstance(next(flow), Request)

    assert isinstance(flow.send(answered()), Pause)
    assert isinstance(flow.send(None), Request)
    with pytest.raises(StopIteration):
        flow.send(answered(status="completed"))


def test_waits_between_two_tries_grow_have_jitter_and_an_end():
    calls = Calls("http://127.0.0.1:8002", retries=9, retry_delay=0.5)
    waits = [[calls.retry_in(DaemonAway("url"), attempt) for _ in range(50)] for attempt in range(9)]

    assert all(0.25 <= wait <= 0.5 for wait in waits[0])
    assert all(2 <= wait <= 4 for wait in waits[3])
    assert max(waits[8]) <= 10
    assert all(len(set(some)) > 1 for some in waits)
    assert calls.retry_in(DaemonAway("url"), 9) is None


def test_the_daemon_is_left_alone_for_as_long_as_it_asks():
    calls = Calls("http://127.0.0.1:8002", retries=1, retry_delay=0.5)
    trouble = calls.trouble(answered(503, {"Retry-After": "7"}))

    assert isinstance(trouble, TryLater)
    assert 7 <= calls.retry_in(trouble, 0, repeatable=False) <= 7.5


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7), ("Sun, 06 Nov 1994 08:49:37 GMT", 0), ("soon", None), ("Sat, 28 Nov", None), ("", None)],
)
def test_a_retry_after_may_be_seconds_or_a_date(said, seconds):
    calls = Calls("http://127.0.0.1:8002", retries=1, retry_delay=0.5)

    assert calls.trouble(answered(429, {"Retry-After": said})).retry_after == seconds
