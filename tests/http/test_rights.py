"""Who may make which call: every route against every kind of key, by the README's table."""

import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.http_server import NOTHING, SUBMIT, a_request, the_error, the_file, until
from tests.rules import RULES, ruled
from whisperd import keys
from whisperd.routes.call import Endpoint, Socket

PAST, FUTURE = datetime(2020, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)
EVERY_RIGHT = {"public", "read", "submit", "oversee", "admin"}
MAY = {  # kind of key: the rights that it has
    "none": {"public"},
    "wrong": {"public"},
    "revoked": {"public"},
    "expired": {"public"},
    "submit": {"public", "submit"},
    "read": {"public", "read"},
    "both": {"public", "read", "submit"},
    "of another tenant": {"public", "read", "submit"},
    "read of all": {"public", "read", "oversee"},
    "admin": EVERY_RIGHT,
}


def add(server, *scopes, tenant="acme", plan="PRO", expires_at=None):
    secret, key = keys.new_key(
        name="", tenant=tenant, plan=plan, scopes=scopes, now=PAST, expires_at=expires_at
    )
    keys.add(keys_file(server), key)
    return secret


def keys_file(server):
    return server.folder.parent / keys.FILE


def revoke(server, secret):
    key = keys.ring(keys_file(server)).find(secret)
    keys.revoke(keys_file(server), key.id, PAST)


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"} if secret else {}


def ring_of(server):
    """A key of each kind."""
    ring = {
        "none": None,
        "wrong": "whd_" + "A" * 43,
        "revoked": add(server, "admin"),
        "expired": add(server, "admin", expires_at=PAST + timedelta(days=1)),
        "submit": add(server, "submit"),
        "read": add(server, "read"),
        "both": add(server, "submit", "read", expires_at=FUTURE),
        "of another tenant": add(server, "submit", "read", tenant="other"),
        "read of all": add(server, "read", tenant=keys.EVERY),
        "admin": add(server, "admin"),
    }
    revoke(server, ring["revoked"])
    return ring


def walk(routes, prefix=""):
    """Every call there is, as (method, path); what is declared by no Call or Socket has the method ANY."""
    for route in routes:
        path = prefix + getattr(route, "path", "?")
        match route:
            case Route(endpoint=Endpoint(calls=calls)):
                yield from ((method, path) for method in calls)
            case WebSocketRoute(endpoint=endpoint) if isinstance(getattr(endpoint, "__self__", None), Socket):
                yield "WS", path
            case Mount(routes=inner) if inner:
                yield from walk(inner, path)
            case _:
                yield "ANY", path


def unruled(app):
    """What the application has and the table has not, or the other way round."""
    return {(method, ruled(path)) for method, path in walk(app.routes)} ^ RULES.keys()


def test_every_route_has_a_rule_and_every_rule_a_route(with_idle_server):
    async def body(server):
        assert unruled(server.app) == set()

    with_idle_server(body)


@pytest.mark.parametrize(
    "route",
    [
        Route("/debug", Response("all tasks")),
        Route("/tasks", Response("all tasks"), methods=["POST"]),
        WebSocketRoute("/debug", Response("all tasks")),
        Mount("/debug", Response("all tasks")),
        Mount("/debug", routes=[Route("/tasks", Response("all tasks"))]),
    ],
    ids=["route", "of a known path", "websocket", "mounted application", "mounted route"],
)
def test_a_route_without_a_rule_is_found(with_server, route):
    async def body(server):
        server.app.router.routes.insert(0, route)

        assert [method for method, _ in unruled(server.app)] == ["ANY"]

    with_server(body)


async def status_of(server, method, path, headers):
    path = path.replace("{task_id}", "01JNOSUCHTASK").replace("{", "x").replace("}", "")
    if method == "WS":
        try:
            async with server.websocket(additional_headers=headers):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code
    async with server.client.stream(method, path, headers=headers) as answer:
        if answer.status_code in (401, 403):
            await answer.aread()
            code = "invalid_api_key" if answer.status_code == 401 else "missing_scope"
            assert code in answer.text.lower()  # in whatever dialect
            assert answer.headers.get("www-authenticate") == ("Bearer" if answer.status_code == 401 else None)
        return answer.status_code


@pytest.mark.parametrize("kind", MAY)
def test_each_key_may_make_the_calls_of_the_table_and_no_other(with_server, kind):
    async def body(server):
        secret = ring_of(server)[kind]
        known = kind not in ("none", "wrong", "revoked", "expired")
        for method, path in walk(server.app.routes):
            status = await status_of(server, method, path, bearer(secret))

            if RULES[method, ruled(path)] in MAY[kind]:
                assert status not in (401, 403), (method, path)
            else:
                assert status == (403 if known or method == "WS" else 401), (method, path)
        assert await server.left() == NOTHING

    with_server(body)


