"""The dashboard's login: what its cookie may do, for whom, how long, and from which pages."""

import asyncio
import contextlib
import itertools
import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.http.test_rights import FUTURE, PAST, add, bearer, keys_file, revoke, walk
from tests.http_server import NOTHING, a_request, the_error, until
from tests.rules import RULES, ruled
from whisperd import keys
from whisperd.sessions import MOST_OF_A_KEY, Sessions

STRANGER = {
    "required": True,
    "signed_in": False,
    "tenant": None,
    "plan": None,
    "scopes": [],
    "expires_at": None,
}


async def sign_in(server, secret, **headers):
    """Its cookie, as a header; not kept by the client, so that each request says what it brings."""
    answer = await server.client.post("/session", json={"key": secret}, headers=headers)
    server.client.cookies.clear()
    assert answer.status_code == 200, answer.text
    return {"Cookie": answer.headers["set-cookie"].split(";")[0]}


def own_page(server):
    return {"Origin": f"http://127.0.0.1:{server.port}"}


async def status(server, *headers, method="GET", path="/stats"):
    merged = {name: value for header in headers for name, value in header.items()}
    return (await server.client.request(method, path, headers=merged)).status_code


# --- signing in and out ---


def test_a_browser_that_shows_a_key_is_known_by_a_cookie_from_then_on(with_server):
    async def body(server):
        key = add(server, "read", tenant="acme", plan="PRO")
        assert (await server.client.get("/session")).json() == STRANGER
        cookie = await sign_in(server, key)

        shown = (await server.client.get("/session", headers=cookie)).json()

        end = datetime.fromisoformat(shown.pop("expires_at")) - datetime.now(UTC)
        assert shown == {
            "required": True,
            "signed_in": True,
            "tenant": "acme",
            "plan": "PRO",
            "scopes": ["read"],
        }
        assert timedelta(hours=167.9) < end <= timedelta(hours=168)
        assert await status(server, cookie) == 200
        assert await status(server) == 401

    with_server(body)


def test_no_script_and_no_other_site_gets_the_cookie_and_it_holds_no_key(with_server):
    async def body(server):
        key = add(server, "read")
        answer = await server.client.post("/session", json={"key": key})
        cookie = answer.headers["set-cookie"]

        assert re.match(r"whisperd_session=[A-Za-z0-9_-]{43}; ", cookie)
        attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"httponly", "samesite=strict", "path=/", "max-age=604800"} <= attributes
        assert "secure" not in attributes
        assert not any(attribute.startswith("domain") for attribute in attributes)
        assert key not in cookie + answer.text
        assert answer.headers["cache-control"] == "no-store"

    with_server(body)


def test_by_tls_the_cookie_is_never_sent_without(with_server):
    async def body(server):
        content = json.dumps({"key": add(server, "read")}).encode()
        request = a_request(content, "X-Forwarded-Proto: https", target="/session", kind="application/json")
        _, headers, _ = await server.exchange(request)
        assert "; Secure" in headers["set-cookie"]

    with_server(body)


def test_signing_out_ends_the_session_wherever_its_cookie_is(with_server):
    async def body(server):
        cookie, other = [await sign_in(server, add(server, "read")) for _ in range(2)]
        answer = await server.client.delete("/session", headers={**cookie, **own_page(server)})

        assert answer.status_code == 204
        assert 'whisperd_session=""; ' in answer.headers["set-cookie"]
        assert "Max-Age=0" in answer.headers["set-cookie"]
        assert await status(server, cookie) == 401
        assert await status(server, other) == 200

    with_server(body)


def test_without_keys_nobody_is_asked_to_sign_in(with_server):
    async def body(server):
        shown = (await server.client.get("/session")).json()
        assert (shown["required"], shown["signed_in"]) == (False, False)
        assert shown["scopes"] == ["submit", "read", "admin"]
        answer = await server.client.post("/session", json={"key": "whd_" + "A" * 43})
        assert the_error(answer) == (401, "invalid_api_key", None)
        assert "set-cookie" not in answer.headers

    with_server(body)


