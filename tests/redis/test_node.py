"""Node's own programs in front of our queue: BullMQ's Queue and Worker, and bull-board, unchanged."""

import httpx
import pytest

from tests.e2e.daemon import serving
from tests.redis.conftest import over, until
from tests.redis_server import Node, Redis


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    redis = Redis(tmp_path_factory.mktemp("redis"))
    try:
        yield redis.start()
    finally:
        redis.stop()


@pytest.fixture(scope="module")
def node(redis):
    node = Node(redis)
    try:
        yield node
    finally:
        node.close()


@pytest.fixture(scope="module")
def board(node):
    """What the pages of bull-board ask: its API."""
    base = f"http://127.0.0.1:{node.board()}/api/queues/transcription"
    with httpx.Client(base_url=base, trust_env=False, timeout=30) as http:
        yield http


@pytest.fixture(scope="module")
def host(redis, weights, tmp_path_factory):
    """One for all: these tests do it no harm."""
    folder = tmp_path_factory.mktemp("host")
    shared = folder / "shared"
    shared.mkdir()
    settings = {"WORKERS__COUNT": 1, "REDIS__URL": redis.url, "REDIS__STORAGE": shared}
    with serving(folder, weights, **settings) as host:
        host.shared = shared
        yield host


def listed(board, status):
    """The ids of the jobs that a page of bull-board shows, the newest first."""
    asked = {"activeQueue": "transcription", "status": status}
    (queue,) = (
        board.get(board.base_url.copy_with(path="/api/queues"), params=asked)
        .raise_for_status()
        .json()["queues"]
    )
    return [job["id"] for job in queue["jobs"]], queue["counts"]


def done(answer):
    assert answer.is_success, answer.text


def looked_for_work(redis):
    """Waits until a host has asked for a job in vain, all of it after this call."""
    with redis.watching() as commands:
        asked = (line for line in commands if '"BZPOPMIN"' in line)  # that follows
        next(asked), next(asked)


def ended(host, name, status, timeout=60):
    host.until(lambda: host.http.get(f"/tasks/{name}").json().get("status") == status, timeout)


def test_bull_board_shows_what_whisperd_does(host, node, board, submitted):
    job_id = submitted(host, "seen", priority=3)
    assert over(node, job_id)["state"] == "completed"

    ids, counts = listed(board, "completed")
    shown = board.get(f"/{job_id}").json()

    assert ids[0] == job_id
    assert counts["completed"] >= 1
    assert shown["status"] == "completed"
    assert shown["job"]["opts"]["priority"] == 3
    assert shown["job"]["data"]["transcriptionId"] == "seen"
    assert set(shown["job"]["returnValue"]) == {"s3ResultUrl", "durationSeconds", "completedAt"}


def test_a_job_that_bull_board_adds_is_done(host, node, board, submitted):
    audio = node.look(submitted(host, "first"))["data"]["s3AudioUrl"]
    data = {"transcriptionId": "by-hand", "userId": "u", "s3AudioUrl": audio, "format": "vtt"}

    answer = board.post("/add", json={"name": "transcribe", "data": data, "options": {"priority": 1}})

    done(answer)
    assert over(node, answer.json()["job"]["id"])["returnvalue"]["s3ResultUrl"].endswith("by-hand.vtt")
    assert host.task("by-hand")["priority"] == 10


@pytest.fixture
def paused(board, redis):
    """The queue, as bull-board pauses it; `resume` ends that."""
    done(board.put("/pause"))
    yield lambda: done(board.put("/resume"))
    done(board.put("/resume"))  # whatever became of the test


def test_a_queue_that_bull_board_pauses_is_left_alone_by_a_host_that_is_idle(
    host, node, redis, submitted, paused
):
    job_id = submitted(host, "waits")
    ours = host.queued(host.shared / "audio" / "waits")
    looked_for_work(redis)
    assert host.rows("select count(*) from task where id in (?, ?)", "waits", ours) == [(0,)]
    assert host.task(ours)["status"] == "queued"

    paused()

    assert over(node, job_id)["state"] == "completed"
    assert host.finished(ours)["status"] == "completed"


def test_what_bull_board_removes_is_never_run_and_known_no_more(host, node, board, submitted, paused):
    removed, stays = submitted(host, "removed"), submitted(host, "stays")
    ours = host.queued(host.shared / "audio" / "removed")
    for job_id in (removed, ours):
        done(board.put(f"/{job_id}/clean"))

    paused()

    assert over(node, stays)["state"] == "completed"
    assert host.http.get(f"/tasks/{ours}").status_code == 404
    assert host.http.get("/tasks/removed").status_code == 404
    assert not {removed, ours} & set(listed(board, "latest")[0])
    assert not {"removed", ours} & {task["task_id"] for task in host.get("/tasks")["tasks"]}


