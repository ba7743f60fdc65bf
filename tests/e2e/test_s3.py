"""Audio out of a bucket and its transcript back into it: what a kill -9 in between does to them."""

import json
import threading

import pytest

from tests.e2e.test_first_slice import JFK, words
from tests.s3_server import KEY, SECRET, client, serving


class Bucket:
    """Lets audio in, and transcripts once it does not hang: one that comes meanwhile is never written."""

    def __init__(self):
        self.hangs = True
        self.written = 0
        self.asked = threading.Event()
        self._let_go = threading.Event()

    def refuses(self, environ):
        if environ["REQUEST_METHOD"] != "PUT" or not environ["PATH_INFO"].startswith("/media/out/"):
            return False
        self.asked.set()
        if self.hangs:
            self._let_go.wait(120)
            return True
        self.written += 1
        return False

    def let_go(self):
        self._let_go.set()


@pytest.fixture
def bucket():
    bucket = Bucket()
    with serving(bucket="media", refuses=bucket.refuses) as port:
        bucket.port = port
        try:
            yield bucket
        finally:
            bucket.let_go()


def test_a_transcript_that_kill_9_kept_from_its_bucket_is_there_once_after_the_start(new_daemon, bucket, jfk):
    client(bucket.port).put_object(Bucket="media", Key="a.wav", Body=jfk.read_bytes())
    daemon = new_daemon(
        S3__ENDPOINT=f"http://127.0.0.1:{bucket.port}",
        S3__BUCKETS="media",
        S3__ACCESS_KEY_ID=KEY,
        S3__SECRET_ACCESS_KEY=SECRET,
        WORKERS__COUNT=1,
    ).start()
    asked = {"audio_url": "s3://media/a.wav", "result_url": "s3://media/out/a.json"}
    answer = daemon.http.post("/tasks/transcription", json=asked)
    assert answer.status_code == 202, answer.text
    task_id = answer.json()["task_id"]

    daemon.until(bucket.asked.is_set, 90)
    daemon.kill()
    task, delivery = daemon.left("select state from task", "select kind, state from outbox")
    assert (task, delivery) == ([("completed",)], [("result", "waiting")])
    bucket.hangs = False
    daemon.start()
    daemon.until(lambda: daemon.rows("select state from outbox") == [("delivered",)])

    written = client(bucket.port).get_object(Bucket="media", Key="out/a.json")["Body"].read()
    assert json.loads(written) == json.loads(daemon.result(task_id, "json"))
    assert words(json.loads(written)["text"]) == words(JFK)
    assert bucket.written == 1