@pytest.mark.parametrize("kind", ["unknown", "revoked", "expired"])
def test_a_key_that_does_not_hold_signs_nobody_in(with_server, kind):
    async def body(server):
        secret = add(server, "admin", expires_at=PAST + timedelta(days=1) if kind == "expired" else None)
        if kind == "revoked":
            add(server, "read")
            revoke(server, secret)
        answer = await server.client.post("/session", json={"key": "x" if kind == "unknown" else secret})

        assert the_error(answer) == (401, "invalid_api_key", None)
        assert "set-cookie" not in answer.headers
        assert secret not in answer.text

    with_server(body)


# --- what a session may do ---


@pytest.mark.parametrize("scopes", [("read",), ("submit",), ("admin",)])
def test_a_session_has_the_rights_of_its_key_and_no_others(with_server, scopes):
    async def body(server):
        key = add(server, *scopes)
        cookie = await sign_in(server, key)
        for method, path in walk(server.app.routes):
            if method != "WS" and RULES[method, ruled(path)] != "public" and not path.endswith("events"):
                path = path.replace("{task_id}", "01JNOSUCHTASK").replace("{", "x").replace("}", "")
                by_key = await status(server, bearer(key), method=method, path=path)
                assert await status(server, cookie, own_page(server), method=method, path=path) == by_key
        assert await server.left() == NOTHING

    with_server(body)


def test_a_session_ends_with_its_key_at_once(with_server):
    async def body(server):
        key = add(server, "read")
        add(server, "admin")
        cookie = await sign_in(server, key)
        assert await status(server, cookie) == 200
        revoke(server, key)
        assert await status(server, cookie) == 401
        assert (await server.client.get("/session", headers=cookie)).json() == STRANGER

    with_server(body)


@pytest.mark.parametrize(("of_key", "seconds"), [(None, 168 * 3600), (timedelta(hours=1), 3600)])
def test_a_session_ends_at_its_time_and_never_after_its_key(with_server, of_key, seconds):
    now = [PAST.timestamp()]

    async def body(server):
        cookie = await sign_in(server, add(server, "read", expires_at=of_key and PAST + of_key))
        add(server, "read", expires_at=FUTURE)
        now[0] += seconds - 1
        assert await status(server, cookie) == 200
        now[0] += 1
        assert await status(server, cookie) == 401

    with_server(body, now=lambda: now[0])


def test_a_header_wins_over_the_cookie(with_server):
    async def body(server):
        admin, read = add(server, "admin"), add(server, "read")
        cookie = await sign_in(server, admin)
        assert await status(server, cookie, bearer(read), path="/admin/backups") == 403
        assert await status(server, cookie, {"X-API-Key": "wrong"}) == 401
        assert await status(server, cookie, {"Authorization": "Basic YTpi"}) == 401
        with pytest.raises(InvalidStatus):
            await server.websocket(
                subprotocols=["bearer.wrong"], additional_headers={**cookie, **own_page(server)}
            ).__aenter__()

    with_server(body)


@pytest.mark.parametrize("value", ["{}x", "", "{}, {}", '"{}"', "{}\xff"])
def test_what_is_no_session_opens_nothing(with_server, value):
    async def body(server):
        _, _, token = (await sign_in(server, add(server, "read")))["Cookie"].partition("=")
        for header in (f"Cookie: whisperd_session={value.format(token, token)}", f"Cookie: other={token}"):
            got, *_ = await server.exchange(a_request(b"", header, target="/stats", method="GET", kind=None))
            assert got == 401, header

    with_server(body)


def test_a_second_cookie_that_somebody_else_set_signs_nobody_in(with_server):
    async def body(server):
        key, theirs = add(server, "read"), add(server, "read", tenant="theirs")
        ours, planted = await sign_in(server, key), await sign_in(server, theirs)
        both = f"{planted['Cookie']}; a=b; {ours['Cookie']}"
        assert await status(server, {"Cookie": both}) == 401
        assert await status(server, {"Cookie": f"{ours['Cookie']}; a=b; {ours['Cookie']}"}) == 200

    with_server(body)