def test_a_head_needs_what_its_get_needs(with_server):
    async def body(server):
        add(server, "read")
        for method, path in walk(server.app.routes):
            if method == "GET" and RULES[method, ruled(path)] != "public":
                answer = await server.client.head(path.replace("{task_id}", "x"))
                assert answer.status_code == 401, path

    with_server(body)


def test_a_refused_upload_is_not_read_and_leaves_nothing(with_server):
    async def body(server):
        read = add(server, "read")
        for headers, status in [({}, 401), (bearer(read), 403)]:
            answer = await server.post_form(the_file(), headers=headers)
            assert answer.status_code == status
        assert await server.left() == NOTHING

    with_server(body)


# --- the key, and how it is sent ---


def a_get(*headers, target="/stats"):
    return a_request(b"", *headers, target=target, method="GET", kind=None)


@pytest.mark.parametrize(
    "header",
    ["Authorization: Bearer {}", "authorization: bearer {}", "Authorization:  BEARER  {} ", "X-API-Key: {}"],
)
def test_a_key_is_taken_from_a_header(with_server, header):
    async def body(server):
        status, *_ = await server.exchange(a_get(header.format(add(server, "read"))))
        assert status == 200

    with_server(body)


def test_the_same_key_twice_is_one(with_server):
    async def body(server):
        key = add(server, "read")
        status, *_ = await server.exchange(a_get(f"Authorization: Bearer {key}", f"X-API-Key: {key}"))
        assert status == 200

    with_server(body)


def test_what_is_no_key_opens_nothing(with_server):
    async def body(server):
        key, other = add(server, "admin"), add(server, "read")
        known = keys.ring(keys_file(server)).find(key)
        for headers in [
            [],
            ["Authorization:"],
            ["Authorization: Bearer"],
            ["Authorization: Bearer "],
            [f"Authorization: {key}"],
            [f"Authorization: Basic {key}"],
            [f"Authorization: Bearer{key}"],
            [f"Authorization: Bearer\t{key}"],
            [f"Authorization: Bearer {key} {key}"],
            [f"Authorization: Bearer {key},"],
            [f"Authorization: Bearer {key}", f"Authorization: Bearer {other}"],
            [f"Authorization: Bearer {key}", "Authorization: Bearer wrong"],
            [f"Authorization: Bearer {key}", "Authorization: Basic wrong"],
            [f"Authorization: Bearer {key}", "X-API-Key:"],
            [f"Authorization: Bearer {key}", f"X-API-Key: {other}"],
            [f"Authorization: Bearer {known.sha256}"],
            [f"Authorization: Bearer {known.id}"],
            ["Authorization: Bearer whd_" + "\xfc" * 43],
            ["Authorization: Bearer \xff\xfe"],
            ["Authorization: Bearer whd_" + "A" * 50_000],
            [f"Cookie: key={key}"],
            [f"Proxy-Authorization: Bearer {key}"],
            ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: localhost", "X-Original-URL: /health/live"],
        ]:
            status, answered, content = await server.exchange(a_get(*headers))

            assert status == 401, headers
            assert answered["www-authenticate"] == "Bearer"
            assert json.loads(content)["error"]["code"] == "invalid_api_key"
            assert key.encode() not in content

    with_server(body)


@pytest.mark.parametrize(
    "target",
    [
        "http://localhost/health/live",
        "/health/../stats",
        "/health/live/../../stats",
        "//stats",
        "/stats/",
        "/STATS",
        "/stats%00",
        "/%73tats",
        "/stats;/health",
    ],
)
def test_a_strange_target_is_no_way_around_the_rule_of_its_route(with_server, target):
    """Judged is the route that answers, never the URL (CVE-2026-48710)."""

    async def body(server):
        add(server, "read")
        for host in ("localhost", "localhost/health/live?", "localhost#", "health"):
            request = a_get(target=target).replace(b"Host: localhost", f"Host: {host}".encode())
            status, _, content = await server.exchange(request)
            assert b"total" not in content
            assert status in (400, 401, 404) or b'{"status":"ok"}' in content

    with_server(body)


@pytest.mark.parametrize("name", ["key", "KEY", "api_key", "token", "access_token", "%6bey"])
def test_a_key_in_a_url_is_refused_with_a_hint_and_not_told_on(with_server, nothing_broke, caplog, name):
    async def body(server):
        key = add(server, "admin")
        answer = await server.client.get(f"/stats?{name}={key}", headers=bearer(key))
        assert the_error(answer) == (400, "key_in_url", None)
        assert key not in answer.text
        assert "Authorization" in answer.text
        assert key not in f"{nothing_broke} {caplog.text}"

    with_server(body)


