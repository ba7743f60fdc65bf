"""Risk detection in the queue: its own line, its claims, its interruptions."""

import asyncio

import msgspec
import pytest

from tests.conftest import a_task
from tests.test_queue import a_plan
from whisperd.detections import Detections
from whisperd.look import Outcome, Sighting
from whisperd.task import (
    Audio,
    Detection,
    Kind,
    Limits,
    LostClaim,
    NewTask,
    NoRoom,
    Problem,
    QueueFull,
    Segment,
    State,
    TaskNotFound,
)

HERE = "http://127.0.0.1/"
FOUND = Outcome("{}", (), None)
CRASHED = Problem("worker_crashed", "it died")


def a_detection(id, **fields):
    """Of a text, unless `transcript` says otherwise."""
    said = None if "transcript" in fields else (Segment(start=0.0, end=1.0, text="ask not"),)
    audio = Audio(name="text", size=1, sha256="0" * 64)
    new = {"kind": Kind.RISK_DETECTION, "model": "rules", "detection": Detection(), "said": said}
    return NewTask(**{"id": id, "audio": audio, **new, **fields})


def detections(queue):
    return Detections(queue.db, queue._events, queue.told_all, queue._now)


async def state(queue, task_id):
    return (await queue.get(task_id)).state


def test_the_most_urgent_comes_first_and_then_the_oldest(with_queue):
    async def body(queue):
        for id, priority in (("a", 0), ("b", 5), ("c", 5)):
            await queue.submit(a_detection(id, priority=priority))
        order = [(await detections(queue).claim()).task.id for _ in range(3)]

        assert order == ["b", "c", "a"]
        assert await detections(queue).claim() is None

    with_queue(body)


def test_tenants_take_turns_within_a_priority(with_queue):
    async def body(queue):
        own = detections(queue)
        for id in ("a1", "a2", "a3", "c1", "b1", "b2"):
            await queue.submit(a_detection(id, tenant=id[0]))
        order = [(await own.claim()).task.id for _ in range(4)]
        await queue.submit(a_detection("c2", tenant="c", priority=1))
        order += [(await own.claim()).task.id for _ in range(3)]

        assert order == ["a1", "b1", "c1", "a2", "c2", "a3", "b2"]

    with_queue(body)


def test_what_waits_for_a_transcript_holds_up_nothing(with_queue):
    async def body(queue):
        await queue.submit(a_task(id="audio"))
        await queue.submit(a_detection("waits", transcript="audio", priority=9))
        await queue.submit(a_detection("goes"))

        assert (await detections(queue).claim()).task.id == "goes"
        assert await detections(queue).claim() is None
        await queue.cancel("audio")
        assert (await detections(queue).claim()).task.id == "waits"

    with_queue(body)


def test_what_looks_takes_no_place_of_a_tenant_that_may_have_one_task_at_work(with_queue):
    async def body(queue):
        await queue.submit(a_detection("look"))
        await detections(queue).claim()
        await queue.submit(a_task(id="audio"))

        assert await queue.running("default") == 0
        async with asyncio.timeout(10):
            assert (await queue.claim()).task.id == "audio"
        assert await queue.running("default") == 1

    with_queue(body, limits=lambda tenant, plan: Limits(concurrent=1))


ONE_MAY_WAIT = pytest.mark.parametrize(
    "rules",
    [{"max_queued": 1}, {"limits": lambda tenant, plan: Limits(queued=1)}],
    ids=["in all", "of a tenant"],
)


@ONE_MAY_WAIT
def test_each_kind_has_room_of_its_own(with_queue, rules):
    async def body(queue):
        for first, second in ((a_task(), a_task()), (a_detection("a"), a_detection("b"))):
            await queue.submit(first)
            with pytest.raises(NoRoom):
                await queue.submit(second)

        await detections(queue).claim()
        await queue.submit(a_detection("b"))
        with pytest.raises(NoRoom):
            await queue.submit(a_task())

    with_queue(body, **rules)


@ONE_MAY_WAIT
def test_what_looks_once_more_needs_the_room_of_what_looks(with_queue, rules):
    async def body(queue):
        await queue.submit(a_task())
        await queue.submit(a_detection("a"))
        await queue.cancel("a")
        await queue.retry("a")
        await queue.cancel("a")
        await queue.submit(a_detection("b"))
        with pytest.raises(NoRoom):
            await queue.retry("a")

    with_queue(body, **rules)