def test_a_job_at_work_is_not_removed_as_with_any_worker(host, node, board, submitted, minutes_of_speech):
    job_id = submitted(host, "busy", minutes_of_speech(0.8))
    host.until(lambda: host.workers()[0]["task_id"] == "busy")

    assert board.put(f"/{job_id}/clean").status_code == 409

    host.http.delete("/tasks/busy").raise_for_status()
    assert over(node, job_id)["failedReason"] == "cancelled"


def test_a_job_whose_task_failed_runs_again_when_bull_board_retries_it(host, node, board, submitted, jfk):
    job_id = submitted(host, "mended", attempts=1)
    (host.shared / "audio" / "mended").write_bytes(b"this is no audio" * 100)
    assert over(node, job_id)["failedReason"].startswith("unsupported_media: ")
    assert host.task("mended")["status"] == "failed"

    (host.shared / "audio" / "mended").write_bytes(jfk.read_bytes())
    done(board.put(f"/{job_id}/retry"))

    ended(host, "mended", "completed")
    assert over(node, job_id)["state"] == "completed"


def test_what_was_cancelled_while_it_waited_runs_when_bull_board_retries_it(
    host, node, submitted, paused, board
):
    job_id = submitted(host, "again")
    assert host.http.delete(f"/tasks/{job_id}").json()["status"] == "cancelled"
    paused()

    done(board.put(f"/{job_id}/retry"))

    ended(host, "again", "completed")


def test_what_was_cancelled_at_work_is_begun_anew_when_bull_board_retries_it(
    host, node, board, submitted, minutes_of_speech
):
    job_id = submitted(host, "stopped", minutes_of_speech(0.8))
    for attempt in (1, 2):
        host.until(lambda: host.workers()[0]["task_id"] == "stopped", 60)
        assert node.look(job_id)["attemptsStarted"] == attempt
        host.http.delete("/tasks/stopped").raise_for_status()
        assert over(node, job_id)["failedReason"] == "cancelled"
        ended(host, "stopped", "cancelled")

        done(board.put(f"/{job_id}/retry"))

    host.http.delete("/tasks/stopped").raise_for_status()


def test_a_transcript_is_told_again_when_bull_board_runs_a_completed_job_again(host, node, board, submitted):
    job_id = submitted(host, "twice")
    first = over(node, job_id)
    written = (host.shared / "results" / "twice").stat().st_mtime_ns

    done(board.put(f"/{job_id}/retry"))

    until(lambda: node.look(job_id)["attemptsStarted"] == 2)
    assert over(node, job_id)["returnvalue"]["s3ResultUrl"] == first["returnvalue"]["s3ResultUrl"]
    assert (host.shared / "results" / "twice").stat().st_mtime_ns == written


def test_a_delayed_job_is_promoted_and_a_priority_changed(host, node, board, submitted, jfk, paused):
    job_id = submitted(host, "later", delay=3_600_000)
    ours = host.queued(jfk, priority=3)
    assert host.task(job_id)["run_at"]

    done(board.put(f"/{job_id}/promote"))
    done(board.patch(f"/{ours}/priority", json={"priority": 2}))

    assert host.task(ours)["priority"] == 9
    paused()
    assert over(node, job_id)["state"] == "completed"
    assert host.finished(ours)["priority"] == 9


def test_a_node_worker_does_what_whisperd_submits(host, node, jfk):
    host.http.post("/admin/pause").raise_for_status()
    task_id = host.queued(jfk, priority=7)

    node.work({"result_url": "https://elsewhere.example/1", "seconds": 11, "words": 22}, 40)

    task = host.finished(task_id)
    assert (task["status"], task["audio"]["duration"], task["priority"]) == ("completed", 11, 7)
    until(lambda: ["progress", task_id, 40] in node.heard())
    assert node.look(task_id)["returnvalue"]["saw"]["audio"]["bytes"] == jfk.stat().st_size
    answer = host.http.get(f"/tasks/{task_id}/result")
    assert answer.status_code == 404
    assert "another program" in answer.json()["error"]["message"]
    assert '"status":"completed"' in host.http.get(f"/tasks/{task_id}/events").text
    older = host.http.get(f"/api/v1/status/{task_id}").json()["data"]
    assert older["status"] == "COMPLETED"
    assert "result" not in older
    node.end()
    host.http.post("/admin/resume").raise_for_status()
