"""From the file to the words: a real daemon makes what a page plays, draws, finds and corrects."""


def test_a_clip_is_drawn_played_found_and_corrected(daemon, jfk):
    task_id = daemon.queued(jfk, word_timestamps="true")
    daemon.finished(task_id)
    peaks = daemon.get(f"/tasks/{task_id}/peaks")
    part = daemon.http.get(f"/tasks/{task_id}/audio", headers={"Range": "bytes=0-3"})
    shown = daemon.http.get(f"/tasks/{task_id}/result")

    def found(words):
        return [task for task in daemon.get("/tasks", q=words)["tasks"] if task["task_id"] == task_id]

    assert (len(peaks["peaks"]), peaks["duration"], max(peaks["peaks"]) > 0.4) == (800, 11.0, True)
    assert (part.status_code, part.content, part.headers["content-type"]) == (206, b"RIFF", "audio/wav")
    assert 0 < shown.json()["segments"][0]["words"][0]["probability"] <= 1
    (hit,) = daemon.until(lambda: found('"ask not what"'))
    assert "ask not what your country" in hit["match"]["snippet"]

    segments = [{"start": 0, "end": 11, "text": "Whatever he said."}]
    path, headers = f"/tasks/{task_id}/result", {"If-Match": shown.headers["etag"]}
    corrected = daemon.http.put(path, json={"segments": segments}, headers=headers)

    assert corrected.json()["text"] == daemon.result(task_id).strip() == "Whatever he said."
    daemon.until(lambda: found("whatever") and not found('"ask not what"'))
