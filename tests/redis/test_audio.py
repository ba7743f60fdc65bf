"""The audio of a task, as every host hands it out: read from the shared storage while it is sent."""

import random
import struct

import httpx
import pytest

from tests.e2e.daemon import a_key
from tests.redis.conftest import in_bucket, over
from tests.s3_server import a_free_port, client, serving
from whisperd.redis_queue.shared_audio import PART_BYTES

NAME = "Grüße an alle.wav"
ALIKE = ("content-type", "content-length", "content-disposition", "content-range", "accept-ranges", "etag")
GONE = "the audio of this task is not kept any more"


@pytest.fixture(params=["folder", "bucket"])
def place(request, bucket):
    """Settings of hosts that share a storage."""
    return {} if request.param == "folder" else in_bucket(bucket)


def idle(host):
    """A host that takes requests and no jobs."""
    host.start().http.post("/admin/pause").raise_for_status()
    return host


def heard(host, task_id, method="GET", redacted=None, **headers):
    params = {} if redacted is None else {"redacted": redacted}
    return host.http.request(method, f"/tasks/{task_id}/audio", params=params, headers=headers)


def seen(answer):
    return answer.status_code, {name: answer.headers.get(name) for name in ALIKE}, answer.content


def told(answer):
    return answer.status_code, answer.json()["error"]["code"]


def noise(path, megabytes):
    """What looks like a WAV file, each piece of it another."""
    with open(path, "wb") as file:
        file.write(b"RIFF" + struct.pack("<I", megabytes * 2**20) + b"WAVEfmt ")
        for n in range(megabytes):
            file.write(random.Random(n).randbytes(2**20))
    return path


def test_every_host_hands_out_what_waits_and_what_is_over(new_host, place, jfk, minutes_of_speech):
    sound = minutes_of_speech(1)
    asked, other = idle(new_host(**place)), idle(new_host(**place))
    with open(sound, "rb") as file:
        answer = asked.http.post("/tasks/transcription", files={"file": (NAME, file)})
    task_id, content = answer.json()["task_id"], sound.read_bytes()
    assert len(content) > PART_BYTES
    assert [heard(host, task_id).content == content for host in (asked, other)] == [True, True]

    worker = new_host(**place).start()
    asked.finished(task_id)

    own, peaks = seen(heard(worker, task_id)), worker.get(f"/tasks/{task_id}/peaks")
    assert len(peaks["peaks"]) == 800
    assert max(peaks["peaks"]) > 0.1
    for host in (asked, other):
        assert host.get(f"/tasks/{task_id}/peaks") == peaks
        assert host.task(task_id)["audio_kept"] is True
    assert (own[0], own[2] == content) == (200, True)
    assert [seen(heard(host, task_id)) == own for host in (asked, other)] == [True, True]
    assert (asked.spool(), other.spool()) == ([], [])
    for wanted in (
        *("bytes=0-0", "bytes=70-90", "bytes=1048570-1048590", "bytes=1000-", "bytes=-7", "bytes=0-9999999"),
        *("bytes=9-2", "lines=0-1", "bytes=0-1,4-5", f"bytes={len(content)}-", "bytes=-0"),
    ):
        for stamp in ({}, {"If-Range": own[1]["etag"]}, {"If-Range": '"old"'}):
            asking = {"Range": wanted, **stamp}
            for method in ("GET", "HEAD"):
                there, here = (heard(host, task_id, method, **asking) for host in (worker, other))
                assert seen(here)[:2] == seen(there)[:2], (asking, method)
                assert here.status_code == 416 or here.content == there.content, (asking, method)


def test_while_nothing_is_known_of_its_waveform_there_is_none(new_host, jfk):
    host = idle(new_host())
    task_id = host.queued(jfk)
    old = host.shared / "results" / task_id  # as hosts wrote it that kept no waveform
    old.parent.mkdir(exist_ok=True)

    for content in (None, b'{"segments":[]}', b'{"segments":[],"peaks":""}'):
        if content is not None:
            old.write_bytes(content)
        assert told(host.http.get(f"/tasks/{task_id}/peaks")) == (404, "no_peaks")


def test_the_audio_of_what_is_over_is_kept_as_long_as_its_job(new_host, redis, jfk):
    asked, other = idle(new_host()), idle(new_host())
    ids = [asked.queued(jfk) for _ in range(3)]
    for task_id in ids:
        asked.http.delete(f"/tasks/{task_id}").raise_for_status()

    for host in (asked, other):
        assert [host.task(task_id)["audio_kept"] for task_id in ids] == [True, True, True]
        assert [task["audio_kept"] for task in host.get("/tasks")["tasks"]] == [True, True, True]
        assert heard(host, ids[0]).content == jfk.read_bytes()


