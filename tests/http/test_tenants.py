"""Tenants see their own tasks, make their own tasks, and learn nothing of those of others."""

import json

import pytest

from tests.http.test_rights import add, bearer
from tests.http_server import NOTHING, SOUND, SUBMIT, the_error


class Tenant:
    """A client of its own on the server, with a key of the tenant."""

    def __init__(self, server, tenant, *scopes, plan="PRO"):
        self.server = server
        self.headers = bearer(add(server, *(scopes or ("submit", "read")), tenant=tenant, plan=plan))

    async def ask(self, method, path, **options):
        headers = {**self.headers, **options.pop("headers", {})}
        return await self.server.client.request(method, path, headers=headers, **options)

    async def get(self, path):
        answer = await self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, headers=None, **fields):
        files = {"file": ("a.wav", SOUND, "audio/wav")}
        return await self.ask("POST", SUBMIT, files=files, data=fields, headers=headers or {})

    async def submit(self, **fields):
        answer = await self.post(**fields)
        assert answer.status_code == 202, answer.text
        return answer.json()


FOREIGN = [
    ("GET", "/tasks/{}", None),
    ("GET", "/tasks/{}?wait=1", None),
    ("GET", "/tasks/{}/result", None),
    ("GET", "/tasks/{}/audio", None),
    ("GET", "/tasks/{}/link", None),
    ("GET", "/tasks/{}/peaks", None),
    ("GET", "/tasks/{}/risk", None),
    ("GET", "/tasks/{}/events", None),
    ("DELETE", "/tasks/{}", None),
    ("DELETE", "/tasks/{}/result", None),
    ("PUT", "/tasks/{}/result", {"segments": []}),
    ("POST", "/tasks/{}/retry", None),
    ("PATCH", "/tasks/{}", {"priority": 1}),
]


@pytest.mark.parametrize("state", ["queued", "processing", "completed", "cancelled"])
def test_the_task_of_another_tenant_is_not_there(with_server, state):
    async def body(server):
        acme, other = Tenant(server, "acme"), Tenant(server, "other")
        task_id = (await acme.submit())["task_id"]
        if state in ("processing", "completed"):
            await server.plan(1)
        if state == "completed":
            await server.finish("Ask not.")
        if state == "cancelled":
            await acme.ask("DELETE", f"/tasks/{task_id}")
        before = await acme.get(f"/tasks/{task_id}")

        for method, path, patch in FOREIGN:
            foreign = await other.ask(method, path.format(task_id), json=patch)
            absent = await other.ask(method, path.format("01JNOSUCHTASK"), json=patch)

            assert the_error(foreign) == the_error(absent) == (404, "not_found", None), (method, path)
            assert foreign.text.replace(task_id, "X") == absent.text.replace("01JNOSUCHTASK", "X")
        assert await acme.get(f"/tasks/{task_id}") == before

    with_server(body)


def test_the_task_of_another_tenant_is_not_there_by_the_older_api_either(with_server):
    async def body(server):
        acme, other = Tenant(server, "acme"), Tenant(server, "other")
        task_id = (await acme.submit())["task_id"]
        for method, path in [("GET", "/api/v1/status/{}"), ("DELETE", "/api/v1/transcribe/{}")]:
            foreign = await other.ask(method, path.format(task_id))
            absent = await other.ask(method, path.format("01JNOSUCHTASK"))

            assert (foreign.status_code, foreign.text) == (404, absent.text)
        assert (await acme.get(f"/tasks/{task_id}"))["status"] == "queued"

    with_server(body)


def test_a_list_shows_the_own_tasks_whatever_it_asks_for(with_server):
    async def body(server):
        acme, other, admin = Tenant(server, "acme"), Tenant(server, "other"), Tenant(server, "acme", "admin")
        mine = (await acme.submit())["task_id"]
        foreign = (await other.submit())["task_id"]

        async def ids(who, query=""):
            return [task["task_id"] for task in (await who.get(f"/tasks{query}"))["tasks"]]

        assert await ids(acme) == await ids(acme, "?tenant=acme") == [mine]
        for query in ("?tenant=other", f"?q={foreign}", "?cursor=2&tenant=other", "?tenant=*"):
            assert await ids(acme, query) == [], query
        assert await ids(admin) == [foreign, mine]
        assert await ids(admin, "?tenant=other") == [foreign]

    with_server(body)