def test_there_is_room_for_a_task_and_what_comes_behind_it_or_for_neither(with_queue):
    async def body(queue):
        both = a_task(id="audio", then=a_detection("then", transcript="audio"), idempotency_key="k")
        await queue.submit(a_detection("a"))
        with pytest.raises(QueueFull):
            await queue.submit(both)
        with pytest.raises(TaskNotFound):
            await queue.get("audio")
        own = detections(queue)
        await own.finish(await own.claim(), FOUND, 1.0)

        assert [(await queue.submit(both))[1] for _ in range(2)] == [True, False]

    with_queue(body, max_queued=1)


@pytest.mark.parametrize("tenant", [None, "default"])
def test_the_wait_for_a_transcript_is_no_wait_of_the_line(with_queue, clock, tenant):
    async def body(queue):
        own = detections(queue)
        await queue.submit(a_task(id="audio", then=a_detection("then", transcript="audio")))
        await queue.plan(await queue.claim(), a_plan(0))
        clock.now += 500
        await own.finish(await own.claim(), FOUND, 1.0)

        assert (await queue.stats(tenant)).waits == (0.0,)

    with_queue(body)


def test_a_restart_counts_as_a_failure_and_too_many_end_the_task(with_queue):
    async def body(queue):
        await queue.submit(a_detection("t", max_retries=1))
        await detections(queue).claim()
        await queue.recover()
        assert await state(queue, "t") == State.QUEUED
        assert (await queue.get("t")).attempt == 2
        await detections(queue).claim()
        await queue.recover()

        task = await queue.get("t")
        assert (task.state, task.error.code) == (State.FAILED, "interrupted")

    with_queue(body)


def test_an_orderly_stop_is_not_a_failure(with_queue):
    async def body(queue):
        await queue.submit(a_detection("t", max_retries=0))
        for _ in range(3):
            look = await detections(queue).claim()
            await detections(queue).release(look)
        await detections(queue).claim()
        await queue.release_all()

        assert (await queue.get("t")).attempt == 1
        assert await state(queue, "t") == State.QUEUED

    with_queue(body)


@pytest.mark.parametrize("gone", ["cancelled", "taken anew"])
def test_who_lost_its_claim_writes_nothing(with_queue, gone):
    async def body(queue):
        own = detections(queue)
        await queue.submit(a_detection("t"))
        look = await own.claim()
        if gone == "cancelled":
            await queue.cancel("t")
        else:
            await queue.recover()
            await own.claim()

        for verb in (
            own.finish(look, FOUND, 1.0),
            own.fail(look, CRASHED, 1.0),
            own.release(look),
        ):
            with pytest.raises(LostClaim):
                await verb
        assert await own.kept("t") is None

    with_queue(body)


def test_a_failure_is_tried_again_until_there_were_too_many(with_queue):
    async def body(queue):
        own = detections(queue)
        await queue.submit(a_detection("t", max_retries=1, callback_url=HERE))
        await own.fail(await own.claim(), CRASHED, 1.0)
        assert await state(queue, "t") == State.QUEUED
        await own.fail(await own.claim(), CRASHED, 1.0)

        assert await state(queue, "t") == State.FAILED
        (event,) = await queue.db.read(lambda conn: conn.execute("select event, url from outbox").fetchall())
        assert tuple(event) == ("task.failed", HERE)

    with_queue(body)


def test_the_newest_of_a_transcript_is_the_last_that_was_submitted(with_queue):
    async def body(queue):
        own = detections(queue)
        await queue.submit(a_task(id="audio"))
        await queue.cancel("audio")
        for id in ("a", "b", "c"):
            await queue.submit(a_detection(id, transcript="audio"))
        for _ in "ab":
            look = await own.claim()
            await own.finish(look, FOUND._replace(report=f'{{"by": "{look.task.id}"}}'), 1.0)

        assert (await own.newest("audio")).report == '{"by": "b"}'
        assert (await own.first("audio")).id == "a"
        await forget(queue, "a")
        with pytest.raises(TaskNotFound):  # b came later, and from anybody
            await own.first("audio")

    with_queue(body)


async def without_transcript(queue, *ids):
    """The transcript that these are to look through is cancelled."""
    await queue.submit(a_task(id="audio"))
    for id in ids:
        await queue.submit(a_detection(id, transcript="audio"))
    await queue.cancel("audio")


