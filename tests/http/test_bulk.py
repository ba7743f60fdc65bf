"""POST /tasks/bulk: many tasks at once, each by the rules of the call for one."""

import pytest

from tests.http_server import the_error
from whisperd.routes import bulk
from whisperd.task import ListQuery, Problem

BOOM = Problem("worker_crashed", "boom")


async def failed(server, **fields):
    task = await server.submit(**fields)
    await server.queue.fail(await server.queue.claim(), BOOM, final=True)
    return task["task_id"]


async def in_bulk(server, action, **which):
    answer = await server.client.post("/tasks/bulk", json={"action": action, **which})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def status(server, *ids):
    return [(await server.task(task_id))["status"] for task_id in ids]


def test_tasks_that_are_named_are_cancelled_and_each_refusal_has_its_code(with_server):
    async def body(server):
        done = (await server.completed())["task_id"]
        waits, other = [(await server.submit())["task_id"] for _ in range(2)]
        answer = await in_bulk(server, "cancel", task_ids=[waits, done, "nosuch", waits])

        assert answer == {
            "done": 1,
            "refused": [
                {"task_id": done, "code": "wrong_state"},
                {"task_id": "nosuch", "code": "not_found"},
            ],
            "refused_count": 2,
            "more": False,
            "next_cursor": None,
        }
        assert await status(server, waits, done, other) == ["cancelled", "completed", "queued"]

    with_server(body)


def test_what_the_disk_refuses_is_the_result_of_its_task_and_not_of_the_call(with_server):
    """It was answered with 507, as if nothing had been done of what came before it."""

    def read_only(server, on):
        return server.db._on(
            server.db._writing, lambda conn: conn.execute(f"pragma query_only = {on}") and None
        )

    async def body(server):
        ids = [(await server.submit())["task_id"] for _ in range(2)]
        await read_only(server, "on")
        refused = await in_bulk(server, "cancel", task_ids=["nosuch", *ids])
        await read_only(server, "off")

        assert (refused["done"], refused["refused_count"]) == (0, 3)
        codes = [item["code"] for item in refused["refused"]]
        assert codes == ["not_found", "storage_read_only", "storage_read_only"]
        assert (await in_bulk(server, "cancel", task_ids=ids))["done"] == 2

    with_server(body)


def test_all_failed_tasks_run_again_but_for_those_without_audio(with_server):
    async def body(server):
        ids = [await failed(server) for _ in range(3)]
        server.spool.remove(ids[1])
        answer = await in_bulk(server, "retry", filter={"status": ["failed"]})

        assert (answer["done"], answer["refused"]) == (2, [{"task_id": ids[1], "code": "audio_gone"}])
        assert await status(server, *ids) == ["queued", "failed", "queued"]

    with_server(body)


def test_an_empty_filter_means_all_in_a_state_for_it(with_server):
    async def body(server):
        done, waits = (await server.completed())["task_id"], (await server.submit())["task_id"]
        answer = await in_bulk(server, "cancel", filter={})

        assert (answer["done"], answer["refused_count"]) == (1, 0)
        assert await status(server, done, waits) == ["completed", "cancelled"]

    with_server(body)


def test_a_filter_knows_tenant_words_and_time(with_server, clock):
    async def body(server):
        ids = []
        for name, tenant in (("a.wav", "acme"), ("b.wav", "acme"), ("b.wav", "other")):
            clock.now += 10
            ids.append((await server.submit(name=name, tenant=tenant))["task_id"])
        while await server.queue.index():
            pass
        times = [(await server.task(task_id))["created_at"] for task_id in ids]

        assert (await in_bulk(server, "cancel", filter={"created_before": times[0]}))["done"] == 0
        assert (await in_bulk(server, "cancel", filter={"q": "b.wav", "tenant": "acme"}))["done"] == 1
        later = {"created_after": times[1], "created_before": times[2]}
        assert (await in_bulk(server, "cancel", filter=later))["done"] == 0  # it is cancelled already
        assert await status(server, *ids) == ["queued", "cancelled", "queued"]
        assert (await in_bulk(server, "cancel", filter={"created_after": times[2], "q": "wav"}))["done"] == 1
        assert (await in_bulk(server, "cancel", filter={"status": ["completed"]}))["done"] == 0

    with_server(body, now=clock)


def test_a_filter_by_words_makes_no_snippets(with_server):
    """It made them of up to a thousand entries and threw them away."""

    async def body(server):
        task = await server.submit(name="hello.wav")
        while await server.queue.index():
            pass
        found = await server.queue.search(ListQuery(text="hello"), matches=False)
        spoiled = "update search set text = 'hello', starts = 'nowhere'"  # of which no match can be made
        await server.db.write(lambda conn: conn.execute(spoiled).rowcount)
        answer = await in_bulk(server, "cancel", filter={"q": "hello"})

        assert [hit.match for hit in found.hits] == [None]
        assert answer["done"] == 1
        assert await status(server, task["task_id"]) == ["cancelled"]

    with_server(body)


def test_a_call_does_some_and_the_cursor_goes_on(with_server, monkeypatch):
    monkeypatch.setattr(bulk, "MOST", 4)
    monkeypatch.setattr(bulk, "PAGE", 2)
    monkeypatch.setattr(bulk, "AT_A_TIME", 3)
    monkeypatch.setattr(bulk, "MOST_REFUSED", 1)

    async def body(server):
        ids = [await failed(server) for _ in range(7)]
        for task_id in ids[3:]:
            server.spool.remove(task_id)
        first = await in_bulk(server, "retry", filter={})
        second = await in_bulk(server, "retry", filter={}, cursor=first["next_cursor"])

        assert (first["done"], len(first["refused"]), first["refused_count"], first["more"]) == (
            0,
            1,
            4,
            True,
        )
        assert (second["done"], second["more"], second["next_cursor"]) == (3, False, None)

    with_server(body)


@pytest.mark.parametrize(
    ("sent", "code", "param"),
    [
        ({}, "missing_field", "action"),
        ({"action": "retry"}, "invalid_field", "task_ids"),
        ({"action": "retry", "task_ids": ["a"], "filter": {}}, "invalid_field", "task_ids"),
        ({"action": "delete", "task_ids": ["a"]}, "invalid_field", "action"),
        ({"action": "retry", "task_ids": []}, "invalid_field", "task_ids"),
        ({"action": "retry", "task_ids": ["a"] * 1001}, "invalid_field", "task_ids"),
        ({"action": "retry", "filter": {"state": "failed"}}, "unknown_field", "state"),
        ({"action": "retry", "filter": {}, "cursor": "x"}, "invalid_field", "cursor"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_done(with_idle_server, sent, code, param):
    async def body(server):
        assert the_error(await server.client.post("/tasks/bulk", json=sent)) == (422, code, param)

    with_idle_server(body)
