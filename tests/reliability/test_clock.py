"""Promise 25: a clock that jumps by a day starts nothing early, strands nothing and forgets nothing."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.reliability import sounds
from tests.reliability.sizes import with_long
from tests.reliability.test_workers import POISON, path_with

pytestmark = pytest.mark.timeout(900)
DAY = 86_400
DELAY = 3.0  # seconds before the second attempt, less a quarter at most
SETTINGS = {
    "WORKERS__COUNT": 1,
    "WORKERS__NICE": 0,
    "WORKERS__SILENCE_SECONDS": 10,
    "QUEUE__RETRY_DELAY_MS": int(DELAY * 1000),
    "QUEUE__MAX_RETRY_DELAY_SECONDS": DELAY,
    "LOGGING__LEVEL": "warning",
}


@pytest.fixture(scope="module")
def daemon(daemons, lies):
    made = daemons(environ={**lies.environ, "PYTHONPATH": path_with(POISON)}, **SETTINGS)
    return made.start()


@pytest.fixture
def clock(daemon, lies):
    """Sets it, and waits until the daemon has noticed: it looks once a second."""
    now = [0]

    def ahead(seconds):
        before = daemon.said().count("the clock was set")
        lies.clock_is_ahead(seconds)
        daemon.until(lambda: daemon.said().count("the clock was set") > before or seconds == now[0], 5)
        now[0] = seconds

    yield ahead
    ahead(0)


@pytest.fixture(scope="module")
def files(clips, jfk, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "fails").write_bytes(clips["half a second"] + b"POISON:exit 1")
    (folder / "silence").write_bytes(clips["silence"])
    (folder / "long").write_bytes(sounds.minutes_of(jfk, 0.6))
    return {path.name: path for path in folder.iterdir()}


def failed_once(daemon, files):
    """A task that waits for its second attempt, and when it began to."""
    task_id = daemon.queued(files["fails"], max_retries="1")
    daemon.until(lambda: daemon.task(task_id)["attempt"] == 2)
    return task_id, time.monotonic()


@pytest.mark.parametrize("jumps", [(DAY, -DAY), pytest.param((-DAY, DAY), marks=with_long)])
def test_a_retry_waits_for_its_time_and_no_longer_whatever_the_clock_is_set_to(daemon, files, clock, jumps):
    task_id, began = failed_once(daemon, files)
    clock(jumps[0])
    still = daemon.task(task_id)
    clock(jumps[1])
    daemon.finished(task_id, DELAY * 4)
    waited = time.monotonic() - began

    assert (still["status"], still["attempt"]) == ("queued", 2)
    assert DELAY * 0.7 <= waited <= DELAY + 5


def test_a_time_of_day_that_a_user_chose_is_that_time_of_day(daemon, files, clock):
    in_an_hour = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    task_id = daemon.queued(files["silence"], run_at=in_an_hour)
    clock(-DAY)
    assert daemon.task(task_id)["status"] == "queued"
    clock(1800)
    assert daemon.task(task_id)["status"] == "queued"
    clock(DAY)

    assert daemon.finished(task_id, 10)["status"] == "completed"


def test_work_goes_on_through_jumps_and_no_lease_or_time_limit_ends_it(daemon, files, clock):
    task_id = daemon.queued(files["long"], timeout_seconds="300")
    daemon.until(lambda: daemon.task(task_id)["status"] == "processing")
    for ahead in (DAY, -DAY, 0):
        clock(ahead)
        assert daemon.http.post("/admin/cleanup-stuck-tasks").json() == {"requeued": 0, "failed": 0}
    task = daemon.finished(task_id)
    sql = "select distinct claims, failures from chunk join task on task.seq = chunk.task where id = ?"

    assert (task["status"], task["attempt"]) == ("completed", 1)
    assert daemon.rows(sql, task_id) == [(1, 0)]
    assert daemon.troubles() == []


@with_long
def test_nothing_is_forgotten_early_by_a_clock_two_days_ahead(daemon, files, clock):
    """Retention is 24 hours; its job runs each 5 minutes."""
    task_id = daemon.queued(files["silence"])
    daemon.finished(task_id)
    clock(2 * DAY)
    time.sleep(320)

    assert daemon.task(task_id)["status"] == "completed"


def test_a_clock_set_back_while_nobody_ran_strands_no_retry_and_moves_no_date(daemon, files, lies):
    later = daemon.queued(files["silence"], run_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    when = daemon.task(later)["run_at"]
    task_id, _ = failed_once(daemon, files)
    daemon.kill()
    lies.clock_is_ahead(-DAY)
    daemon.start()
    began = time.monotonic()
    try:
        daemon.finished(task_id, 30)

        assert time.monotonic() - began <= DELAY + 5
        assert daemon.task(later)["status"] == "queued"
        assert daemon.task(later)["run_at"] == when
    finally:
        lies.clock_is_ahead(0)
        daemon.kill()
