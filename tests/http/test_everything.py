"""GET /events: what happens to all tasks, for pages."""

import asyncio
import contextlib
import json
from itertools import groupby

import pytest

from tests.http.test_tenants import Tenant
from tests.http_server import DEADLINE, until
from whisperd.events import BACKLOG, Event
from whisperd.routes import live


@contextlib.asynccontextmanager
async def everything(server, headers=None):
    """The messages, behind the first statistics."""
    async with server.client.stream("GET", "/events", headers=headers or {}) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = answer.aiter_lines()
        assert (await said(lines))["type"] == "stats"
        yield lines


async def said(lines):
    async with asyncio.timeout(DEADLINE):
        return json.loads(await anext(line.removeprefix("data: ") async for line in lines if line))


async def said_until(lines, last):
    messages = []
    while not messages or not last(messages[-1]):
        messages.append(await said(lines))
    return messages


def is_over(task_id):
    return lambda message: (
        message["type"] == "task"
        and message["task"]["task_id"] == task_id
        and message["task"]["status"] in ("completed", "cancelled")
    )


def test_a_page_hears_of_every_change_of_every_task_and_of_no_segment(with_server):
    async def body(server):
        async with everything(server) as lines:
            one = await server.submit()
            await server.plan(1)
            await server.finish("Ask not.")
            other = await server.submit()
            await server.queue.cancel(other["task_id"])
            messages = await said_until(lines, is_over(other["task_id"]))

        tasks = [message["task"] for message in messages if message["type"] == "task"]
        told = [task["status"] for task in tasks if task["task_id"] == one["task_id"]]
        assert [status for status, _ in groupby(told)] == ["queued", "processing", "completed"]
        assert "segment" not in {message["type"] for message in messages}

    with_server(body)


def test_a_page_hears_the_statistics_again_and_again(with_server, monkeypatch):
    monkeypatch.setattr(live, "STATS_SECONDS", 0.01)

    async def body(server):
        async with everything(server) as lines:
            await server.submit()
            messages = await said_until(lines, lambda message: message.get("total") == 1)
            again = (await said_until(lines, lambda message: message["type"] == "stats"))[-1]

        assert {**again, "oldest_queued_seconds": 0} == {**messages[-1], "oldest_queued_seconds": 0}

    with_server(body)


def test_a_page_of_a_tenant_hears_of_its_own_tasks_only(with_server):
    async def body(server):
        acme, other = Tenant(server, "acme"), Tenant(server, "other")
        async with everything(server, acme.headers) as lines:
            foreign = (await other.submit())["task_id"]
            mine = (await acme.submit())["task_id"]
            await acme.ask("DELETE", f"/tasks/{mine}")
            messages = await said_until(lines, is_over(mine))

        assert foreign not in json.dumps(messages)

    with_server(body)


def test_a_page_that_falls_behind_is_cut_off(with_server):
    async def body(server):
        task = await server.queue.get((await server.submit())["task_id"])
        async with everything(server) as lines:
            for _ in range(BACKLOG + 1):  # at once: it has no time to read
                server.events.publish(Event("progress", task))

            assert server.listeners() == 0
            async with asyncio.timeout(DEADLINE):
                assert len([line async for line in lines if line]) <= BACKLOG

    with_server(body)


@pytest.mark.parametrize("end", ["it leaves", "the daemon stops"])
def test_the_stream_of_a_page_ends(with_server, end):
    async def body(server):
        async with everything(server) as lines:
            await until(server.listeners)
            if end == "the daemon stops":
                server.events.close()
                assert [line async for line in lines if line] == []
        await until(lambda: server.listeners() == 0)

    with_server(body)
