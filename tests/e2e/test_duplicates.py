"""The same recording, sent again and again to a real daemon: decoded once."""


def chunks_done(daemon):
    return sum(worker["chunks_done"] for worker in daemon.get("/workers")["workers"])


def test_what_is_sent_again_is_decoded_once_and_each_task_has_the_transcript(new_daemon, jfk):
    daemon = new_daemon(CACHE__ENABLED="true", WORKERS__COUNT=2).start()
    ids = [daemon.queued(jfk, name=f"{n}.wav") for n in range(4)]  # while it is made
    for task_id in ids:
        assert daemon.finished(task_id)["status"] == "completed"
    done = chunks_done(daemon)
    again = daemon.submit(jfk).json()  # once it is there

    assert again["status"] == "completed"
    assert {daemon.result(task_id) for task_id in [*ids, again["task_id"]]} == {daemon.result(ids[0])}
    assert "ask not" in daemon.result(ids[0])
    assert done == chunks_done(daemon) == 1  # whose plan counts as none
