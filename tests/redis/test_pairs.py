"""A transcription and the look that came with it, which are one job: listed, changed, and let in."""

import asyncio

import pytest
from msgspec.structs import replace

from tests.conftest import a_task
from tests.redis.test_limits import limited, run  # noqa: F401 - a fixture
from tests.redis.test_looks import SAID
from tests.test_queue import a_plan
from whisperd import config
from whisperd.look import after
from whisperd.task import Change, Detection, Kind, ListQuery, QueueFull, TenantQueueFull, WrongState


def a_pair(task_id):
    new = a_task(id=task_id)
    return replace(new, then=after(new, f"{task_id}-risk", Detection()))


async def submits_pair(host, task_id):
    return await host.submits(id=task_id, then=a_pair(task_id).then)


async def listed(host, limit, **params):
    """The ids of all pages, as the API asks for them."""
    found, before = [], None
    while True:
        tasks = await host.queue.list(ListQuery(limit=limit, before=before, **params))
        found += [task.id for task in tasks]
        if len(tasks) < limit:
            return found
        before = tasks[-1].seq


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_a_list_of_looks_has_all_of_them_whatever_its_pages_hold(run, limit):  # noqa: F811
    async def test(one, other):
        for n in range(6):
            await submits_pair(one, f"t{n}")
            await asyncio.sleep(0.002)  # of another millisecond
        ids = [f"t{n}" for n in reversed(range(6))]

        assert await listed(other, limit, kind=Kind.RISK_DETECTION) == [f"{task}-risk" for task in ids]
        assert await listed(other, limit, kind=Kind.TRANSCRIPTION) == ids
        assert await listed(other, limit) == [part for task in ids for part in (f"{task}-risk", task)]

    run(test)


def test_the_priority_of_a_look_is_changed_on_no_host_whoever_has_it(run):  # noqa: F811
    async def test(one, other):
        await submits_pair(one, "t1")
        await one.local.take(a_pair("t1"), await one.takes())
        one.holds.add("t1")

        for host in (one, other):
            with pytest.raises(WrongState, match="runs with the transcription t1"):
                await host.queue.change("t1-risk", Change(priority=7))
        assert (await one.queue.change("t1", Change(priority=7))).priority == 7

    run(test)


@pytest.mark.parametrize("redact", ["tag", "none"])
def test_what_was_submitted_with_redact_is_not_corrected_where_no_look_would_see_it(run, redact):  # noqa: F811
    async def test(one, other):
        new = a_task(id="t1")
        new = replace(new, then=after(new, "t1-risk", Detection(redact=redact)))
        await one.submits(id="t1", then=new.then)
        await one.local.take(new, await one.takes())
        one.holds.add("t1")
        await one.local.plan(await one.local.claim(), a_plan(1))
        await one.local.finish(await one.local.claim(), [SAID])

        if redact == "tag":
            with pytest.raises(WrongState, match="submitted with redact"):
                await one.queue.correct("t1", [replace(SAID, text="ask me")], None)
        else:
            await one.queue.correct("t1", [replace(SAID, text="ask me")], None)
        assert (await one.local.edit("t1") is None) == (redact == "tag")

    run(test)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"queue": config.Queue(max_queued=1)}, QueueFull),
        (limited(queued=1), TenantQueueFull),
    ],
)
def test_a_look_for_which_there_is_no_room_is_refused_before_its_text_is_read(run, settings, error):  # noqa: F811
    async def test(one, other):
        await one.submits(tenant="acme", plan="FREE")

        with pytest.raises(error):
            await other.queue.check_room("acme", "FREE", Kind.RISK_DETECTION)

    run(test, **settings)
