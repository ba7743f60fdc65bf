"""A task whose connected clients have all left is cancelled, unless one comes back in time."""

import asyncio
import contextlib

import pytest

from whisperd import attendance
from whisperd.attendance import Attendance
from whisperd.task import Audio, NewTask, Options, QueueAway, StorageBusy, TaskNotFound, WrongState

GRACE = 30.0


def a_task(task_id, sha256="aa", **fields):
    audio = Audio(name="a.wav", size=1, sha256=sha256)
    return NewTask(id=task_id, audio=audio, model="tiny.en", **fields)


class Watch:
    """An attendance, its clock, and what it has cancelled."""

    def __init__(self):
        self.time = 0.0
        self.attendance = Attendance(lambda: self.time)
        self.cancelled = []
        self.trouble = None
        self.meanwhile = lambda: None
        self.met_meanwhile = "nothing"

    async def cancel(self, task_id):
        self.met_meanwhile = self.meanwhile()
        if self.trouble:
            raise self.trouble
        self.cancelled.append(task_id)

    async def pass_by(self, seconds):
        """Set the clock, and let everything happen that is due."""
        self.time += seconds
        self.attendance._left.set()
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
def with_watch():
    def run(body):
        async def main():
            watch = Watch()
            cancelling = asyncio.create_task(watch.attendance.cancel_abandoned(watch.cancel))
            await watch.pass_by(0)
            async with asyncio.timeout(10):
                await body(watch)
            cancelling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await cancelling

        asyncio.run(main())

    return run


def test_a_task_is_cancelled_when_its_client_has_been_gone_for_the_grace(with_watch):
    async def body(watch):
        watch.attendance.submitted(a_task("one"), GRACE)
        with watch.attendance.attend("one", GRACE):
            await watch.pass_by(1000)
            assert watch.cancelled == []
        await watch.pass_by(GRACE - 1)
        assert watch.cancelled == []
        await watch.pass_by(1)

        assert watch.cancelled == ["one"]

    with_watch(body)


def test_a_client_that_comes_back_in_time_keeps_the_task_alive(with_watch):
    async def body(watch):
        watch.attendance.submitted(a_task("one"), GRACE)
        with watch.attendance.attend("one", GRACE):
            pass
        await watch.pass_by(GRACE - 1)
        with watch.attendance.attend("one", GRACE):
            await watch.pass_by(1000)

        assert watch.cancelled == []

    with_watch(body)


def test_a_task_is_cancelled_only_after_the_last_of_its_clients_has_left(with_watch):
    async def body(watch):
        watch.attendance.submitted(a_task("one"), GRACE)
        with watch.attendance.attend("one", GRACE):
            with watch.attendance.attend("one", GRACE):
                pass
            await watch.pass_by(1000)
            assert watch.cancelled == []
        await watch.pass_by(GRACE)

        assert watch.cancelled == ["one"]

    with_watch(body)


def test_a_client_that_vanished_between_submitting_and_waiting_has_left(with_watch):
    async def body(watch):
        watch.attendance.submitted(a_task("one"), GRACE)
        await watch.pass_by(GRACE)

        assert watch.cancelled == ["one"]

    with_watch(body)


def test_asking_for_the_same_gives_the_task_another_grace_to_be_joined_in(with_watch):
    async def body(watch):
        watch.attendance.submitted(a_task("one"), GRACE)
        await watch.pass_by(GRACE - 1)
        assert watch.attendance.same(a_task("other"), GRACE) == "one"
        await watch.pass_by(GRACE - 1)
        assert watch.cancelled == []
        await watch.pass_by(1)

        assert watch.cancelled == ["one"]

    with_watch(body)


def test_a_task_that_is_about_to_be_cancelled_is_joined_by_nobody(with_watch):
    async def body(watch):
        watch.attendance.submitted(a_task("one"), GRACE)
        watch.meanwhile = lambda: watch.attendance.same(a_task("other"), GRACE)
        await watch.pass_by(GRACE)

        assert watch.cancelled == ["one"]
        assert watch.met_meanwhile is None

    with_watch(body)


@pytest.mark.parametrize(
    "other",
    [
        a_task("other", tenant="acme"),
        a_task("other", sha256="bb"),
        a_task("other", options=Options(language="de")),
        a_task("other", options=Options(word_timestamps=True)),
        a_task("other", callback_url="https://example.org/"),
        a_task("other", result_url="s3://results/a.json"),
    ],
)
def test_another_request_is_not_the_same(other):
    watch = Watch()
    watch.attendance.submitted(a_task("one"), GRACE)

    assert watch.attendance.same(other, GRACE) is None
    assert watch.attendance.same(a_task("two", priority=7, metadata={"a": 1}), GRACE) == "one"


def test_a_task_that_is_over_is_not_cancelled_and_still_known(with_watch):
    async def body(watch):
        watch.attendance.submitted(a_task("one"), GRACE)
        with watch.attendance.attend("one", GRACE):
            watch.attendance.over("one")
        await watch.pass_by(1000)

        assert watch.cancelled == []
        assert watch.attendance.same(a_task("two"), GRACE) == "one"

    with_watch(body)


def test_a_task_that_no_such_client_submitted_is_never_cancelled(with_watch):
    async def body(watch):
        with watch.attendance.attend("others", GRACE):
            pass
        await watch.pass_by(1000)

        assert watch.cancelled == []

    with_watch(body)


@pytest.mark.parametrize("error", [WrongState("it is completed"), TaskNotFound("there is none")])
def test_a_task_that_ended_meanwhile_is_let_go(with_watch, error):
    async def body(watch):
        watch.attendance.submitted(a_task("one"), GRACE)
        watch.trouble = error
        await watch.pass_by(GRACE)
        watch.trouble = None
        await watch.pass_by(1000)

        assert watch.cancelled == []

    with_watch(body)


@pytest.mark.parametrize("trouble", [StorageBusy("the database is locked"), QueueAway("Redis is away")])
def test_a_cancel_that_cannot_be_written_is_tried_again(with_watch, trouble):
    async def body(watch):
        watch.attendance.submitted(a_task("one"), GRACE)
        watch.trouble = trouble
        await watch.pass_by(GRACE)
        watch.trouble = None
        await watch.pass_by(attendance.AGAIN_SECONDS)

        assert watch.cancelled == ["one"]

    with_watch(body)


def test_nothing_is_cancelled_once_the_daemon_stops(with_watch):
    async def body(watch):
        watch.attendance.submitted(a_task("one"), GRACE)
        watch.attendance.stop()
        await watch.pass_by(1000)

        assert watch.cancelled == []

    with_watch(body)


def test_what_is_remembered_has_a_limit(monkeypatch):
    monkeypatch.setattr(attendance, "REMEMBERED", 2)
    watch = Watch()
    for name in ("one", "two", "three"):
        watch.attendance.submitted(a_task(name, sha256=name), GRACE)

    assert [watch.attendance.same(a_task("x", sha256=name), GRACE) for name in ("one", "two", "three")] == [
        None,
        "two",
        "three",
    ]
