"""Promise 4: a long file goes on from its last finished chunk, whoever is killed, with no byte changed.

Its short form is in tests/e2e/test_crashes.py.
"""

import os
import signal
import time

import pytest

from tests.reliability import sounds
from tests.reliability.sizes import with_long

pytestmark = pytest.mark.timeout(3600)
KILLS = 50
MOST_SECONDS = 2400
PATIENT = {
    "QUEUE__MAX_RETRIES": 100,
    "QUEUE__RETRY_DELAY_MS": 0,
    "WORKERS__NICE": 0,
    "LOGGING__LEVEL": "warning",
}
DONE = """
    select number, claims, segments from chunk join task on task.seq = chunk.task
    where id = '{}' and number > 0 and chunk.state = 'done' order by number
"""


@pytest.fixture(scope="module")
def audio(jfk, tmp_path_factory):
    """Of about 30 chunks."""
    path = tmp_path_factory.mktemp("speech") / "long.wav"
    path.write_bytes(sounds.minutes_of(jfk, 12))
    return path


@with_long
def test_kills_of_daemon_and_worker_cost_only_the_chunk_in_hand_and_change_no_byte(
    daemons, audio, chance, report
):
    daemon = daemons(**PATIENT).start()
    reference = daemon.queued(audio, beam_size="1")
    daemon.finished(reference, 1200)
    expected = daemon.result(reference, "verbose_json")
    killed = {"daemon": 0, "worker": 0}
    chunks = {}  # done at some time → as it was then
    changed, ends = [], time.monotonic() + MOST_SECONDS
    while sum(killed.values()) < KILLS and time.monotonic() < ends:
        task_id = daemon.queued(audio, beam_size="1", max_retries="100")
        chunks.clear()
        while sum(killed.values()) < KILLS and at_work(daemon, task_id, chance, 3.0):
            whom = "worker" if sum(killed.values()) % 3 == 1 else "daemon"
            strike(daemon, whom, chance)
            killed[whom] += 1
            found = {row[0]: row for row in daemon.left(DONE.format(task_id))[0]}
            changed += [row for number, row in chunks.items() if found.get(number) != row]
            chunks |= found
            if whom == "daemon":
                daemon.start()
        task = daemon.finished(task_id, 1200)
        found = {row[0]: row for row in daemon.rows(DONE.format(task_id))}
        changed += [row for number, row in chunks.items() if found.get(number) != row]
        assert task["status"] == "completed"
        assert daemon.result(task_id, "verbose_json") == expected
    report.update(**killed, chunks=len(found), run_again=len(changed), seed=chance.name)

    assert changed == []  # neither claimed again nor written again
    assert sum(killed.values()) == KILLS  # else the time was over


def at_work(daemon, task_id, chance, most):
    """Wait for a random moment after its first chunk; False when all are done."""
    daemon.until(lambda: daemon.task(task_id)["progress"] > 0, 60)
    deadline = time.monotonic() + chance.uniform(0.0, most)
    while (going := daemon.task(task_id)["status"] != "completed") and time.monotonic() < deadline:
        time.sleep(0.02)
    return going


def strike(daemon, whom, chance):
    if whom == "daemon":
        daemon.kill()
        return
    pids = [worker["pid"] for worker in daemon.workers() if worker["state"] == "busy"]
    for pid in pids and [chance.choice(pids)]:
        os.kill(pid, signal.SIGKILL)
