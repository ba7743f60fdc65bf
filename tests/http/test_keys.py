"""Keys over HTTP: made and shown once, listed without, revoked; and nobody locks himself out."""

import asyncio

import pytest

from tests.http.test_rights import add, bearer, keys_file
from tests.http_server import the_error
from whisperd import keys


async def made(server, **wanted):
    answer = await server.client.post("/admin/keys", json=wanted)
    server.client.cookies.clear()
    return answer


@pytest.fixture
def with_admin(with_server):
    def run(body):
        async def as_admin(server):
            server.client.headers.update(bearer(add(server, "admin")))
            try:
                await body(server)
            finally:
                del server.client.headers["Authorization"]

        with_server(as_admin)

    return run


def test_a_key_is_shown_once_and_then_never(with_admin):
    async def body(server):
        answer = await made(server, name="phone", tenant="acme", plan="PRO", scopes=["read"])
        key = answer.json()
        listed = await server.client.get("/admin/keys")

        assert answer.status_code == 201
        assert "set-cookie" not in answer.headers
        assert (key["name"], key["tenant"], key["plan"], key["scopes"]) == ("phone", "acme", "PRO", ["read"])
        secret = key.pop("key")
        assert listed.json()["keys"][1] == key
        assert secret not in listed.text + keys_file(server).read_text()
        assert "sha256" not in listed.text
        assert (await server.client.get("/stats", headers=bearer(secret))).status_code == 200

    with_admin(body)


def test_what_is_not_said_of_a_key_is_as_the_command_has_it(with_admin):
    async def body(server):
        key = (await made(server)).json()
        assert (key["tenant"], key["plan"], key["scopes"]) == ("default", "FREE", ["submit", "read"])
        assert (key["status"], key["expires_at"], key["revoked_at"]) == ("active", None, None)

    with_admin(body)


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"tenant": "a b"}, "tenant"),
        ({"tenant": ""}, "tenant"),
        ({"plan": "GOLD"}, "plan"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"name": "x" * 201}, "name"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2999-01-01"}, "expires_at"),
        ({"sha256": "0" * 64}, "sha256"),
    ],
)
def test_a_wrong_key_is_not_made(with_admin, wanted, param):
    async def body(server):
        answer = await made(server, **wanted)
        assert (answer.status_code, the_error(answer)[2]) == (422, param)
        assert len(keys.read(keys_file(server))) == 1

    with_admin(body)


def test_a_key_is_revoked_and_refused_at_once(with_admin):
    async def body(server):
        key = (await made(server)).json()
        for _ in range(2):
            answer = await server.client.delete(f"/admin/keys/{key['id']}")
            assert (answer.status_code, answer.json()["status"]) == (200, "revoked")
        assert (await server.client.get("/stats", headers=bearer(key["key"]))).status_code == 401
        assert the_error(await server.client.delete("/admin/keys/key_0")) == (404, "not_found", None)

    with_admin(body)


def test_the_last_key_of_an_admin_is_kept(with_admin):
    async def body(server):
        own = (await server.client.get("/admin/keys")).json()["keys"][0]["id"]
        add(server, "submit", "read", tenant=keys.EVERY)
        assert the_error(await server.client.delete(f"/admin/keys/{own}")) == (409, "last_admin", None)
        assert (await server.client.get("/stats")).status_code == 200

        other = (await made(server, scopes=["admin"])).json()
        assert (await server.client.delete(f"/admin/keys/{own}")).status_code == 200
        assert (await server.client.get("/stats")).status_code == 401
        assert (await server.client.get("/stats", headers=bearer(other["key"]))).status_code == 200

    with_admin(body)


def test_of_two_that_revoke_each_other_one_stays(with_admin):
    async def body(server):
        own = (await server.client.get("/admin/keys")).json()["keys"][0]["id"]
        other = (await made(server, scopes=["admin"])).json()["id"]
        answers = await asyncio.gather(*(server.client.delete(f"/admin/keys/{id}") for id in (own, other)))
        assert 200 in [answer.status_code for answer in answers]
        assert len([key for key in keys.read(keys_file(server)) if key.revoked_at is None]) == 1

    with_admin(body)


def test_the_first_key_signs_in_who_makes_it(with_server):
    async def body(server):
        answer = await server.client.post("/admin/keys", json={"scopes": ["admin"]})
        assert answer.status_code == 201
        cookie = {"Cookie": answer.headers["set-cookie"].split(";")[0]}
        server.client.cookies.clear()
        assert (await server.client.get("/stats")).status_code == 401
        assert (await server.client.get("/admin/keys", headers=cookie)).status_code == 200

    with_server(body)


@pytest.mark.parametrize("wanted", [{}, {"scopes": ["admin"], "expires_at": "2999-01-01T00:00:00Z"}])
def test_a_first_key_that_locks_out_who_makes_it_is_not_made(with_server, wanted):
    async def body(server):
        assert the_error(await made(server, **wanted)) == (409, "no_admin", "scopes")
        assert (await server.client.get("/stats")).status_code == 200
        assert not keys_file(server).exists()

    with_server(body)


def test_one_key_too_many_is_refused_and_the_others_hold(with_admin, monkeypatch):
    async def body(server):
        monkeypatch.setattr(keys, "MAX_BYTES", keys_file(server).stat().st_size)
        assert the_error(await made(server)) == (409, "too_many_keys", None)
        assert (await server.client.get("/stats")).status_code == 200

    with_admin(body)


def test_a_file_that_cannot_be_written_is_said_so(with_admin):
    async def body(server):
        keys_file(server).with_name(".keys.json.part").mkdir()
        assert the_error(await made(server)) == (503, "keys_unusable", None)
        assert (await server.client.get("/stats")).status_code == 200

    with_admin(body)
