"""GET /tasks/{id}/timeline: what happened to a task, to those who may see it."""

import pytest
from msgspec.structs import replace

from tests.http.test_rights import add, bearer
from tests.http.test_tenants import Tenant
from tests.http_server import the_error
from tests.test_effort import effort
from whisperd.task import Death, Problem

BASE = {"at", "kind", "attempt", "chunk", "worker", "seconds", "message"}
BOOM = Problem("worker_crashed", "child 812 exited with -11")


async def crash(server, last_words):
    died = replace(effort(1.25, worker=2), death=Death(BOOM, last_words))
    await server.queue.fail(await server.queue.claim(), BOOM, effort=died)


def test_a_timeline_says_of_each_event_what_and_when(with_server):
    async def body(server):
        task = await server.completed("Ask not.")
        found = (await server.client.get(f"/tasks/{task['task_id']}/timeline")).json()

        assert (found["task_id"], found["truncated"]) == (task["task_id"], False)
        assert [event["kind"] for event in found["events"]] == [
            *("submitted", "started", "planned", "chunk", "completed"),
        ]
        assert all(event.keys() >= BASE for event in found["events"])
        assert found["events"][0]["at"] == task["created_at"]

    with_server(body)


@pytest.mark.parametrize(("scope", "tenant"), [("admin", "acme"), ("read", "*")])
def test_the_last_words_of_a_worker_are_for_who_may_see_all_tenants(with_server, scope, tenant):
    """They may name paths of the machine."""

    async def body(server):
        acme = Tenant(server, "acme")
        path = f"/tasks/{(await acme.submit())['task_id']}/timeline"
        await crash(server, "cannot open /srv/models/tiny.bin")
        own = (await acme.get(path))["events"][-1]
        seen = await server.client.get(path, headers=bearer(add(server, scope, tenant=tenant)))
        full = seen.json()["events"][-1]

        assert (own["kind"], own["message"], own["code"]) == ("worker_died", BOOM.message, BOOM.code)
        assert (own["worker"], own["seconds"], own["chunk"]) == (2, 1.25, 0)
        assert "/srv" not in str(own)
        assert full == own | {"stderr": "cannot open /srv/models/tiny.bin"}

    with_server(body)


def test_the_timeline_of_another_tenants_task_is_not_there(with_server):
    async def body(server):
        acme, other = Tenant(server, "acme"), Tenant(server, "other")
        task_id = (await acme.submit())["task_id"]

        foreign = await other.ask("GET", f"/tasks/{task_id}/timeline")
        assert the_error(foreign) == (404, "not_found", None)
        assert (await other.ask("GET", "/tasks/01JNOSUCHTASK/timeline")).status_code == 404

    with_server(body)
