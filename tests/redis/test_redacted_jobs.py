"""What was submitted with `redact` is shown so to its own tenant, whatever else is in the shared queue."""

import asyncio
import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.conftest import a_task
from tests.redis.test_limits import run  # noqa: F401 - a fixture
from whisperd.detections import Detections
from whisperd.look import Ended, after
from whisperd.redacting import NotRedacted, Redacting
from whisperd.redis_queue.shared_detections import SharedDetections
from whisperd.redis_queue.stored import Stored, encoded
from whisperd.task import Detection, Segment, State, TaskNotFound

SAID = Segment(start=0.0, end=1.0, text="ask not")
REPORT = '{"places":[[0,0,3,"CARD"]],"rules_errors":[],"findings":[]}'
VALUE = {"result_url": "shared://results/t1", "seconds": 1.0, "words": 2, "risk": {"status": "completed"}}
THEIRS = {"transcriptionId": "t1", "s3AudioUrl": "s3://x/y", "format": "txt"}


async def redacts(host, board=None):
    """A task of acme that was submitted with `redact`, and is completed; Redis has it as any other."""
    new = a_task(id="t1", tenant="acme")
    look = after(new, "t1-risk", Detection(redact="tag"))
    await host.submits(id="t1", tenant="acme", then=look)
    await is_done(host, board or host.board)


async def is_done(host, board):
    taken = await board.take()
    task = replace(await host.queue.get("t1"), state=State.COMPLETED)
    ended = Ended(task=task, asked=Detection(redact="tag"), rules=None, report=REPORT, edit=None)
    await host.storage.keep_result("t1", await encoded(Stored(task=task, segments=(SAID,), look=ended)))
    await board.complete(taken.job, VALUE)


async def shown(host, task_id="t1"):
    """As GET /tasks/ID/result shows it, to whom asks for nothing special; with its tenant."""
    task = await host.queue.get(task_id)
    local = Detections(host.ledger._db, host.own.events, lambda tasks: None)
    redacting = Redacting(host.queue, SharedDetections(local, host.queue, host.storage))
    try:
        said = await redacting.transcript(task, hidden=task.redact is not None)
    except (NotRedacted, TaskNotFound) as error:
        return task.tenant, type(error).__name__
    return task.tenant, said.text


async def edited(host, change):
    """Its job, as from a dashboard, or as a newer version writes it."""
    client, key = host.link.client, "bull:transcription:t1"
    data = json.loads(await client.hget(key, "data"))
    change(data)
    await client.hset(key, "data", json.dumps(data))


def set_at(*path, value):
    def change(data):
        *before, last = path
        for name in before:
            data = data[name]
        data[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (set_at("then", "detection", "redact", value="hash"), ("acme", "[CARD] not")),
        (set_at("then", value=1), ("acme", "[CARD] not")),
        (set_at("options", value="new"), ("acme", "[CARD] not")),
        (set_at("tenant", value=["acme"]), ("", "[CARD] not")),
        (lambda data: data.clear(), ("", "[CARD] not")),
        (lambda data: data.pop("then"), ("acme", "TranscriptElsewhere")),
    ],
)
def test_what_a_job_does_not_say_so_that_it_can_be_read_is_not_shown_whole(run, change, expected):  # noqa: F811
    async def test(one, two):
        await redacts(one)
        assert await shown(two) == ("acme", "[CARD] not")

        await edited(one, change)

        assert await shown(two) == expected

    run(test)


def test_a_job_that_cannot_be_read_and_was_to_redact_nothing_is_shown_as_ever(run):  # noqa: F811
    async def test(one, two):
        await one.submits(id="t1", tenant="acme")
        await is_done(one, one.board)

        await edited(one, set_at("options", value="new"))

        assert await shown(two) == ("acme", "ask not")

    run(test)


@pytest.mark.parametrize("settings", [{}, {"routes": {"tenant:acme": "acme"}}])
def test_a_job_of_nodes_with_the_id_of_another_task_gets_nothing_of_that(run, settings):  # noqa: F811
    async def test(one, two):
        await redacts(one, one.boards.each().get("acme"))
        await one.board.add("j9", "x", THEIRS)
        assert (await two.queue.get("j9")).id == "t1"

        assert await shown(two) == ("acme", "[CARD] not")
        assert await refused(one, two) == "invalid_field: its transcriptionId is the id of another task"
        assert await shown(two) == ("acme", "[CARD] not")
        assert (await two.queue.get("t1")).state is State.COMPLETED

    run(test, **settings)


def test_nor_does_one_whose_job_has_that_id_in_another_queue(run):  # noqa: F811
    async def test(one, two):
        await redacts(one, one.boards.each()["acme"])
        await one.board.add("t1", "x", THEIRS)

        assert await refused(one, two, "t1") == "invalid_field: its transcriptionId is the id of another task"
        assert await shown(two) == ("default", "")

    run(test, routes={"tenant:acme": "acme"})


def test_nor_is_it_run_in_the_place_of_one_that_still_waits(run):  # noqa: F811
    async def test(one, two):
        await one.submits(id="t1", tenant="acme")
        await one.board.add("j9", "x", THEIRS)

        assert await refused(one, two) == "invalid_field: its transcriptionId is the id of another task"
        assert (await two.queue.get("t1")).tenant == "acme"

    run(test)


def test_what_is_cancelled_is_the_task_that_is_shown(run):  # noqa: F811
    async def test(one, two):
        await one.submits(id="t1", tenant="acme")
        await one.board.add("j9", "x", THEIRS)
        await two.queue.get("j9")

        await two.queue.cancel("t1")

        assert (await one.board.look("j9")).state == "waiting"
        assert (await one.queue.get("t1")).state is State.CANCELLED

    run(test, routes={"tenant:acme": "acme"})


def written_for(host):
    """What was rendered for Node's programs."""
    return list(Path(host.config.redis.storage).glob("results/t1.*"))


async def refused(one, two, job_id="j9"):
    """Why the job has failed, once the other host has seen to it."""

    async def over():
        seen = await two.board.look(job_id)
        if seen.state in ("completed", "failed"):
            return seen
        raise TaskNotFound(job_id)

    seen = await one.works_until(over)
    assert await asyncio.to_thread(written_for, two) == []
    return seen.failure
