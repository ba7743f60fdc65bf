"""A shared storage that would never do, and one that comes and goes."""

import asyncio

import pytest

from tests.e2e.test_first_slice import JFK, words
from tests.redis.conftest import in_bucket, in_s3, over
from tests.s3_server import Signatures, a_free_port, client, serving, silent
from whisperd.redis_queue import storage
from whisperd.s3 import S3Error


def test_a_key_with_another_secret_ends_the_start(new_host):
    with serving(bucket="media", refuses=Signatures()) as port:
        status, told = new_host(**in_bucket(port) | {"S3__SECRET_ACCESS_KEY": "another-secret"}).refused()
        new_host(**in_bucket(port)).start()  # with the right one it does

    assert status == 1
    assert "the shared storage refuses the access key" in told
    assert "another-secret" not in told


def test_a_key_for_encryption_without_encryption_ends_the_start(new_host):
    status, told = new_host(**in_bucket(a_free_port()), S3__KMS_KEY_ID="alias/w").refused()

    assert status == 1
    assert "set encryption to one of them" in told


def test_a_bucket_that_is_not_there_ends_the_start(new_host):
    with serving(bucket="other") as port:
        status, told = new_host(**in_bucket(port)).refused()

    assert status == 1
    assert "there is no bucket of the name that redis.storage has" in told


def test_a_key_that_may_not_list_ends_the_start(new_host):
    with serving(bucket="media", refuses=lambda environ: "list-type" in environ["QUERY_STRING"]) as port:
        status, told = new_host(**in_bucket(port)).refused()

    assert (status, "the shared storage refuses the access key" in told) == (1, True)


def test_a_bucket_that_does_not_answer_does_not_hold_up_the_start(monkeypatch):
    monkeypatch.setattr(storage, "CHECK_SECONDS", 0.2)

    with silent() as port, pytest.raises(S3Error, match="the shared storage does not answer"):
        asyncio.run(in_s3(port, "whisperd").check())


def test_a_bucket_that_does_not_answer_does_not_hold_up_who_listens(monkeypatch):
    monkeypatch.setattr(storage, "PART_SECONDS", 0.2)

    with silent() as port, pytest.raises(S3Error, match="the shared storage does not answer"):
        asyncio.run(asyncio.wait_for(in_s3(port, "whisperd").part("audio/http-t1", 0, 64), 5))


def test_while_it_is_away_nothing_is_let_in_and_nothing_stays_behind(new_host, node, jfk):
    port = a_free_port()
    host = new_host(**in_bucket(port)).start()

    answer = host.submit(jfk)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_away")
    assert "the shared storage cannot be reached" in answer.json()["error"]["message"]
    assert host.spool() == []
    assert node.counts()["prioritized"] == 0
    with serving(port, bucket="media"):
        assert host.finished(host.queued(jfk))["status"] == "completed"


class Door:
    """Lets nothing be written to the transcripts while it is shut."""

    shut = True

    def __call__(self, environ):
        to_results = environ["PATH_INFO"].startswith("/media/whisperd/results/")
        return self.shut and to_results and environ["REQUEST_METHOD"] == "PUT"


def test_a_transcript_that_cannot_be_written_is_kept_and_told_once_it_can(new_host, node, jfk):
    door = Door()
    with serving(bucket="media", refuses=door) as port:
        host = new_host(**in_bucket(port)).start()
        task_id = host.queued(jfk)
        host.until(lambda: host.rows("select state from task") == [("completed",)], 60)
        assert node.look(task_id)["state"] == "active"

        host.kill()
        door.shut = False
        host.start()

        assert over(node, task_id)["state"] == "completed"
        assert host.task(task_id)["attempt"] == 1
        written = client(port).get_object(Bucket="media", Key=f"whisperd/results/{task_id}")["Body"].read()
        assert words(JFK)[0] in written.decode().lower()


def test_a_job_that_finds_it_away_is_put_off_and_done_later(new_host, node, jfk):
    port = a_free_port()
    asked = {"transcriptionId": "early", "s3AudioUrl": "s3://media/in/talk.wav"}
    host = new_host(**in_bucket(port)).start()
    job_id = node.add(asked, {"priority": 1})
    host.until(lambda: node.look(job_id)["state"] == "delayed")

    with serving(port, bucket="media"):
        client(port).put_object(Bucket="media", Key="in/talk.wav", Body=jfk.read_bytes())

        assert over(node, job_id)["state"] == "completed"
        assert node.look(job_id)["attemptsMade"] == 1
