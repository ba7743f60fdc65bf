"""Jobs that Node's BullMQ adds, and what it sees of them while whisperd does them."""

import json

from tests.e2e.test_first_slice import JFK, words
from tests.redis.conftest import over, until


def test_a_job_of_whisperapi_is_done_and_answered_as_it_expects(new_host, node, submitted):
    host = new_host().start()

    job = over(node, submitted(host, "cm3-talk", data={"format": "srt"}))

    assert job["state"] == "completed", job
    value = job["returnvalue"]
    assert set(value) == {"s3ResultUrl", "durationSeconds", "completedAt"}
    assert value["durationSeconds"] == 11.0
    srt = (host.shared / value["s3ResultUrl"].removeprefix("shared://")).read_text()
    assert srt.startswith("1\n00:00:0")
    assert [kind for kind, job_id, _ in node.heard() if job_id == job["id"] and kind != "progress"] == [
        "active",
        "completed",
    ]
    assert host.task("cm3-talk")["tenant"] == "user-1"


def test_progress_is_told_from_0_to_100_and_never_goes_back(new_host, node, submitted, minutes_of_speech):
    host = new_host().start()

    job = over(node, submitted(host, "long", minutes_of_speech(0.8)))

    told = [progress for kind, job_id, progress in node.heard() if kind == "progress"]
    assert job["state"] == "completed"
    assert told
    assert told == sorted(told)
    assert all(0 < progress <= 100 for progress in told)


def test_what_no_host_can_run_fails_at_once_and_says_why(new_host, node, submitted, jfk, tmp_path):
    host = new_host().start()
    (tmp_path / "noise").write_bytes(b"this is no audio" * 100)
    (host.shared / "audio").mkdir()
    (host.shared / "audio" / "http-theirs").write_bytes(jfk.read_bytes())

    failed = {
        "no format": submitted(host, "t1", data={"format": "docx"}),
        "no model": submitted(host, "t2", data={"model": "no-such-model"}),
        "no audio": submitted(host, "t3", data={"s3AudioUrl": "shared://audio/elsewhere"}),
        "no media": submitted(host, "t4", tmp_path / "noise", attempts=3),
        "inside": submitted(host, "t5", data={"s3AudioUrl": "s3://secret/key"}),
        "another's": submitted(host, "t6", data={"s3AudioUrl": "shared://audio/http-theirs"}),
    }
    why = {name: over(node, job_id)["failedReason"].partition(":")[0] for name, job_id in failed.items()}

    assert why == {
        "no format": "invalid_field",
        "no model": "model_not_found",
        "no audio": "audio_gone",
        "no media": "unsupported_media",
        "inside": "invalid_field",
        "another's": "invalid_field",
    }
    assert host.rows("select count(*) from job") == [(0,)]


def test_jobs_wait_in_redis_and_run_in_its_order(new_host, node, submitted):
    host = new_host()
    host.folder.mkdir()
    ids = {n: submitted(host, f"p{n}", priority=n) for n in (10, 1, 5)}
    host.start()

    begun = {n: over(node, job_id)["processedOn"] for n, job_id in ids.items()}

    assert begun[1] < begun[5] < begun[10]
    assert [host.task(f"p{n}")["priority"] for n in (1, 5, 10)] == [10, 6, 1]


def test_a_queue_that_node_pauses_hands_out_nothing_until_it_is_resumed(new_host, node, submitted):
    host = new_host().start()
    node.pause()
    job_id = submitted(host, "paused")
    removed = submitted(host, "removed")
    node.remove(removed)

    assert host.get("/stats")["total"] == 0
    node.resume()

    assert over(node, job_id)["state"] == "completed"
    assert node.look(removed) is None


def test_a_failed_job_that_node_retries_runs_again(new_host, node, submitted, jfk):
    host = new_host().start()
    job_id = submitted(host, "twice", data={"s3AudioUrl": "shared://audio/later"})
    assert over(node, job_id)["state"] == "failed"

    (host.shared / "audio" / "later").write_bytes(jfk.read_bytes())
    node.retry(job_id)

    assert until(lambda: node.look(job_id)["state"] == "completed", 60)


def test_a_transcript_that_is_there_makes_a_second_run_a_no_op(new_host, node, submitted, jfk):
    host = new_host().start()
    first = over(node, submitted(host, "same"))
    written = host.shared / "results" / "same"
    before = written.stat().st_mtime_ns

    other = new_host().start()
    host.stop()
    (other.shared / "audio" / "same").unlink()
    again = over(node, node.add(first["data"], {"priority": 1}))

    assert again["returnvalue"]["s3ResultUrl"] == first["returnvalue"]["s3ResultUrl"]
    assert written.stat().st_mtime_ns == before
    assert other.rows("select count(*) from task") == [(0,)]
    transcript = json.loads((host.shared / "results" / "same.json").read_text())
    assert words(transcript["text"]) == words(JFK)