# --- from where ---

ORIGINS = {
    "none": None,
    "own": "http://127.0.0.1:{port}",
    "own, by a proxy with TLS": "https://127.0.0.1:{port}",
    "another port": "http://127.0.0.1:1",
    "another site": "https://evil.example",
    "an allowed site": "https://app.example.org",
    "opaque": "null",
}
SITES = [None, "same-origin", "same-site", "cross-site", "none"]


def serves(method, origin, site):
    """Whether a cookie counts. The rule, told another way than the code tells it."""
    if site in ("same-site", "cross-site"):
        return False
    if method == "WS":
        return origin.startswith("own") and site in (None, "same-origin")
    if site == "same-origin":
        return True
    if site == "none":  # an address that somebody typed, which no page made him do
        return method in ("GET", "HEAD")
    return origin.startswith("own") or (origin == "none" and method in ("GET", "HEAD"))


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "DELETE", "WS"])
def test_a_cookie_counts_only_for_pages_of_our_own(with_server, method):
    async def body(server):
        key = add(server, "admin")
        cookie = await sign_in(server, key)
        for origin, site in itertools.product(ORIGINS, SITES):
            headers = {
                "Origin": ORIGINS[origin] and ORIGINS[origin].format(port=server.port),
                "Sec-Fetch-Site": site,
            }
            headers = {name: value for name, value in headers.items() if value is not None}

            by_cookie = await outcome(server, method, {**headers, **cookie})
            by_key = await outcome(server, method, {**headers, **cookie, **bearer(key)})

            assert by_cookie == (by_key if serves(method, origin, site) else 403), (origin, site)
            assert by_key in (101, 200, 404), (origin, site)
        assert server.listeners() == 0

    with_server(body, http={"allowed_origins": ("https://app.example.org",)})


async def outcome(server, method, headers):
    if method == "WS":
        try:
            async with server.websocket(additional_headers=headers):
                pass
        except InvalidStatus as refused:
            return refused.response.status_code
        await until(lambda: server.listeners() == 0)
        return 101
    path = {"GET": "/stats", "HEAD": "/stats", "POST": "/admin/pause"}.get(method, "/tasks/01JNOSUCHTASK")
    body = {"json": {"priority": 1}} if method == "PATCH" else {}
    return (await server.client.request(method, path, headers=headers, **body)).status_code


def test_a_page_elsewhere_is_told_that_it_may_not_use_the_login(with_server):
    async def body(server):
        cookie = await sign_in(server, add(server, "admin"))
        answer = await server.client.post(
            "/admin/pause", headers={**cookie, "Origin": "https://evil.example"}
        )
        assert the_error(answer) == (403, "cross_site", None)
        assert not server.services.pool.paused

    with_server(body)


