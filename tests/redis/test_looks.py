"""What a host has taken, with what looks through its transcript: told together, and dropped together."""

import asyncio

import msgspec
import pytest

from tests.conftest import a_task
from tests.test_detections import FOUND, HERE, a_detection, detections, state
from tests.test_queue import a_plan
from whisperd.config import Config, Redis
from whisperd.delivery import DeliveryQuery
from whisperd.job import Job
from whisperd.look import Ended, Kept, Outcome, Said, Sighting, after
from whisperd.outbox import Outbox
from whisperd.redis_queue import bridge, formats
from whisperd.redis_queue.intake import Intake
from whisperd.redis_queue.ledger import Ledger
from whisperd.redis_queue.seen import Seen
from whisperd.redis_queue.shared_detections import SharedDetections
from whisperd.redis_queue.storage import Storage
from whisperd.redis_queue.stored import Stored, encoded
from whisperd.task import Detection, Kind, LostClaim, Problem, Segment, State, TaskNotFound

JOB = Job(id="t1", token="ours:1", begun=1)
OTHER = Job(id="t1", token="ours:2", begun=2)
SAID = Segment(start=0.0, end=1.0, text="ask not")
BROKEN = {"code": "x", "message": "y"}
REPORT = '{"places":[["card",0,3]],"rules_errors":[],"findings":[]}'


def a_call(**asked):
    new = a_task(id="t1", callback_url=HERE)
    return msgspec.structs.replace(new, then=after(new, "t1-risk", Detection(**asked)))


async def transcribed(queue, job=JOB, **asked):
    """Taken, and all but looked through."""
    await queue.take(a_call(**asked), job)
    await queue.plan(await queue.claim(), a_plan(1))
    return await queue.finish(await queue.claim(), [SAID])


def test_the_end_of_a_job_is_owed_once_its_transcript_was_looked_through(with_queue):
    async def body(queue):
        ledger, looks = Ledger(queue.db), detections(queue)
        task = await transcribed(queue)
        assert task.state is State.COMPLETED
        assert await ledger.owed() == []
        look = await looks.claim()
        assert await ledger.owed() == []
        assert await ledger.looked(await queue.get("t1")) is None
        await looks.finish(look, Outcome(REPORT, (), None), 1.0)

        assert [owed.task.id for owed in await ledger.owed()] == ["t1"]
        found = await ledger.looked(await queue.get("t1"))
        assert (found.task.id, found.task.state, found.report) == ("t1-risk", State.COMPLETED, REPORT)

    with_queue(body)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_look_that_found_nothing_out_holds_up_no_end(with_queue, end):
    async def body(queue):
        ledger, looks = Ledger(queue.db), detections(queue)
        await transcribed(queue)
        if end == "failed":
            await looks.fail(await looks.claim(), Problem("rules_too_slow", "slow"), 1.0, final=True)
        else:
            await queue.cancel("t1-risk")

        assert len(await ledger.owed()) == 1
        found = await ledger.looked(await queue.get("t1"))
        assert (found.task.state, found.report) == (end, None)

    with_queue(body)


def test_the_end_of_a_transcription_that_failed_waits_for_no_look(with_queue):
    async def body(queue):
        await queue.take(a_call(), JOB)
        await queue.cancel("t1")

        assert [owed.task.state for owed in await Ledger(queue.db).owed()] == [State.CANCELLED]

    with_queue(body)


def test_a_job_that_is_lost_in_the_midst_of_a_look_leaves_nothing_and_nobody_is_told(with_queue):
    async def body(queue):
        await transcribed(queue)
        look = await detections(queue).claim()
        outbox = Outbox(queue.db)
        assert [one.event for one in await outbox.find(DeliveryQuery())] == ["task.completed"]

        assert await queue.drop("t1", JOB)
        for gone in ("t1", "t1-risk"):
            with pytest.raises(TaskNotFound):
                await queue.get(gone)
        assert await outbox.find(DeliveryQuery()) == []
        with pytest.raises(Exception, match="t1-risk"):
            await detections(queue).finish(look, FOUND, 1.0)

        await transcribed(queue, OTHER)  # it comes back
        assert await state(queue, "t1-risk") is State.QUEUED

    with_queue(body)


def test_what_was_looked_through_is_not_dropped(with_queue):
    async def body(queue):
        await transcribed(queue)
        await detections(queue).finish(await detections(queue).claim(), FOUND, 1.0)

        assert not await queue.drop("t1", JOB)

    with_queue(body)


def test_a_job_that_runs_again_is_looked_through_again(with_queue):
    async def body(queue):
        looks = detections(queue)
        await queue.take(a_call(), JOB)
        await queue.cancel("t1")
        look = await looks.claim()
        await looks.fail(look, Problem("no_transcript", "none"), 0.0, final=True)
        assert await state(queue, "t1-risk") is State.FAILED
        await Ledger(queue.db).told(JOB)
        await queue.take(a_call(), OTHER)

        assert [await state(queue, task) for task in ("t1", "t1-risk")] == [State.QUEUED] * 2

    with_queue(body)