def test_a_tenant_finds_and_changes_in_bulk_its_own_tasks_only(with_server):
    async def body(server):
        acme, other = Tenant(server, "acme"), Tenant(server, "other")
        mine, foreign = [(await tenant.submit())["task_id"] for tenant in (acme, other)]
        while await server.queue.index():
            pass
        found = await acme.get("/tasks?q=a.wav")
        named = await acme.ask("POST", "/tasks/bulk", json={"action": "cancel", "task_ids": [foreign]})
        theirs = {"action": "cancel", "filter": {"tenant": "other"}}
        filtered = await acme.ask("POST", "/tasks/bulk", json=theirs)
        every = await acme.ask("POST", "/tasks/bulk", json={"action": "cancel", "filter": {}})

        assert [task["task_id"] for task in found["tasks"]] == [mine]
        assert named.json()["refused"] == [{"task_id": foreign, "code": "not_found"}]
        assert (filtered.json()["done"], every.json()["done"]) == (0, 1)
        assert (await other.get(f"/tasks/{foreign}"))["status"] == "queued"

    with_server(body)


def test_an_idempotency_key_is_the_tenants_own(with_server):
    async def body(server):
        acme, other = Tenant(server, "acme"), Tenant(server, "other")
        first = await acme.post({"Idempotency-Key": "same"})
        foreign = await other.post({"Idempotency-Key": "same"}, language="de", model="tiny")
        again = await acme.post({"Idempotency-Key": "same"})

        assert [answer.status_code for answer in (first, foreign, again)] == [202, 202, 200]
        assert again.json()["task_id"] == first.json()["task_id"] != foreign.json()["task_id"]

    with_server(body)


def test_a_task_belongs_to_the_tenant_of_its_key(with_server):
    async def body(server):
        acme, admin = Tenant(server, "acme"), Tenant(server, "acme", "admin")
        every = Tenant(server, "*")
        assert (await acme.submit())["tenant"] == "acme"
        assert (await acme.submit(tenant="acme"))["tenant"] == "acme"
        assert (await admin.submit())["tenant"] == "acme"
        assert (await admin.submit(tenant="other"))["tenant"] == "other"
        assert (await every.submit())["tenant"] == "default"
        assert (await every.submit(tenant="other"))["tenant"] == "other"

    with_server(body)


def test_a_task_for_another_tenant_is_refused_and_leaves_nothing(with_server):
    async def body(server):
        acme = Tenant(server, "acme")
        for tenant in ("other", "default", "ACME"):
            assert the_error(await acme.post(tenant=tenant)) == (403, "forbidden", "tenant")
        path = str(server.allowed / "a.wav")
        answer = await acme.ask("POST", SUBMIT, json={"audio_path": path, "tenant": "other"})
        assert the_error(answer) == (403, "forbidden", "tenant")
        assert await server.left() == NOTHING

    with_server(body)


@pytest.mark.parametrize(
    ("fields", "priority"),
    [({}, 5), ({"plan": "FREE"}, 1), ({"priority": "-7"}, -7), ({"priority": "5", "plan": "PAYG"}, 5)],
)
def test_a_task_has_the_priority_of_its_keys_plan_or_a_lower_one(with_server, fields, priority):
    async def body(server):
        assert (await Tenant(server, "acme").submit(**fields))["priority"] == priority

    with_server(body)


@pytest.mark.parametrize(("fields", "param"), [({"priority": "6"}, "priority"), ({"plan": "PAYG"}, "plan")])
def test_a_task_cannot_raise_itself_above_its_keys_plan(with_server, fields, param):
    async def body(server):
        assert the_error(await Tenant(server, "acme").post(**fields)) == (403, "forbidden", param)
        assert await server.left() == NOTHING
        assert (await Tenant(server, "acme", "admin").submit(**fields))["priority"] > 5

    with_server(body)


@pytest.mark.parametrize(("fields", "priority"), [({}, 5), ({"plan": "PAYG"}, 10), ({"priority": "99"}, 99)])
def test_a_task_of_an_admin_has_the_priority_of_its_keys_plan_or_any_other(with_server, fields, priority):
    async def body(server):
        assert (await Tenant(server, "acme", "admin").submit(**fields))["priority"] == priority

    with_server(body)


