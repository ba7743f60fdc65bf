"""What lies in the storage of a task that Redis has forgotten is its tenant's, whoever uses its id then."""

import asyncio

import msgspec
import pytest
from msgspec.structs import replace

from tests.conftest import a_task
from tests.redis.test_limits import run  # noqa: F401 - a fixture
from tests.redis.test_redacted_jobs import REPORT, SAID, VALUE, redacts
from tests.test_detections import a_detection
from tests.test_queue import a_plan
from whisperd.detections import Detections
from whisperd.job import Job
from whisperd.look import Ended, Outcome
from whisperd.redis_queue.shared_audio import SharedAudio
from whisperd.redis_queue.shared_detections import SharedDetections
from whisperd.redis_queue.stored import Found, Stored, encoded
from whisperd.task import Detection, TranscriptElsewhere


async def is_over(host):
    """A task of acme that is completed, and shown."""
    await host.submits(id="t1", tenant="acme")
    taken = await host.board.take()
    task = await host.queue.get("t1")
    ended = Ended(task=task, asked=Detection(), rules=None, report=REPORT, edit=None)
    kept = Stored(task=task, segments=(SAID,), look=ended, peaks=b"\1\2")
    await host.storage.keep_result("t1", await encoded(kept))
    await host.board.complete(taken.job, VALUE)


async def is_used_again(host, node, user="mallory", task_id="t1"):
    """The job is removed from Redis, as from a dashboard; then Node's programs add another of that id."""
    await asyncio.to_thread(node.remove, "t1")
    data = {"transcriptionId": task_id, "userId": user, "s3AudioUrl": "shared://audio/http-t1"}
    job_id = await asyncio.to_thread(node.add, data, {"priority": 5})
    assert (await host.queue.get(job_id)).id == task_id  # it is found by that from now on
    assert (await host.queue.get(task_id)).tenant == user


def looked(host):
    return Detections(host.ledger._db, host.own.events, lambda tasks: None)


def detections(host):
    return SharedDetections(looked(host), host.queue, host.storage)


async def is_looked_through(host):
    """By a look of its own, on another host."""
    task = replace(await host.queue.get("t1"), id="look", transcript="t1")
    ended = Ended(task=task, asked=Detection(), rules=None, report=REPORT, edit=None)
    await host.storage.keep_result("look", await encoded(Stored(task=task, segments=(), look=ended)))
    found = Found.by(ended, REPORT)
    await host.storage.keep_look("t1", "look", msgspec.json.encode(found))


async def looks_through(host):
    """By a look of its own, on this host."""
    new = a_detection("look", transcript="t1", tenant="acme", said=(SAID,))
    await host.local.take(new, Job(id="look", token="ours:1", begun=1))
    await looked(host).finish(await looked(host).claim(), Outcome(REPORT, (), None), 1.0)
    await host.storage.keep_look("t1", "look", b'{"asked":{},"rules":null,"hidden":"[[],[]]"}')


def test_the_words_of_another_tenant_are_not_shown(run, node):  # noqa: F811
    async def test(one, two):
        await is_over(one)
        assert [said.text for _, said in await two.queue.segments("t1")] == ["ask not"]

        await is_used_again(two, node)

        assert await two.queue.segments("t1") == []

    run(test)


def test_the_tenant_itself_may_use_its_id_again(run, node):  # noqa: F811
    async def test(one, two):
        await is_over(one)

        await is_used_again(two, node, user="acme")

        assert [said.text for _, said in await two.queue.segments("t1")] == ["ask not"]
        assert await two.queue.peaks("t1") == b"\1\2"

    run(test)


def test_but_not_to_see_what_was_submitted_with_redact(run, node):  # noqa: F811
    async def test(one, two):
        await redacts(one)

        await is_used_again(two, node, user="acme")

        with pytest.raises(TranscriptElsewhere):
            await two.queue.segments("t1")

    run(test)


def test_the_waveform_of_another_tenant_is_not_shown(run, node):  # noqa: F811
    async def test(one, two):
        await is_over(one)
        assert await two.queue.peaks("t1") == b"\1\2"

        await is_used_again(two, node)

        assert await two.queue.peaks("t1") is None

    run(test)


def test_nor_one_of_a_try_that_was_made_on_this_host(run, node):  # noqa: F811
    async def test(one, two):
        await is_over(one)
        await two.local.take(a_task(id="t1", tenant="acme"), Job(id="t1", token="ours:1", begun=1))
        await two.local.plan(await two.local.claim(), replace(a_plan(), peaks=b"\3"))
        assert await two.queue.peaks("t1") == b"\3"

        await is_used_again(two, node)

        assert await two.queue.peaks("t1") is None

    run(test)


@pytest.mark.parametrize("submits", [is_over, redacts])
def test_what_was_submitted_over_http_is_not_heard_by_a_job_of_nodes(run, node, submits):  # noqa: F811
    async def test(one, two):
        audio = SharedAudio(two.boards, two.storage)
        await submits(one)
        assert (await audio.find(await two.queue.get("t1"))).head == b"a sound"

        for user in ("mallory", "acme"):
            await is_used_again(two, node, user)
            assert await audio.find(await two.queue.get("t1")) is None
            await two.queue.cancel("t1")

    run(test)


def test_what_was_found_in_the_words_of_another_tenant_is_not_shown(run, node):  # noqa: F811
    async def test(one, two):
        await is_over(one)
        assert (await detections(two).newest("t1")).report == REPORT

        await is_used_again(two, node)

        assert await detections(two).newest("t1") is None
        assert await detections(two).redaction(await two.queue.get("t1"), None) == []

    run(test)


def test_nor_under_the_id_of_what_came_along_to_find_it(run, node):  # noqa: F811
    async def test(one, two):
        await redacts(one)
        assert (await detections(two).kept("t1-risk")).report == REPORT

        await is_used_again(two, node, task_id="t1-risk")

        assert await detections(two).kept("t1-risk") is None

    run(test)


@pytest.mark.parametrize("looks", [is_looked_through, looks_through])
def test_nor_what_a_look_of_its_own_has_found(run, node, looks):  # noqa: F811
    async def test(one, two):
        await is_over(one)
        await looks(two)
        assert (await detections(two).newest("t1")).task.id == "look"

        await is_used_again(two, node)

        assert await detections(two).newest("t1") is None

    run(test)
