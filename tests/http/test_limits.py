"""More than a plan allows is refused, as early as the tenant is known, and told when to come back."""

import pytest

from tests.http.test_rights import add, bearer
from tests.http_server import SUBMIT, the_error
from whisperd.config import Config, PlanLimits, TenantLimits
from whisperd.machine import rules
from whisperd.task import Limits


def plans(**limits):
    return {"limits": lambda tenant, plan: limits.get(plan, Limits())}


def a_head(path=SUBMIT, **headers):
    """Of a submission whose body does not come."""
    kind = {"Content-Type": "multipart/form-data; boundary=f", "Content-Length": "999999"}
    fields = {"Host": "localhost", "Connection": "close", **kind, **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def told_when(answer):
    return 1 <= int(answer.headers["retry-after"]) <= 120


def test_a_tenant_with_as_many_tasks_in_line_as_its_plan_allows_is_refused(with_server):
    async def body(server):
        await server.submit(tenant="acme", plan="FREE")
        before = await server.left()
        refused = await server.post(tenant="acme")

        assert the_error(refused) == (429, "tenant_queue_full", None)
        assert told_when(refused)
        assert await server.left() == before
        await server.submit(tenant="other")

    with_server(body, **plans(FREE=Limits(queued=1)))


def test_a_tenant_that_submits_too_often_is_refused(with_server):
    async def body(server):
        for _ in range(2):
            await server.submit(tenant="acme", plan="FREE")
        before = await server.left()
        refused = await server.post(tenant="acme")

        assert the_error(refused) == (429, "rate_limited", None)
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert await server.left() == before

    with_server(body, **plans(FREE=Limits(per_minute=2)))


@pytest.mark.parametrize(
    ("limits", "code"), [(Limits(queued=1), b"tenant_queue_full"), (Limits(per_minute=1), b"rate_limited")]
)
def test_with_a_key_the_refusal_comes_before_the_body(with_server, limits, code):
    async def body(server):
        key = bearer(add(server, "submit", tenant="acme", plan="FREE"))
        assert (await server.post(headers=key)).status_code == 202
        head = f"POST {SUBMIT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 999999\r\n"
        head += (
            f"Authorization: {key['Authorization']}\r\nContent-Type: multipart/form-data; boundary=f\r\n\r\n"
        )
        status, headers, answer = await server.exchange(head.encode())

        assert status == 429
        assert code in answer
        assert "retry-after" in {name.lower() for name in headers}

    with_server(body, **plans(FREE=limits))


@pytest.mark.parametrize(
    "path",
    [
        *(SUBMIT, "/api/v1/transcribe", "/v1/audio/transcriptions", "/v1/audio/translations"),
        *("/asr", "/detect-language"),
    ],
)
def test_the_plan_of_a_key_counts_whatever_is_called(with_server, path):
    async def body(server):
        key = bearer(add(server, "submit", tenant="acme", plan="FREE"))
        assert (await server.post(headers=key)).status_code == 202

        assert (await server.exchange(a_head(path, **key)))[0] == 429

    with_server(body, **plans(FREE=Limits(per_minute=1)))


@pytest.mark.parametrize("fields", [{}, {"plan": "FREE"}, {"plan": "PAYG", "priority": "0"}])
def test_no_submission_changes_the_plan_of_its_key(with_server, fields):
    async def body(server):
        key = bearer(add(server, "submit", tenant="acme", plan="PRO"))
        assert (await server.post(headers=key, **fields)).status_code == 202

        assert (await server.queue.limits("acme")).queued == 3

    limits = {"FREE": Limits(queued=1), "PRO": Limits(queued=3), "PAYG": Limits()}
    with_server(body, **plans(**limits))


def test_a_full_queue_refuses_before_the_body(with_server):
    async def body(server):
        await server.submit()
        status, headers, answer = await server.exchange(a_head())

        assert (status, b"queue_full" in answer) == (503, True)
        assert "retry-after" in {name.lower() for name in headers}

    with_server(body, max_queued=1)


def test_a_repeat_under_an_idempotency_key_is_answered_though_the_queue_is_full(with_server):
    async def body(server):
        first = await server.post(headers={"Idempotency-Key": "k"})
        again = await server.post(headers={"Idempotency-Key": "k"})

        assert (first.status_code, again.status_code) == (202, 200)

    with_server(body, max_queued=1)


async def cancelled(server, **fields):
    task_id = (await server.submit(**fields))["task_id"]
    assert (await server.client.delete(f"/tasks/{task_id}")).status_code == 200
    return task_id


async def refused_again(server, task_id):
    """The answer to its retry, which changed nothing."""
    before = await server.task(task_id)
    refused = await server.client.post(f"/tasks/{task_id}/retry")
    assert told_when(refused)
    assert await server.task(task_id) == before
    return the_error(refused)


def test_a_retry_needs_the_room_that_a_submission_does(with_server):
    async def body(server):
        task_id = await cancelled(server, tenant="acme", plan="FREE")
        await server.submit(tenant="acme")

        assert await refused_again(server, task_id) == (429, "tenant_queue_full", None)

    with_server(body, **plans(FREE=Limits(queued=1)))


def test_a_full_queue_refuses_a_retry(with_server):
    async def body(server):
        task_id = await cancelled(server)
        await server.submit()

        assert await refused_again(server, task_id) == (503, "queue_full", None)

    with_server(body, max_queued=1)


def test_a_retry_counts_as_a_submission(with_server):
    async def body(server):
        task_id = await cancelled(server, tenant="acme", plan="FREE")
        assert (await server.client.post(f"/tasks/{task_id}/retry")).status_code == 202
        await server.client.delete(f"/tasks/{task_id}")

        assert await refused_again(server, task_id) == (429, "rate_limited", None)

    with_server(body, **plans(FREE=Limits(per_minute=2)))


def test_what_cannot_be_retried_costs_nothing_of_the_minute(with_server):
    async def body(server):
        task_id = (await server.submit(tenant="acme", plan="FREE"))["task_id"]
        assert (await server.client.post(f"/tasks/{task_id}/retry")).status_code == 409

        await server.submit(tenant="acme")

    with_server(body, **plans(FREE=Limits(per_minute=2)))


def test_a_retry_goes_by_the_plan_of_its_key(with_server):
    async def body(server):
        task_id = await cancelled(server, tenant="acme", plan="PAYG")
        key = bearer(add(server, "submit", "read", tenant="acme", plan="FREE"))
        assert (await server.post(headers=key)).status_code == 202
        refused = await server.client.post(f"/tasks/{task_id}/retry", headers=key)

        assert the_error(refused) == (429, "tenant_queue_full", None)

    with_server(body, **plans(FREE=Limits(queued=1), PAYG=Limits()))


@pytest.mark.parametrize("plan", ["FREE", "PRO", "PAYG"])
def test_how_often_a_tenant_may_submit_is_asked_where_any_plan_says_it(plan):
    limits = TenantLimits(**{plan: PlanLimits(per_minute=3)})

    assert rules(Config(limits=limits)).paced
    assert not rules(Config()).paced