def test_a_key_that_holds_no_more_is_told_why(with_server):
    async def body(server):
        ring = ring_of(server)
        for kind, why in [("revoked", "revoked"), ("expired", "expired"), ("wrong", "not known")]:
            answer = await server.client.get("/stats", headers=bearer(ring[kind]))
            assert answer.json()["error"]["message"] == f"this key is {why}"

    with_server(body)


def test_a_missing_scope_is_named(with_server):
    async def body(server):
        answer = await server.client.post("/admin/pause", headers=bearer(add(server, "submit", "read")))
        assert the_error(answer) == (403, "missing_scope", "admin")
        assert (
            answer.json()["error"]["message"] == "this call needs the scope admin; this key has submit, read"
        )

    with_server(body)


# --- from one moment to the next ---


def test_the_first_key_and_the_last_change_whom_the_door_is_open_to(with_server):
    async def body(server):
        async def statuses():
            own = await server.ask("/stats")
            elsewhere = await server.ask("/stats", client=("192.168.1.5", 1))
            return own.status_code, elsewhere.status_code

        assert await statuses() == (200, 403)
        key = add(server, "read")
        assert await statuses() == (401, 401)
        assert (
            await server.ask("/stats", headers=[("x-api-key", key)], client=("8.8.8.8", 1))
        ).status_code == 200
        revoke(server, key)
        assert await statuses() == (200, 403)

    with_server(body)


def test_time_takes_a_key_and_opens_no_door(with_server):
    now = [PAST.timestamp()]

    async def body(server):
        key = add(server, "read", expires_at=PAST + timedelta(hours=1))
        assert (await server.client.get("/stats", headers=bearer(key))).status_code == 200

        now[0] += 3600

        assert (await server.client.get("/stats", headers=bearer(key))).status_code == 401
        assert (await server.client.get("/stats")).status_code == 401

    with_server(body, now=lambda: now[0])


BROKEN = {
    "no JSON": lambda file: file.write_text("{"),
    "empty": lambda file: file.write_bytes(b""),
    "gone": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a link to nothing": lambda file: (file.unlink(), file.symlink_to("nowhere")),
    "its folder is gone": lambda file: file.parent.rename(file.parent.with_name("elsewhere")),
}