@pytest.mark.parametrize("begun", [False, True])
def test_a_job_that_is_cancelled_in_the_midst_of_a_look_is_so_here_too(with_queue, begun):
    async def body(queue):
        await transcribed(queue)
        look = await detections(queue).claim() if begun else None

        await queue.cancel_job("t1")

        assert await states(queue) == [State.CANCELLED, State.FAILED]
        assert (await queue.get("t1-risk")).error.code == "no_transcript"
        told = [(one.task_id, one.event) for one in await Outbox(queue.db).find(DeliveryQuery())]
        assert sorted(told) == [("t1", "task.cancelled"), ("t1-risk", "task.failed")]
        assert [owed.task.state for owed in await Ledger(queue.db).owed()] == [State.CANCELLED]
        used = "select sum(completed), sum(cancelled) from usage where model = 'tiny.en'"
        assert await queue.db.read(lambda conn: [*conn.execute(used).fetchone()]) == [1, 0]
        if look is not None:
            with pytest.raises(LostClaim):
                await detections(queue).finish(look, FOUND, 1.0)
        await Ledger(queue.db).told(JOB)
        await queue.take(a_call(), OTHER)
        assert await states(queue) == [State.QUEUED] * 2

    with_queue(body)


def test_a_job_that_was_looked_through_is_cancelled_too_late(with_queue):
    async def body(queue):
        await transcribed(queue)
        await detections(queue).finish(await detections(queue).claim(), FOUND, 1.0)
        await queue.cancel_job("t1")

        assert await states(queue) == [State.COMPLETED] * 2

    with_queue(body)


@pytest.mark.parametrize("first", ["t1", "t1-risk"])
def test_a_look_that_was_cancelled_as_well_is_done_by_the_next_try_of_its_job(with_queue, first):
    async def body(queue):
        await queue.take(a_call(), JOB)
        if first == "t1":
            await queue.cancel_job("t1")
        await queue.cancel("t1-risk")
        await queue.cancel_job("t1")
        assert await states(queue) == [State.CANCELLED] * 2
        await Ledger(queue.db).told(JOB)

        await queue.take(a_call(), OTHER)

        assert await states(queue) == [State.QUEUED] * 2

    with_queue(body)


async def states(queue):
    return [await state(queue, task) for task in ("t1", "t1-risk")]


def test_a_correction_is_not_looked_through_where_other_hosts_show_the_original(with_queue):
    async def body(queue):
        await transcribed(queue)
        await queue.correct("t1", [msgspec.structs.replace(SAID, text="ask me")], None)
        looks = detections(queue)
        said = await looks.said(look := await looks.claim())
        assert (said.edit, said.segments) == (None, (SAID,))
        await looks.release(look)
        await Ledger(queue.db).told(JOB)

        said = await looks.said(await looks.claim())
        assert (said.edit is not None, said.segments[0].text) == (True, "ask me")

    with_queue(body)


def test_a_look_stays_as_long_as_the_end_of_its_job_is_owed(with_queue, clock):
    async def body(queue):
        await transcribed(queue)
        await detections(queue).finish(await detections(queue).claim(), FOUND, 1.0)
        assert await queue.clear(frozenset({State.COMPLETED}), clock.now + 1) == []
        await Ledger(queue.db).told(JOB)
        assert "t1" in await queue.clear(frozenset({State.COMPLETED}), clock.now + 1)

    with_queue(body)


def test_an_alert_of_the_same_findings_has_the_same_id_wherever_it_is_told(with_queue):
    finding = msgspec.Raw(b'{"rule_id":"a"}')
    sighting = Sighting(rule="a", begin=1.0, past=2.0, loud=True, finding=finding)

    async def body(queue):
        ids = []
        for job in (JOB, OTHER):
            await transcribed(queue, job, alert_url=HERE)
            looks = detections(queue)
            await looks.finish(await looks.claim(), Outcome(REPORT, (sighting,), None), 1.0)
            deliveries = await Outbox(queue.db).find(DeliveryQuery())
            ids += [one.id for one in deliveries if one.event == "risk.alert"]
            await queue.db.write(lambda conn: conn.execute("delete from task") and None)  # another host

        assert ids == [ids[0]] * 2

    with_queue(body)


# --- what a job says of it ---


def seen(new, *, state="active", value=None, **marks):
    data = formats.to_job(new, "shared://audio/http-t1")
    return Seen(
        id=new.id,
        queue="transcription",
        state=state,
        data=msgspec.json.decode(msgspec.json.encode(data)),
        priority=11,
        progress=0.0,
        delay=0,
        added_at=1000,
        begun_at=0,
        ended_at=0,
        attempts=1,
        failure=None,
        value=value or {},
        cancelled=False,
        **marks,
    )