@pytest.mark.parametrize("key", [("*", "submit"), ("*", "admin"), ("other", "admin")])
def test_a_key_for_several_tenants_leaves_each_its_plan(with_server, key):
    """It overwrote the plan of the tenant that it made a task of."""

    async def body(server):
        await Tenant(server, "acme", plan="PAYG").submit()
        several = Tenant(server, *key, plan="FREE")
        await several.submit(tenant="acme")
        await several.submit(tenant="new")
        assert [await plan_of(server, tenant) for tenant in ("acme", "new")] == ["PAYG", None]

        await several.submit(tenant="acme", plan="FREE")
        assert await plan_of(server, "acme") == "FREE"

    with_server(body)


async def plan_of(server, tenant):
    """That which is remembered."""
    asked = "select max(plan) from tenant where name = ?"
    return (await server.db.read(lambda conn: conn.execute(asked, (tenant,)).fetchone()))[0]


def test_a_queued_task_cannot_be_raised_above_its_keys_plan(with_server):
    async def body(server):
        acme = Tenant(server, "acme")
        path = f"/tasks/{(await acme.submit())['task_id']}"

        assert the_error(await acme.ask("PATCH", path, json={"priority": 6})) == (
            403,
            "forbidden",
            "priority",
        )
        assert (await acme.get(path))["priority"] == 5
        assert (await acme.ask("PATCH", path, json={"priority": 5})).status_code == 200

    with_server(body)


def test_statistics_are_of_the_own_tasks(with_server):
    async def body(server):
        acme, other, admin = Tenant(server, "acme"), Tenant(server, "other"), Tenant(server, "acme", "admin")
        await other.submit()
        await server.plan(1)
        await server.finish("Ask not.")
        await other.submit(run_at="2999-01-01T00:00:00Z")
        before = await acme.get("/stats")
        await acme.submit()
        after = await acme.get("/stats")

        assert (before["total"], before["delayed"], before["success_rate"]) == (0, 0, None)
        assert before["throughput"] == {"tasks_per_minute": 0, "audio_seconds_per_second": 0.0}
        assert before["wait_seconds"] == {"p50": None, "p95": None}
        assert before["oldest_queued_seconds"] is None
        assert (after["total"], after["queued"]) == (1, 1)
        assert before["depth"]["by_tenant"] == before["depth"]["by_priority"] == []
        assert after["depth"]["by_tenant"] == [{"tenant": "acme", "queued": 1, "processing": 0}]
        assert (await other.get("/stats"))["throughput"]["tasks_per_minute"] == 1
        assert (await admin.get("/stats"))["total"] == 3

    with_server(body)


def test_who_works_for_others_on_what_is_not_told(with_server, monkeypatch):
    async def body(server):
        acme, other = Tenant(server, "acme"), Tenant(server, "other")
        task_id = (await acme.submit())["task_id"]
        (worker,) = server.services.pool.workers()
        busy = type(worker)(**{**fields_of(worker), "state": "busy", "task_id": task_id, "model": "tiny.en"})
        monkeypatch.setattr(server.services.pool, "workers", lambda: [busy])

        for path in ("/workers", "/stats"):
            (mine,), (foreign,) = [(await who.get(path))["workers"] for who in (acme, other)]
            assert (mine["task_id"], mine["model"]) == (task_id, "tiny.en")
            assert (foreign["task_id"], foreign["model"], foreign["state"]) == (None, None, "busy")

    with_server(body, workers=1)


def fields_of(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_a_websocket_tells_of_the_own_tasks_only_whatever_it_subscribes_to(with_server):
    async def body(server):
        acme, other = Tenant(server, "acme"), Tenant(server, "other")
        async with server.websocket(additional_headers=acme.headers) as socket:
            assert json.loads(await socket.recv())["type"] == "stats"
            foreign = (await other.submit())["task_id"]
            await socket.send(json.dumps({"subscribe": [foreign]}))
            await server.plan(1)
            await server.finish("Ask not.")
            mine = (await acme.submit())["task_id"]
            await socket.send(json.dumps({"subscribe": [mine]}))
            await socket.send("?")  # answered behind them
            heard = []
            while not heard or json.loads(heard[-1])["type"] != "error":
                heard.append(await socket.recv())
            await acme.ask("DELETE", f"/tasks/{mine}")
            while mine not in heard[-1]:
                heard.append(await socket.recv())

        assert foreign not in "".join(heard)
        assert "Ask not." not in "".join(heard)
        assert {json.loads(text)["total"] for text in heard if json.loads(text)["type"] == "stats"} <= {0, 1}

    with_server(body)
