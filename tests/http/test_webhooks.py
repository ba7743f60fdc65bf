"""`callback_url` of a submission, and what an operator sees and does of what was told."""

import pytest

from tests.http_server import refused, the_error

HOOK = "https://hooks.example/T0/s3cr3t?key=s3cr3t"
PLACE = "https://hooks.example"


async def told(server, **query):
    answer = await server.get("/admin/webhooks", **query)
    assert answer.status_code == 200, answer.text
    return answer.json()["deliveries"]


async def cancelled(server, **fields):
    task = await server.submit(callback_url=HOOK, **fields)
    await server.client.delete(f"/tasks/{task['task_id']}")
    return task["task_id"]


def test_a_submission_may_name_who_is_told_of_its_end(with_server):
    async def body(server):
        by_form = (await server.post(callback_url=HOOK)).json()
        by_json = (await server.post_json(callback_url=HOOK)).json()
        await server.submit()
        for task in (by_form, by_json):
            await server.client.delete(f"/tasks/{task['task_id']}")

        assert [one["task_id"] for one in await told(server)] == [by_json["task_id"], by_form["task_id"]]

    with_server(body)


@pytest.mark.parametrize(
    "url",
    [
        "hooks.example",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "https://",
        "https://user:pass@hooks.example/",
        "http://127.0.0.2:8002/admin/clear",  # 127.0.0.1 is allowed to this server
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.1.2.3/",
        "https://hooks.example/" + "x" * 5000,
        "https://hooks.example/\x00",
    ],
)
def test_a_callback_that_would_never_be_called_is_refused_and_nothing_is_kept(with_idle_server, url):
    async def body(server):
        for answer in (await server.post(callback_url=url), await server.post_json(callback_url=url)):
            await refused(server, answer, 422, "invalid_field", "callback_url")

    with_idle_server(body)


def test_an_empty_callback_of_a_form_is_none(with_server):
    async def body(server):
        task = (await server.post(callback_url="")).json()
        await server.client.delete(f"/tasks/{task['task_id']}")

        assert await told(server) == []

    with_server(body)


def test_another_callback_makes_another_body_of_an_idempotency_key(with_server):
    async def body(server):
        key = {"Idempotency-Key": "k"}
        assert (await server.post(callback_url=HOOK, headers=key)).status_code == 202
        assert (await server.post(callback_url=HOOK, headers=key)).status_code == 200
        other = await server.post(callback_url=f"{HOOK}2", headers=key)
        assert the_error(other) == (422, "idempotency_conflict", "Idempotency-Key")

    with_server(body)


def test_an_operator_sees_what_was_told_and_no_secret_of_an_address(with_server):
    async def body(server):
        task_id = await cancelled(server)

        answer = await server.get("/admin/webhooks")
        (one,) = answer.json()["deliveries"]
        assert one.pop("id").startswith("msg_")
        assert one.pop("created_at") == one.pop("next_attempt_at")
        assert one == {
            "kind": "webhook",
            "event": "task.cancelled",
            "task_id": task_id,
            "tenant": "default",
            "to": PLACE,
            "state": "waiting",
            "attempts": 0,
            "ended_at": None,
            "answer": None,
            "problem": None,
        }
        assert "s3cr3t" not in answer.text
        assert "s3cr3t" not in (await server.get(f"/tasks/{task_id}")).text

    with_server(body)


def test_deliveries_are_listed_page_by_page_and_by_state_task_and_tenant(with_server):
    async def body(server):
        tasks = [await cancelled(server, tenant=f"t{n % 2}") for n in range(3)]
        await server.outbox.delivered((await server.outbox.due([], {}, 1, 1))[0], 200)

        async def ids(**query):
            return [one["task_id"] for one in await told(server, **query)]

        assert await ids(state="delivered") == [tasks[0]]
        assert await ids(state="waiting,dead") == [tasks[2], tasks[1]]
        assert await ids(tenant="t0") == [tasks[2], tasks[0]]
        assert await ids(task_id=tasks[1]) == [tasks[1]]
        page = (await server.get("/admin/webhooks", limit=2)).json()
        assert await ids(limit=2, cursor=page["next_cursor"]) == [tasks[0]]

    with_server(body)


@pytest.mark.parametrize(("name", "value"), [("state", "lost"), ("limit", "0"), ("cursor", "x")])
def test_a_wrong_filter_is_refused_by_its_name(with_idle_server, name, value):
    async def body(server):
        answer = await server.get("/admin/webhooks", **{name: value})
        assert the_error(answer) == (422, "invalid_field", name)

    with_idle_server(body)


def test_a_delivery_is_sent_again_on_demand(with_server):
    async def body(server):
        await cancelled(server)
        await server.outbox.disable(HOOK)
        (dead,) = await told(server)
        assert (dead["state"], dead["answer"]) == ("dead", 410)

        answer = await server.client.post(f"/admin/webhooks/{dead['id']}/resend")
        assert answer.status_code == 202
        assert [answer.json()] == await told(server, state="waiting")
        assert answer.json()["id"] == dead["id"]

    with_server(body)


def test_what_is_not_known_cannot_be_sent_again(with_idle_server):
    async def body(server):
        answer = await server.client.post("/admin/webhooks/msg_none/resend")
        assert the_error(answer) == (404, "not_found", None)

    with_idle_server(body)
