"""GET /usage: what tenants had done for them, to those who may see it."""

import pytest

from tests.http.test_rights import add, bearer
from tests.http.test_tenants import Tenant
from tests.http_server import the_error


async def done(server, tenant):
    await tenant.submit()
    await server.plan(1)
    await server.finish("Ask not.")


def test_a_tenant_sees_its_own_usage_and_who_may_see_all_sees_all(with_server):
    async def body(server):
        acme, other = Tenant(server, "acme"), Tenant(server, "other")
        for tenant in (acme, acme, other):
            await done(server, tenant)
        own = await acme.get("/usage?tenant=other&group_by=tenant")
        everyone = bearer(add(server, "read", tenant="*"))
        all_of_them = (await server.client.get("/usage?group_by=tenant", headers=everyone)).json()

        assert [(row["tenant"], row["completed"]) for row in own["usage"]] == [("acme", 2)]
        assert own["total"] == {
            "audio_seconds": 20.0,
            "compute_seconds": 0.0,
            "completed": 2,
            "failed": 0,
            "cancelled": 0,
        }
        assert [(row["tenant"], row["audio_seconds"]) for row in all_of_them["usage"]] == [
            ("acme", 20.0),
            ("other", 10.0),
        ]

    with_server(body)


def test_the_last_thirty_days_are_shown_unless_others_are_asked_for(with_server):
    async def body(server):
        found = (await server.client.get("/usage?to=2026-11-30")).json()
        assert (found["from"], found["to"]) == ("2026-11-01", "2026-11-30")

        found = (await server.client.get("/usage?to=0001-01-02&group_by=")).json()
        assert (found["from"], found["usage"], found["total"]["completed"]) == ("0001-01-01", [], 0)

    with_server(body)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=2026-11-02&to=2026-11-01", "from"),
        ("from=yesterday", "from"),
        ("to=2026-02-30", "to"),
        ("group_by=colour", "group_by"),
        ("from=2026-11-01&from=2026-11-02", "from"),
        ("from=null", "from"),
    ],
)
def test_what_is_no_span_of_days_is_refused(with_idle_server, query, field):
    async def body(server):
        status, _, named = the_error(await server.client.get(f"/usage?{query}"))
        assert (status, named) == (422, field)

    with_idle_server(body)