@pytest.mark.parametrize("header", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_no_page_elsewhere_signs_its_visitors_in_or_out(with_server, header):
    async def body(server):
        key = add(server, "read")
        cookie = await sign_in(server, key)
        for answer in (
            await server.client.post("/session", json={"key": key}, headers=header),
            await server.client.delete("/session", headers={**cookie, **header}),
        ):
            assert the_error(answer) == (403, "cross_site", None)
            assert "set-cookie" not in answer.headers
        assert await status(server, cookie) == 200

    with_server(body)


def test_a_page_of_an_allowed_site_gets_no_cookie_read(with_server):
    async def body(server):
        cookie = await sign_in(server, add(server, "read"))
        answer = await server.client.get("/stats", headers={**cookie, "Origin": "https://app.example.org"})
        assert answer.status_code == 403
        assert "access-control-allow-credentials" not in answer.headers

    with_server(body, http={"allowed_origins": ("https://app.example.org",)})


# --- wrong keys ---


def test_after_ten_wrong_keys_an_address_has_to_wait_and_others_have_not(with_server):
    async def body(server):
        key = add(server, "read")

        async def tried(secret, client):
            content = json.dumps({"key": secret}).encode()
            return (await server.ask("/session", "POST", pieces=[content], client=client)).status_code

        assert [await tried(key, ("::1", 1)) for _ in range(11)] == [200] * 11
        assert [await tried("wrong", ("::1", n)) for n in range(11)] == [401] * 10 + [429]
        assert await tried(key, ("::1", 1)) == 429
        assert await tried("wrong", ("::2", 1)) == 429  # of the same network
        assert await tried(key, ("127.0.0.1", 1)) == 200
        assert await tried("wrong", ("unknown", 1)) == await tried("wrong", ("\xff", 1)) == 401
        assert len(server.services.wrong_keys._full_at) == 2

    with_server(body)


def test_who_has_to_wait_is_told_how_long(with_server):
    async def body(server):
        answers = [await server.client.post("/session", json={"key": "wrong"}) for _ in range(11)]
        assert the_error(answers[-1]) == (429, "rate_limited", None)
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 6
        assert "wrong keys" in answers[-1].text

    with_server(body)


# --- streams ---


def test_a_stream_is_opened_by_the_cookie_and_ends_when_its_browser_signs_out(with_server):
    async def body(server):
        cookie = await sign_in(server, add(server, "read", tenant=keys.EVERY))
        by = add(server, "submit")
        async with server.websocket(additional_headers={**cookie, **own_page(server)}) as socket:
            await socket.recv()
            await server.client.delete("/session", headers={**cookie, **own_page(server)})
            answer = await server.post(headers=bearer(by))
            assert answer.status_code == 202
            heard = []
            with contextlib.suppress(ConnectionClosedError):
                async for text in socket:
                    heard.append(text)
            assert socket.close_code == 1008
            assert "acme" not in "".join(heard)
        await until(lambda: server.listeners() == 0)

    with_server(body)


# --- what is kept ---


def sessions_of(server):
    return keys_file(server).with_name("sessions.json")


def test_sessions_outlive_a_restart_and_only_their_hashes_are_kept(with_server):
    async def body(server):
        cookie = await sign_in(server, add(server, "read"))
        token = cookie["Cookie"].partition("=")[2]
        assert token not in sessions_of(server).read_text()
        assert sessions_of(server).stat().st_mode & 0o777 == 0o600

        server.services.sessions = Sessions(sessions_of(server))

        assert await status(server, cookie) == 200

    with_server(body)


def test_what_was_signed_out_stays_so_after_a_restart(with_server):
    async def body(server):
        cookie = await sign_in(server, add(server, "read"))
        await server.client.delete("/session", headers={**cookie, **own_page(server)})
        server.services.sessions = Sessions(sessions_of(server))
        assert await status(server, cookie) == 401

    with_server(body)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"version":1,"sessions":[{}]}'])
def test_a_file_that_is_broken_signs_everybody_out_and_nobody_in(tmp_path, content):
    (tmp_path / "sessions.json").write_bytes(content)
    sessions = Sessions(tmp_path / "sessions.json")
    token = asyncio.run(sessions.begin("key_1", PAST, FUTURE))
    assert sessions.find(token, PAST)
    assert not sessions.find("", PAST)


def test_a_file_that_cannot_be_written_keeps_nobody_out(tmp_path):
    sessions = Sessions(tmp_path / "nosuch" / "sessions.json")
    token = asyncio.run(sessions.begin("key_1", PAST, FUTURE))
    assert sessions.find(token, PAST)


def test_the_oldest_of_a_key_makes_room_and_what_is_over_goes(tmp_path):
    async def body():
        sessions = Sessions(tmp_path / "sessions.json")
        other = await sessions.begin("key_2", PAST, FUTURE)
        tokens = [await sessions.begin("key_1", PAST, FUTURE) for _ in range(MOST_OF_A_KEY + 1)]
        assert [bool(sessions.find(token, PAST)) for token in tokens] == [False] + [True] * MOST_OF_A_KEY
        assert sessions.find(other, PAST)

        await sessions.begin("key_1", FUTURE, FUTURE + timedelta(1))
        assert len(sessions._all) == 1

    asyncio.run(body())