@pytest.mark.parametrize("harm", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_opens_no_door_and_health_says_so(with_server, nothing_broke, harm):
    async def body(server):
        key, file = add(server, "admin"), keys_file(server)
        assert (await server.client.get("/stats", headers=bearer(key))).status_code == 200
        whole, folder = file.read_bytes(), file.parent

        harm(file)

        for method, path in walk(server.app.routes):
            if method != "WS" and RULES[method, ruled(path)] != "public":
                answer = await server.client.request(method, path, headers=bearer(key))
                assert answer.status_code == 503, path
                assert "keys_unusable" in answer.text.lower()
        assert (await server.client.get("/health/live")).status_code == 200
        health = await server.client.get("/health")
        assert health.status_code == 503
        assert health.json()["checks"]["keys"] == {"status": "down", "message": None}

        if not folder.exists():
            folder.with_name("elsewhere").rename(folder)
        if file.is_dir():
            file.rmdir()
        file.unlink(missing_ok=True)
        file.write_bytes(whole)
        assert (await server.client.get("/stats", headers=bearer(key))).status_code == 200

    with_server(body)
    assert {entry["event"] for entry in nothing_broke if entry["log_level"] == "error"} == {
        "the keys cannot be used: every call is refused"
    }
    nothing_broke.clear()


def test_health_gives_strangers_the_verdicts_and_not_the_reasons(with_server):
    async def body(server):
        key = add(server, "read")

        strange = (await server.client.get("/health")).json()
        known = (await server.client.get("/health", headers=bearer(key))).json()

        assert {check["message"] for check in strange["checks"].values()} == {None}
        assert strange["checks"].keys() == known["checks"].keys()
        assert known["checks"]["workers"] == {"status": "down", "message": "0 of 1 workers are up"}
        assert strange["status"] == known["status"] == "down"

    with_server(body, workers=1)


def test_an_event_stream_ends_before_it_tells_more_to_a_revoked_key(with_server):
    async def body(server):
        key, task = add(server, "read", "submit"), None
        answer = await server.client.post(
            SUBMIT, files={"file": ("a.wav", the_file()[1])}, headers=bearer(key)
        )
        task = answer.json()["task_id"]
        async with server.client.stream("GET", f"/tasks/{task}/events", headers=bearer(key)) as stream:
            lines = stream.aiter_lines()
            while "progress" not in await anext(lines):
                pass

            revoke(server, key)
            await server.plan(1)
            await server.finish("Ask not.")

            assert not [line async for line in lines if "Ask not." in line or "completed" in line]
        await until(lambda: server.listeners() == 0)

    with_server(body)


def test_a_stream_that_needed_no_key_ends_before_it_tells_more_once_there_are_keys(with_server):
    async def body(server):
        task = (await server.client.post(SUBMIT, files={"file": ("a.wav", the_file()[1])})).json()["task_id"]
        async with server.client.stream("GET", f"/tasks/{task}/events") as stream:
            lines = stream.aiter_lines()
            while "progress" not in await anext(lines):
                pass

            add(server, "admin")
            await server.plan(1)
            await server.finish("Ask not.")

            assert not [line async for line in lines if "Ask not." in line or "completed" in line]

    with_server(body)


def test_a_websocket_is_closed_before_it_tells_more_to_a_revoked_key(with_server):
    async def body(server):
        key = add(server, "read", "submit")
        async with server.websocket(additional_headers=bearer(key)) as socket:
            await socket.recv()  # the first statistics
            revoke(server, key)
            answer = await server.client.post(
                SUBMIT, files={"file": ("a.wav", the_file()[1])}, headers=bearer(add(server, "admin"))
            )
            assert answer.status_code == 202
            heard = []
            with contextlib.suppress(ConnectionClosedError):
                async for text in socket:
                    heard.append(text)
            assert "acme" not in "".join(heard)
            assert socket.close_code == 1008
        await until(lambda: server.listeners() == 0)

    with_server(body)


# --- WebSocket ---


def test_a_browser_sends_its_key_as_a_subprotocol_which_is_not_repeated(with_server):
    async def body(server):
        key = add(server, "read")
        async with server.websocket(subprotocols=["whisperd", f"bearer.{key}"]) as socket:
            assert socket.subprotocol == "whisperd"
            assert key not in str(socket.response.headers)
        async with server.websocket(subprotocols=[f"bearer.{key}"]) as socket:
            assert socket.subprotocol is None

    with_server(body)


def test_a_websocket_without_a_key_is_refused(with_server):
    async def body(server):
        add(server, "read")
        for protocols in (None, ["whisperd"], ["whisperd", "bearer."], ["whisperd", "bearer.whd_no"]):
            with pytest.raises(InvalidStatus) as refused:
                await server.websocket(subprotocols=protocols).__aenter__()
            assert refused.value.response.status_code == 403
        assert server.listeners() == 0

    with_server(body)


# --- Host, Origin, CORS ---


def test_with_a_key_neither_host_nor_origin_matters(with_server):
    async def body(server):
        key = add(server, "read")
        headers = {"Host": "whisper.example.org", "Origin": "https://elsewhere.example"}
        assert (await server.client.get("/stats", headers={**headers, **bearer(key)})).status_code == 200
        assert (await server.client.get("/stats", headers=headers)).status_code == 401

    with_server(body)


def test_without_configuration_no_page_elsewhere_reads_anything(with_server):
    async def body(server):
        key = add(server, "read")
        asked = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "GET"}
        for answer in (
            await server.client.options("/stats", headers=asked),
            await server.client.get("/stats", headers={**asked, **bearer(key)}),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control")]

    with_server(body)


def test_a_page_of_an_allowed_site_reads_answers_and_refusals(with_server):
    async def body(server):
        key, origin = add(server, "submit"), {"Origin": "https://app.example.org"}
        preflight = await server.client.options(
            SUBMIT,
            headers={
                **origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,idempotency-key,content-type,if-none-match",
            },
        )
        assert preflight.status_code == 200
        for answer in (
            preflight,
            await server.client.get("/stats", headers=origin),
            await server.client.get("/stats", headers={**origin, **bearer(key)}),
            await server.client.get("/nosuch", headers=origin),
            await server.post_form(the_file(), headers={**origin, **bearer(key)}),
        ):
            assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
            assert "access-control-allow-credentials" not in answer.headers
            assert "Origin" in answer.headers["vary"]
        assert answer.status_code == 202
        exposed = "Location, Retry-After, ETag, Whisperd-Partial"
        assert answer.headers["access-control-expose-headers"] == exposed

    with_server(body, http={"allowed_origins": ("https://app.example.org/",)})


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "https://app.example.org.evil.example", "http://app.example.org", "null"],
)
def test_a_page_of_any_other_site_does_not(with_server, origin):
    async def body(server):
        key = add(server, "read")
        asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
        for answer in (
            await server.client.options("/stats", headers=asked),
            await server.client.get("/stats", headers={**asked, **bearer(key)}),
        ):
            assert "access-control-allow-origin" not in answer.headers

    with_server(body, http={"allowed_origins": ("https://app.example.org",)})