def test_a_job_says_all_that_its_look_is_to_look_for():
    new = a_call(packs=("pii",), min_score=0.5, redact="mask", alert_url=HERE)
    look = msgspec.structs.replace(new.then, rules='[{"id": "a"}]', callback_url="http://127.0.0.1/look")
    new = msgspec.structs.replace(new, then=look, callback_url=None)
    job = formats.read(seen(new).data)

    assert formats.to_task(job, new.audio, "tiny.en", 11) == msgspec.structs.replace(new, plan=None)


@pytest.mark.parametrize("redact", ["tag", "mask", None])
def test_a_job_is_shown_as_its_look_redacts_whatever_has_become_of_it(redact):
    for how in ("active", "completed", "failed", "waiting"):
        new = a_call(**{"redact": redact} if redact else {})
        assert formats.shown(seen(new, state=how)).redact == redact


@pytest.mark.parametrize(
    ("how", "value", "marks", "expected"),
    [
        ("waiting", None, {}, ("queued", None)),
        ("active", None, {}, ("queued", None)),
        ("active", None, {"look_cancelled": True}, ("cancelled", None)),
        ("failed", None, {}, ("failed", "no_transcript")),
        ("completed", {"risk": {"status": "completed"}}, {}, ("completed", None)),
        ("completed", {"risk": {"status": "completed"}}, {"look_cancelled": True}, ("completed", None)),
        (
            "completed",
            {"risk": {"status": "failed", "error": {"code": "x", "message": "y"}}},
            {},
            ("failed", "x"),
        ),
        ("completed", {"risk": "ours"}, {}, ("failed", "no_transcript")),  # a worker of Node's
        ("completed", None, {}, ("failed", "no_transcript")),
    ],
)
def test_a_look_is_shown_by_what_its_job_says(how, value, marks, expected):
    look, transcription = formats.all_shown(seen(a_call(), state=how, value=value, **marks))

    assert (look.state, look.error and look.error.code) == expected
    assert (look.id, look.kind, look.transcript) == ("t1-risk", Kind.RISK_DETECTION, "t1")
    assert look.seq == transcription.seq + 1


# --- what lies in the storage ---


class Elsewhere:
    """A queue whose tasks other hosts have done."""

    def __init__(self, queue):
        self.get = queue.get

    async def is_here(self, transcription_id):
        return False


def test_what_was_found_in_a_correction_redacts_nothing_that_others_show(with_queue, tmp_path):
    storage = Storage(Config(redis=Redis(storage=str(tmp_path))))

    async def body(queue):
        task = await transcribed(queue)
        look = await queue.get("t1-risk")
        told = {}
        for edit in (None, "e1"):
            ended = Ended(task=look, asked=Detection(), rules=None, report=REPORT, edit=edit)
            (tmp_path / "results" / "t1").unlink(missing_ok=True)
            await storage.keep_result("t1", await encoded(Stored(task=task, segments=(SAID,), look=ended)))
            found = SharedDetections(detections(queue), Elsewhere(queue), storage)
            (told[edit],) = await found.redaction(task, None)
            assert await found.kept("t1-risk") == Kept(look, REPORT, edit)

        assert (told[None].hidden, told[None].is_first) == ('[[["card",0,3]],[]]', True)
        assert told["e1"].hidden is None

    with_queue(body)


def test_a_host_that_cannot_look_hands_the_job_back(monkeypatch):
    monkeypatch.setattr("whisperd.rulebooks._LIBRARIES", ("no_such_library",))
    intake = Intake(None, None, None, None, Config())
    job = formats.read(seen(a_call()).data)

    with pytest.raises(bridge._LATER):
        asyncio.run(intake.task_of(job, 11))


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "risk_detection"},
        {"detection": {}},
        {"transcript": "t0"},
        {"kind": "risk_detection", "detection": {}, "then": {"detection": {}}},
    ],
)
def test_a_job_that_is_neither_a_transcription_nor_a_look_is_not_run(fields):
    with pytest.raises(formats.Malformed):
        formats.read({**seen(a_task()).data, **fields})


def test_what_looks_through_the_transcript_of_another_host_needs_no_task_of_that_here(with_queue):
    async def body(queue):
        new = a_detection("look", transcript="elsewhere", said=(SAID,))
        await queue.take(new, Job(id="look", token="ours:1", begun=1))
        looks = detections(queue)
        look = await looks.claim()
        assert await looks.said(look) == Said(None, (SAID,))
        await looks.finish(look, Outcome(REPORT, (), None), 1.0)

        (owed,) = await Ledger(queue.db).owed()
        found = await Ledger(queue.db).looked(owed.task)
        assert (found.task.id, found.task.transcript, found.report) == ("look", "elsewhere", REPORT)

    with_queue(body)
