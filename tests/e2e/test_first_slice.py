"""What a person does with whisperd: real audio in over HTTP, the right words out."""

import json
import re
import time
import wave

import pytest

JFK = (
    "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
)


def words(text):
    return re.sub(r"[^a-z ]", "", text.lower().replace("\n", " ")).split()


def test_a_clip_sent_with_curl_comes_back_as_its_words(daemon, jfk):
    task_id = daemon.queued(jfk)
    task = daemon.finished(task_id)

    assert (task["status"], task["progress"], task["error"]) == ("completed", 1, None)
    assert task["audio"]["duration"] == 11.0
    assert words(daemon.result(task_id)) == JFK.split()


def test_every_result_format_has_the_words_with_sane_times(daemon, jfk):
    task_id = daemon.queued(jfk, word_timestamps="true")
    daemon.finished(task_id)

    assert "00:00:00,000 --> " in daemon.result(task_id, "srt")
    assert daemon.result(task_id, "vtt").startswith("WEBVTT")
    assert daemon.result(task_id, "tsv").startswith("start\tend\ttext")
    verbose = json.loads(daemon.result(task_id, "verbose_json"))
    assert words(" ".join(word["word"] for word in verbose["words"])) == JFK.split()
    times = [time for word in verbose["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert times[-1] <= 11.0


def test_a_task_on_an_idle_daemon_starts_at_once_and_waits_for_no_look_at_the_clock(daemon, jfk):
    task_id = daemon.queued(jfk, beam_size="1")
    daemon.finished(task_id)
    ((wait,),) = daemon.rows("select started_at - created_at from task where id = ?", task_id)

    assert wait < 1  # a hundred times what `python -m benchmarks.start` prints; a poll would show


def test_silence_and_noise_give_no_text(daemon, corpus):
    for name in ("g01_silence_30s.flac", "g02_room_noise_30s.flac", "g05_clicks_10s.wav"):
        task_id = daemon.queued(corpus / "hostile" / name)

        assert daemon.finished(task_id)["status"] == "completed"
        assert daemon.result(task_id).strip() == ""


def test_split_channels_give_each_speaker_his_words(daemon, corpus):
    task_id = daemon.queued(corpus / "hostile" / "j02_stereo_turns.wav", channels="split")
    daemon.finished(task_id)
    segments = json.loads(daemon.result(task_id, "json"))["segments"]

    said = {name: " ".join(s["text"] for s in segments if s["speaker"] == name) for name in "AB"}
    assert words(said["A"])[-5:] == ["do", "for", "your", "country"][-5:] or "country" in said["A"]
    assert "printing" not in said["A"].lower()
    assert [s["start"] for s in segments] == sorted(s["start"] for s in segments)


def test_events_tell_the_whole_transcript_in_order(daemon, minutes_of_speech):
    task_id = daemon.queued(minutes_of_speech(1))
    heard = []
    with daemon.http.stream("GET", f"/tasks/{task_id}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                heard.append((kind, json.loads(line.removeprefix("data: "))))

    assert heard[0][0] == heard[-1][0] == "task"
    assert heard[-1][1]["status"] == "completed"
    told = [data["text"] for kind, data in heard if kind == "segment"]
    assert told == [s["text"] for s in json.loads(daemon.result(task_id, "json"))["segments"]]
    progress = [data["progress"] for kind, data in heard if kind == "progress"]
    assert progress == sorted(progress)


def test_a_cancelled_task_frees_its_worker_within_two_seconds(daemon, minutes_of_speech, jfk):
    task_id = daemon.queued(minutes_of_speech(10))
    daemon.until(lambda: daemon.task(task_id)["progress"] > 0)
    began = time.monotonic()
    assert daemon.http.delete(f"/tasks/{task_id}").json()["status"] == "cancelled"
    daemon.until(lambda: all(w["task_id"] is None for w in daemon.get("/workers")["workers"]), 5)

    assert time.monotonic() - began <= 2.0
    assert words(daemon.result(done(daemon, jfk))) == JFK.split()
    daemon.until(lambda: f"{task_id}.pcm" not in daemon.spool())


def test_an_urgent_clip_of_5_s_does_not_wait_for_a_file_of_30_minutes(
    daemon, minutes_of_speech, tmp_path, jfk
):
    long = daemon.queued(minutes_of_speech(30))
    daemon.until(lambda: chunks_done(daemon, long) >= 2, 60)
    before = chunks_done(daemon, long)
    urgent = daemon.queued(first_seconds(jfk, 5, tmp_path / "clip.wav"), priority="10")
    daemon.finished(urgent)
    since = chunks_done(daemon, long) - before

    assert since <= 2 * len(daemon.worker_pids())
    assert daemon.task(long)["status"] == "processing"
    daemon.http.delete(f"/tasks/{long}")


def first_seconds(source, seconds, target):
    with wave.open(str(source)) as clip, wave.open(str(target), "wb") as part:
        part.setparams(clip.getparams())
        part.writeframes(clip.readframes(seconds * clip.getframerate()))
    return target


def done(daemon, path, **options):
    task_id = daemon.queued(path, **options)
    assert daemon.finished(task_id)["status"] == "completed"
    return task_id


def chunks_done(daemon, task_id):
    sql = """
        select count(*) from chunk join task on task.seq = chunk.task
        where task.id = ? and number > 0 and chunk.state = 'done'
    """
    return daemon.rows(sql, task_id)[0][0]


@pytest.mark.parametrize("format", ["text", "srt", "json"])
def test_a_result_that_is_not_there_yet_says_so(daemon, minutes_of_speech, format):
    task_id = daemon.queued(minutes_of_speech(3))
    answer = daemon.http.get(f"/tasks/{task_id}/result", params={"format": format})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_finished")
    daemon.http.delete(f"/tasks/{task_id}")

    answer = daemon.http.get(f"/tasks/{task_id}/result", params={"format": format})
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "cancelled")