def test_what_found_no_transcript_waits_for_the_next_one(with_queue):
    async def body(queue):
        own = detections(queue)
        await without_transcript(queue, "failed", "cancelled", "queued")
        await own.fail(await own.claim(), Problem("no_transcript", "there is none"), 1.0, final=True)
        await queue.cancel("cancelled")
        await queue.retry("audio")

        ids = ("failed", "cancelled", "queued")
        assert [await state(queue, id) for id in ids] == [State.QUEUED, State.CANCELLED, State.QUEUED]
        assert await own.claim() is None
        await queue.cancel("audio")
        assert [(await own.claim()).task.id for _ in "12"] == ["failed", "queued"]

    with_queue(body)


def test_who_finds_no_transcript_while_it_is_retried_waits_for_it(with_queue):
    async def body(queue):
        own = detections(queue)
        await without_transcript(queue, "t")
        look = await own.claim()
        await queue.retry("audio")
        await own.fail(look, Problem("no_transcript", "there is none"), 1.0, final=True)

        assert await state(queue, "t") == State.QUEUED
        assert await own.claim() is None

    with_queue(body)


def test_who_finds_no_transcript_just_before_there_is_one_looks_again(with_queue):
    async def body(queue):
        await without_transcript(queue, "t")
        look = await detections(queue).claim()
        await queue.retry("audio")
        await queue.plan(await queue.claim(), a_plan(0))
        await detections(queue).fail(look, Problem("no_transcript", "there is none"), 1.0, final=True)

        assert (await detections(queue).claim()).task.id == "t"

    with_queue(body)


def test_a_full_queue_takes_neither_the_audio_nor_what_would_look_through_it(with_queue):
    async def body(queue):
        await queue.submit(a_task())
        then = a_detection("then", transcript="audio")
        with pytest.raises(Exception, match="waiting already"):
            await queue.submit(a_task(id="audio", then=then))

        (tasks,) = await queue.db.read(lambda conn: conn.execute("select count(*) from task").fetchone())
        assert tasks == 1

    with_queue(body, max_queued=1)


def test_both_are_there_or_neither(with_queue):
    async def body(queue):
        await queue.submit(a_task(id="audio", then=a_detection("then", transcript="audio")))

        assert [await state(queue, id) for id in ("audio", "then")] == [State.QUEUED] * 2
        assert (await queue.claim()).task.id == "audio"

    with_queue(body)


def a_sighting(begin, past, rule="r", loud=True, speaker=""):
    finding = msgspec.Raw(b'{"begin": %d}' % begin)
    return Sighting(rule=rule, speaker=speaker, begin=begin, past=past, loud=loud, finding=finding)


async def alerts(queue):
    sql = "select snapshot from outbox where event = 'risk.alert' order by seq"
    rows = await queue.db.read(lambda conn: conn.execute(sql).fetchall())
    return [msgspec.json.decode(row["snapshot"])["findings"] for row in rows]


def test_each_finding_alerts_once_though_its_place_grows(with_queue):
    async def body(queue):
        own = detections(queue)
        await queue.submit(a_task(id="audio"))
        asked = Detection(alert_url=HERE)
        await queue.submit(a_detection("t", transcript="audio", detection=asked))
        (look,) = await own.hearing("audio")
        await own.tell(look, [a_sighting(0, 5), a_sighting(9, 12, loud=False)])
        await own.tell(look, [a_sighting(0, 7), a_sighting(20, 25)])
        await queue.cancel("audio")
        last = [a_sighting(0, 7), a_sighting(9, 12), a_sighting(20, 26), a_sighting(-1, -1, rule="notice")]
        await own.finish(await own.claim(), Outcome("{}", tuple(last), None), 1.0)

        assert await alerts(queue) == [[{"begin": 0}], [{"begin": 20}], [{"begin": -1}]]

    with_queue(body)


@pytest.mark.parametrize(
    ("edit", "told"),
    [(None, [[{"begin": 10}], [{"begin": 11}, {"begin": 14}]]), ("e", [[{"begin": 10}], [{"begin": 14}]])],
)
def test_a_place_that_a_correction_has_moved_a_little_alerts_no_more(with_queue, edit, told):
    async def body(queue):
        own = detections(queue)
        await queue.submit(a_task(id="audio"))
        await queue.submit(a_detection("t", transcript="audio", detection=Detection(alert_url=HERE)))
        (look,) = await own.hearing("audio")
        await own.tell(look, [a_sighting(10.0, 11.0)])
        await queue.plan(await queue.claim(), a_plan(0))
        found = (a_sighting(11.5, 12.0), a_sighting(14.0, 15.0))
        await own.finish(await own.claim(), Outcome("{}", found, edit), 1.0)

        assert await alerts(queue) == told

    with_queue(body)