def test_the_audio_of_a_job_that_is_forgotten_is_kept_on_disk_alone(new_host, node, jfk):
    worker = new_host().start()
    task_id = worker.queued(jfk)
    assert over(node, task_id)["state"] == "completed"
    file = worker.data / "spool" / f"{task_id}.audio"

    def kept():
        return worker.task(task_id)["audio_kept"]

    file.rename(worker.data / "aside")
    assert kept() is True
    node.remove(task_id)
    assert kept() is False
    assert told(heard(worker, task_id)) == (404, "not_found")
    (worker.data / "aside").rename(file)
    assert kept() is True


def test_the_middle_of_it_is_read_alone(new_host, jfk):
    asked_for = []

    def note(environ):
        asked_for.append((environ["REQUEST_METHOD"], environ.get("HTTP_RANGE")))
        return False

    with serving(bucket="media", refuses=note) as port:
        host = idle(new_host(**in_bucket(port)))
        task_id = host.queued(jfk)
        asked_for.clear()

        answer = heard(host, task_id, Range="bytes=1000-1999")

    assert (answer.status_code, answer.content) == (206, jfk.read_bytes()[1000:2000])
    assert answer.headers["content-range"] == f"bytes 1000-1999/{jfk.stat().st_size}"
    assert asked_for == [("GET", "bytes=0-63"), ("GET", "bytes=1000-1999")]


def test_a_long_recording_is_never_whole_in_memory(new_host, place, tmp_path):
    megabytes = 100
    sound = noise(tmp_path / "long.wav", megabytes)
    asked, other = idle(new_host(**place)), idle(new_host(**place))
    task_id = asked.queued(sound)
    heard(other, task_id, Range="bytes=0-99")  # what it loads for the first one
    before, most, wrong = other.rss_bytes(), 0, 0

    with (
        open(sound, "rb") as file,
        other.http.stream("GET", f"/tasks/{task_id}/audio", timeout=60) as answer,
    ):
        assert answer.headers["content-length"] == str(sound.stat().st_size)
        for piece in answer.iter_bytes():
            wrong += piece != file.read(len(piece))
            most = max(most, other.rss_bytes())
        rest = file.read()

    assert (wrong, rest) == (0, b"")
    assert (most - before) / 2**20 < 24


def test_a_listener_who_leaves_ends_the_reading(new_host, tmp_path):
    read = []
    with serving(bucket="media", refuses=lambda environ: read.append(environ.get("HTTP_RANGE"))) as port:
        host = idle(new_host(**in_bucket(port)))
        task_id = host.queued(noise(tmp_path / "long.wav", 60))
        with host.http.stream("GET", f"/tasks/{task_id}/audio") as answer:
            next(answer.iter_bytes())

        for _ in range(20):  # which takes longer than all of it
            assert heard(host, task_id, Range="bytes=0-9").status_code == 206
        assert len([wanted for wanted in read if wanted not in ("bytes=0-63", "bytes=0-9")]) < 50


def test_a_storage_that_goes_away_breaks_the_connection_off(new_host, tmp_path):
    sound = noise(tmp_path / "long.wav", 60)
    with serving(bucket="media") as port:
        host = idle(new_host(**in_bucket(port)))
        task_id = host.queued(sound)
        streaming = host.http.stream("GET", f"/tasks/{task_id}/audio", timeout=30)
        answer = streaming.__enter__()
        pieces = answer.iter_bytes()
        got = len(next(pieces))

    with pytest.raises(httpx.RemoteProtocolError):
        got += sum(len(piece) for piece in pieces)

    streaming.__exit__(None, None, None)
    assert 0 < got < sound.stat().st_size
    assert "audio was cut off" in host.said_now()
    assert "Traceback" not in host.said_now()
    assert told(heard(host, task_id)) == (503, "queue_away")


def test_one_that_refuses_is_away_and_comes_back(new_host, jfk):
    port = a_free_port()
    with serving(port, bucket="media"):
        host = idle(new_host(**in_bucket(port)))
        task_id = host.queued(jfk)
    assert told(heard(host, task_id)) == (503, "queue_away")
    assert int(heard(host, task_id).headers["Retry-After"]) > 0

    with serving(port, bucket="media"):  # another one, that has lost it
        assert told(heard(host, task_id)) == (404, "not_found")
        client(port).put_object(Bucket="media", Key=f"whisperd/audio/http-{task_id}", Body=jfk.read_bytes())
        assert heard(host, task_id).content == jfk.read_bytes()


