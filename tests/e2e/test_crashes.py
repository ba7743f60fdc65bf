"""Kill it, hang it, lie to it: nothing that was accepted is lost, and nothing is done twice."""

import contextlib
import os
import signal
import time

import pytest

from tests.e2e.test_first_slice import JFK, chunks_done, words


def chunk_rows(daemon):
    return daemon.rows("select number, state, claims, failures, segments from chunk order by task, number")


@pytest.mark.parametrize("engine", ["whisper.cpp", "ctranslate2"])
def test_after_kill_9_a_task_goes_on_from_its_last_finished_chunk(new_daemon, minutes_of_speech, engine):
    audio = minutes_of_speech(2)
    undisturbed = new_daemon(WORKERS__ENGINE=engine).start()
    task_id = undisturbed.queued(audio)
    undisturbed.finished(task_id)
    expected = undisturbed.result(task_id, "verbose_json")
    undisturbed.http.delete(f"/tasks/{task_id}")

    again = undisturbed.queued(audio)
    undisturbed.until(lambda: chunks_done(undisturbed, again) >= 2, 60)
    undisturbed.kill()
    before = {row[0]: row for row in done_rows(undisturbed, again)}
    undisturbed.start()
    task = undisturbed.finished(again)
    after = {row[0]: row for row in done_rows(undisturbed, again)}

    assert task["status"] == "completed"
    assert {number: after[number] for number in before} == before  # not claimed again, not written again
    assert undisturbed.result(again, "verbose_json") == expected


def test_what_one_engine_has_begun_another_begins_anew(new_daemon, minutes_of_speech):
    """It went on behind what the first had heard, and called the mixture the first one's."""
    audio = minutes_of_speech(2)
    daemon = new_daemon(WORKERS__ENGINE="ctranslate2").start()
    task_id = daemon.queued(audio)
    daemon.finished(task_id)
    expected = daemon.result(task_id, "verbose_json")
    daemon.stop()

    daemon.environment["WHISPERD_WORKERS__ENGINE"] = "whisper.cpp"
    daemon.start()
    again = daemon.queued(audio)
    daemon.until(lambda: chunks_done(daemon, again) >= 1, 60)
    daemon.kill()
    begun = "select distinct state from chunk where number > 0 and task = (select seq from task where id = ?)"
    assert {("done",)} < set(daemon.rows(begun, again))
    daemon.environment["WHISPERD_WORKERS__ENGINE"] = "ctranslate2"
    daemon.start()
    daemon.finished(again)

    assert daemon.result(again, "verbose_json") == expected


def done_rows(daemon, task_id):
    sql = """
        select number, claims, segments from chunk join task on task.seq = chunk.task
        where id = ? and number > 0 and chunk.state = 'done' order by number
    """
    return daemon.rows(sql, task_id)


def test_children_do_not_outlive_a_killed_daemon(new_daemon):
    daemon = new_daemon().start()
    pids = daemon.worker_pids()
    daemon.kill()

    daemon.until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_costs_one_retry_of_one_chunk(new_daemon, minutes_of_speech, number):
    daemon = new_daemon(WORKERS__SILENCE_SECONDS=3, QUEUE__RETRY_DELAY_MS=50).start()
    task_id = daemon.queued(minutes_of_speech(1), beam_size="1")
    victim = daemon.until(lambda: at_work(daemon), 30)
    os.kill(victim["pid"], number)
    task = daemon.finished(task_id)

    assert task["status"] == "completed"
    assert sum(failures for _, _, _, failures, _ in chunk_rows(daemon)) == 1
    assert daemon.troubles() == []
    assert len(words(daemon.result(task_id))) == 5 * len(JFK.split())


def at_work(daemon):
    busy = [w for w in daemon.get("/workers")["workers"] if w["state"] == "busy" and w["chunk"]]
    return busy and busy[0]


def test_a_task_that_kills_each_worker_fails_with_the_cause_and_the_pool_goes_on(new_daemon, jfk):
    daemon = new_daemon(QUEUE__RETRY_DELAY_MS=10, QUEUE__MAX_RETRIES=2).start()
    task_id = daemon.queued(jfk)
    deadline = time.monotonic() + 60
    while daemon.task(task_id)["status"] not in ("failed", "completed") and time.monotonic() < deadline:
        for worker in daemon.get("/workers")["workers"]:
            if worker["task_id"] == task_id and worker["pid"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker["pid"], signal.SIGKILL)
    task = daemon.task(task_id)

    assert (task["status"], task["error"]["code"]) == ("failed", "worker_crashed")
    assert "killed by signal 9" in task["error"]["message"]
    other = daemon.queued(jfk)
    assert daemon.finished(other)["status"] == "completed"
    assert daemon.http.post(f"/tasks/{task_id}/retry").status_code == 202
    assert daemon.finished(task_id)["status"] == "completed"


def test_sigterm_lets_running_chunks_finish_and_hands_the_rest_back(new_daemon, minutes_of_speech):
    daemon = new_daemon().start()
    task_id = daemon.queued(minutes_of_speech(5), beam_size="1")
    daemon.until(lambda: chunks_done(daemon, task_id) >= 1, 60)
    pids = daemon.worker_pids()

    assert daemon.stop() == 0
    assert daemon.rows("select state, attempt from task") == [("queued", 1)]
    assert all(state != "running" and failures == 0 for _, state, _, failures, _ in chunk_rows(daemon))
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_a_second_signal_ends_it_at_once_and_nothing_is_lost(new_daemon, minutes_of_speech):
    daemon = new_daemon(SHUTDOWN__GRACE_SECONDS=60).start()
    task_id = daemon.queued(minutes_of_speech(5), beam_size="1")
    daemon.until(lambda: chunks_done(daemon, task_id) >= 1, 60)
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.send_signal(signal.SIGSTOP)  # let both arrive as two
    daemon.process.send_signal(signal.SIGCONT)
    time.sleep(0.3)
    began = time.monotonic()
    daemon.process.send_signal(signal.SIGINT)

    assert daemon.process.wait(10) == 0
    assert time.monotonic() - began < 2
    assert daemon.rows("select state, attempt from task") == [("queued", 1)]


def test_a_second_daemon_on_the_same_data_is_refused_and_names_the_first(new_daemon):
    first = new_daemon().start()
    second = new_daemon()

    with pytest.raises(AssertionError, match=f"is in use by the daemon with pid {first.process.pid}"):
        second.start()
    assert first.troubles() == []


def test_an_open_event_stream_does_not_hold_up_the_shutdown(new_daemon, minutes_of_speech):
    daemon = new_daemon().start()
    task_id = daemon.queued(minutes_of_speech(5), run_at="2100-01-01T00:00:00Z")
    with daemon.http.stream("GET", f"/tasks/{task_id}/events") as stream:
        assert next(stream.iter_lines()).startswith("id: ")
        began = time.monotonic()
        assert daemon.stop(10) == 0
        assert time.monotonic() - began < 4