def test_what_two_say_at_the_same_time_is_told_of_both(with_queue):
    async def body(queue):
        own = detections(queue)
        await queue.submit(a_task(id="audio"))
        await queue.submit(a_detection("t", transcript="audio", detection=Detection(alert_url=HERE)))
        (look,) = await own.hearing("audio")
        await own.tell(look, [a_sighting(10, 12, speaker="A")])
        await own.tell(look, [a_sighting(10, 13, speaker="A"), a_sighting(10, 12, speaker="B")])

        assert await alerts(queue) == [[{"begin": 10}], [{"begin": 10}]]

    with_queue(body)


def test_of_a_transcript_that_went_meanwhile_nothing_is_told(with_queue):
    async def body(queue):
        own = detections(queue)
        await queue.submit(a_task(id="audio"))
        await queue.submit(a_detection("t", transcript="audio", detection=Detection(alert_url=HERE)))
        (look,) = await own.hearing("audio")
        await forget(queue, "audio")
        await own.tell(look, [a_sighting(0, 5)])

        assert await alerts(queue) == []

    with_queue(body)


def test_nothing_is_written_down_of_a_transcript_that_went_meanwhile(with_queue):
    async def body(queue):
        own = detections(queue)
        await queue.submit(a_task(id="audio"))
        await queue.plan(await queue.claim(), a_plan(0))
        await queue.submit(a_detection("t", transcript="audio", detection=Detection(alert_url=HERE)))
        look = await own.claim()
        await forget(queue, "audio")
        await own.finish(look, FOUND._replace(sightings=(a_sighting(0, 5),)), 1.0)

        task = await queue.get("t")
        assert (task.state, task.error.code) == (State.FAILED, "no_transcript")
        assert await alerts(queue) == []
        (reports,) = await queue.db.read(
            lambda conn: conn.execute("select count(report) from detection").fetchone()
        )
        assert reports == 0

    with_queue(body)


async def forget(queue, task_id):
    await queue.db.write(lambda conn: conn.execute("delete from task where id = ?", (task_id,)))


@pytest.mark.parametrize("gone", ["audio", "t"])
def test_an_alert_goes_with_its_transcript_and_with_its_task(with_queue, gone):
    async def body(queue):
        own = detections(queue)
        await queue.submit(a_task(id="audio"))
        for id in ("t", "other"):
            where = {"transcript": "audio"} if id == "t" else {}
            asked = Detection(alert_url=HERE)
            await queue.submit(a_detection(id, **where, callback_url=HERE, detection=asked))
        (look,) = await own.hearing("audio")
        await own.tell(look, [a_sighting(0, 5)])
        await own.finish(await own.claim(), FOUND._replace(sightings=(a_sighting(9, 12),)), 1.0)
        before = await alerts(queue)
        await forget(queue, gone)

        assert before == [[{"begin": 0}], [{"begin": 9}]]
        assert await alerts(queue) == [[{"begin": 9}]]
        (ends,) = await queue.db.read(
            lambda conn: conn.execute("select count(*) from outbox where event <> 'risk.alert'").fetchone()
        )
        assert ends == 1

    with_queue(body)


def test_an_address_that_wants_no_more_is_not_alerted(with_queue):
    async def body(queue):
        await queue.db.write(lambda conn: conn.execute("insert into gone values (?, 0)", (HERE,)))
        own = detections(queue)
        await queue.submit(a_detection("t", detection=Detection(alert_url=HERE)))
        await own.finish(await own.claim(), FOUND._replace(sightings=(a_sighting(0, 5),)), 1.0)

        assert await alerts(queue) == []

    with_queue(body)


def test_what_wants_no_alert_does_not_hear_a_call(with_queue):
    async def body(queue):
        await queue.submit(a_task(id="audio"))
        await queue.submit(a_detection("t", transcript="audio"))

        assert await detections(queue).hearing("audio") == []

    with_queue(body)


def test_a_cancelled_one_alerts_of_nothing_more(with_queue):
    async def body(queue):
        own = detections(queue)
        await queue.submit(a_task(id="audio"))
        await queue.submit(a_detection("t", transcript="audio", detection=Detection(alert_url=HERE)))
        (look,) = await own.hearing("audio")
        await queue.cancel("t")
        await own.tell(look, [a_sighting(0, 5)])

        assert await alerts(queue) == []

    with_queue(body)