def test_what_the_storage_has_not_any_more_is_gone(new_host, jfk):
    host = idle(new_host())
    task_id = host.queued(jfk)
    (host.shared / "audio" / f"http-{task_id}").unlink()

    answer = heard(host, task_id)

    assert (answer.status_code, answer.json()["error"]["message"]) == (404, GONE)


def test_a_tenant_hears_nothing_of_another(new_host, jfk):
    asked, other = idle(new_host()), new_host()
    task_id = asked.queued(jfk, tenant="acme")
    keys = {tenant: a_key(other.data, "read", tenant=tenant) for tenant in ("acme", "other")}
    keys["submit"] = a_key(other.data, "submit", tenant="acme")
    other.key = a_key(other.data, "read", "admin")
    idle(other)

    def asks(name, **headers):
        return heard(other, task_id, Authorization=f"Bearer {keys[name]}", **headers)

    assert asks("acme").content == jfk.read_bytes()
    for headers in ({}, {"Range": "bytes=0-9"}, {"Range": "bytes=99999999-"}):
        assert told(asks("other", **headers)) == (404, "not_found")
    assert "audio" not in asks("other").json()["error"]["message"]
    assert asks("submit").status_code == 403
    assert httpx.get(f"{other.url}/tasks/{task_id}/audio").status_code == 401


def test_a_job_of_another_program_hands_out_its_own_audio_and_no_other(new_host, node, submitted, jfk):
    host = idle(new_host())
    task_id = host.queued(jfk, tenant="acme")
    own = submitted(host, "own")
    thief = {"transcriptionId": "thief", "s3AudioUrl": f"shared://audio/http-{task_id}"}
    results = {"transcriptionId": "results", "s3AudioUrl": f"shared://results/{task_id}"}
    away = {"transcriptionId": "away", "s3AudioUrl": "https://elsewhere.example/talk.wav"}
    jobs = [node.add(data, {"priority": 5}) for data in (thief, results, away)]
    (host.shared / "results" / task_id).parent.mkdir(exist_ok=True)
    (host.shared / "results" / task_id).write_bytes(b"a transcript")

    for job in jobs:
        assert told(heard(host, job)) == (404, "not_found")
    assert host.task(own)["task_id"] == "own"
    assert heard(host, "own").content == jfk.read_bytes()


def test_the_number_of_a_job_is_not_the_name_of_another_ones_audio(new_host, node, submitted, jfk):
    host = idle(new_host())
    first = submitted(host, "mine", data={"userId": "acme"})
    named = {"transcriptionId": first, "userId": "other", "s3AudioUrl": "shared://audio/none"}
    second = node.add(named, {"priority": 5})

    assert host.task(second)["task_id"] == first
    assert told(heard(host, second)) == (404, "not_found")


def test_a_text_that_was_sent_is_no_audio(new_host):
    host = idle(new_host())
    answer = host.http.post("/tasks/risk-detection", json={"text": "my card is 4111 1111 1111 1111"})
    task_id = answer.json()["task_id"]
    assert (host.shared / "audio" / f"http-{task_id}").is_file()

    assert told(heard(host, task_id)) == (404, "not_found")


def test_what_is_to_be_redacted_is_heard_by_those_alone_who_may_have_all_of_it(new_host, jfk):
    asked, other = idle(new_host()), new_host()
    with open(jfk, "rb") as file:
        answer = asked.http.post(
            "/tasks/risk-detection",
            files={"file": ("call.wav", file)},
            data={"redact": "tag", "packs": "pii"},
        )
    assert answer.status_code == 202, answer.text
    call = answer.json()["transcript_task_id"]
    keys = [a_key(other.data, *scopes) for scopes in (("read",), ("read", "submit"))]
    other.key = a_key(other.data, "read", "admin")
    idle(other)
    reader, submitter = ({"Authorization": f"Bearer {key}"} for key in keys)

    for headers in (reader, submitter):
        for method in ("GET", "HEAD"):
            assert heard(other, call, method, **headers).status_code == 409
    assert heard(other, call, redacted="false", **reader).status_code == 403
    assert heard(other, call, redacted="false", **submitter).content == jfk.read_bytes()
