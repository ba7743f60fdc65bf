"""Who is served: this machine, by a name of its own, and no page of another site."""

import json

import pytest
from websockets.exceptions import InvalidStatus

from tests.http_server import NOTHING, a_form, a_request, the_error, the_file
from whisperd.config import Http
from whisperd.guard import Loopback

FORM = "multipart/form-data; boundary=frontier"


def a_get(*headers, target="/stats"):
    return "\r\n".join([f"GET {target} HTTP/1.1", "Connection: close", *headers, "", ""]).encode("latin-1")


def an_upgrade(*headers):
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    wanted = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key)
    return "\r\n".join(["GET /ws HTTP/1.1", *wanted, *headers, "", ""]).encode("latin-1")


# --- Host ---

OWN_HOSTS = [
    "localhost",
    "LocalHost:8002",
    "127.0.0.1",
    "127.0.0.1:1",
    "[::1]",
    "[::1]:65535",
    "box.lan",
    "BOX.lan:80",
]
FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:8002",
    "localhost.evil.example",
    "evil.example@localhost",
    "127.0.0.1.nip.io",
    "127.0.0.2",
    "2130706433",
    "0.0.0.0",
    "[::]",
    "[::ffff:127.0.0.1]",
    "::1",
    "localhost:8002:80",
    "localhost:http",
    "localhost, evil.example",
    "box.lan.evil.example",
    "localhost.",
    "",
]


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_a_host_of_this_machine_is_served(with_server, host):
    async def body(server):
        status, *_ = await server.exchange(a_get(f"Host: {host}"))
        assert status == 200

    with_server(body, http={"allowed_hosts": ("Box.lan",)})


@pytest.mark.parametrize(
    ("configured", "host"),
    [
        ("127.0.0.2", "127.0.0.2:8002"),
        ("Box.local", "box.local"),
        ("::ffff:127.0.0.1", "[::ffff:127.0.0.1]:8002"),
    ],
)
def test_the_address_that_was_asked_for_is_served_by_its_own_name(with_server, configured, host):
    async def body(server):
        status, *_ = await server.exchange(a_get(f"Host: {host}"))
        assert status == 200

    with_server(body, http={"host": configured})


@pytest.mark.parametrize(
    ("server", "host", "status"),
    [
        (("127.0.1.1", 8002), "127.0.1.1:8002", 200),  # as in the ready line when http.host is a name
        (("::2", 8002), "[::2]:8002", 200),
        (("127.0.1.1", 8002), "127.0.0.2", 403),
        (("/run/whisperd.sock", None), "/run/whisperd.sock", 403),
        (None, "127.0.1.1", 403),
    ],
)
def test_the_address_that_a_request_came_to_is_served(server, host, status):
    scope = {
        "type": "http",
        "path": "/",
        "client": ("127.0.0.1", 1),
        "server": server,
        "headers": [(b"host", host.encode())],
    }
    refusal = Loopback(Http()).refusal(scope)
    assert (200 if refusal is None else refusal.status) == status


def test_a_host_of_another_name_is_refused(with_server):
    async def body(server):
        for host in FOREIGN_HOSTS:
            status, headers, content = await server.exchange(a_get(f"Host: {host}"))

            assert (status, headers["content-type"]) == (403, "application/json"), host
            assert json.loads(content)["error"]["code"] == "forbidden"

    with_server(body, http={"allowed_hosts": ("Box.lan",)})


def test_a_foreign_host_is_refused_on_every_path_and_leaves_nothing(with_idle_server):
    async def body(server):
        headers = {"Host": "evil.example"}
        for method, path in [
            ("GET", "/tasks"),
            ("GET", "/nosuch"),
            ("DELETE", "/tasks/x"),
            ("GET", "/health/live"),
        ]:
            answer = await server.client.request(method, path, headers=headers)
            assert the_error(answer) == (403, "forbidden", None)
        assert the_error(await server.post_form(the_file(), headers=headers)) == (403, "forbidden", None)
        assert await server.left() == NOTHING

    with_idle_server(body)


def test_a_request_without_a_host_or_with_two_is_refused(with_idle_server):
    async def body(server):
        for request in (
            a_get(),
            a_get().replace(b"HTTP/1.1", b"HTTP/1.0"),
            a_get("Host: localhost", "Host: localhost"),
            a_get("Host: localhost", "Host: evil.example"),
        ):
            status, _, content = await server.exchange(request)
            assert status in (400, 403), request
            assert b"total" not in content

    with_idle_server(body)


def test_the_host_is_judged_and_not_a_url_in_the_request_line(with_idle_server):
    async def body(server):
        status, *_ = await server.exchange(a_get("Host: evil.example", target="http://localhost/stats"))
        assert status == 403

    with_idle_server(body)


def test_forwarding_headers_make_no_foreign_host_our_own(with_idle_server):
    async def body(server):
        for header in (
            "X-Forwarded-Host: localhost",
            "X-Forwarded-For: 127.0.0.1",
            "Forwarded: host=localhost",
        ):
            status, *_ = await server.exchange(a_get("Host: evil.example", header))
            assert status == 403

    with_idle_server(body)


# --- Origin ---

FOREIGN_ORIGINS = [
    "null",
    "http://evil.example",
    "http://localhost:3000",  # another program's page on this machine
    "http://localhost",
    "file://",
    "chrome-extension://abc",
    "http://localhost.evil.example:{port}",
    "http://127.0.0.1:{port}.evil.example",
    "ftp://127.0.0.1:{port}",
    "",
]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_page_of_another_site_is_refused_for_reading_writing_and_listening(with_idle_server, origin):
    async def body(server):
        headers = {"Origin": origin.format(port=server.port)}
        for answer in (
            await server.client.get("/tasks", headers=headers),
            await server.post_form(the_file(), headers=headers),
            await server.client.delete("/tasks/x", headers=headers),
            await server.client.get("/tasks/x/events", headers=headers),
        ):
            assert the_error(answer) == (403, "forbidden", None)
        with pytest.raises(InvalidStatus) as refused:
            await server.websocket(additional_headers=headers).__aenter__()
        assert refused.value.response.status_code == 403
        assert server.listeners() == 0
        assert await server.left() == NOTHING

    with_idle_server(body)


@pytest.mark.parametrize(
    "origin",
    [
        "http://127.0.0.1:{port}",
        "HTTP://127.0.0.1:{port}",
        "https://app.example.org",
        "https://APP.example.org",
    ],
)
def test_a_page_of_our_own_or_of_an_allowed_site_is_served(with_server, origin):
    async def body(server):
        headers = {"Origin": origin.format(port=server.port)}
        assert (await server.client.get("/tasks", headers=headers)).status_code == 200
        assert (await server.post_form(the_file(), headers=headers)).status_code == 202
        async with server.websocket(additional_headers=headers) as socket:
            assert json.loads(await socket.recv())["type"] == "stats"

    with_server(body, http={"allowed_origins": ("https://app.example.org/",)})


def test_two_origins_are_not_one_of_ours(with_idle_server):
    async def body(server):
        own, foreign = f"Origin: http://localhost:{server.port}", "Origin: http://evil.example"
        for pair in [(own, foreign), (foreign, own)]:
            status, *_ = await server.exchange(a_get(f"Host: localhost:{server.port}", *pair))
            assert status == 403

    with_idle_server(body)


# --- WebSocket ---


def test_a_websocket_by_a_foreign_name_is_refused(with_idle_server):
    async def body(server):
        for headers in [
            ("Host: evil.example",),
            (f"Host: evil.example:{server.port}", f"Origin: http://evil.example:{server.port}"),
            ("Host: localhost", "Origin: null"),
        ]:
            status, *_ = await server.exchange(an_upgrade(*headers))
            assert status == 403
        assert server.listeners() == 0

    with_idle_server(body)


def test_a_websocket_elsewhere_is_refused(with_idle_server):
    async def body(server):
        request = an_upgrade("Host: localhost").replace(b"/ws", b"/tasks")
        status, *_ = await server.exchange(request)
        assert status == 403

    with_idle_server(body)


# --- who connects ---


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1"])
def test_a_peer_on_this_machine_is_served(with_idle_server, address):
    async def body(server):
        assert (await server.ask("/stats", client=(address, 1234))).status_code == 200

    with_idle_server(body)


def test_a_unix_socket_is_guarded_by_its_file_mode(with_idle_server):
    async def body(server):
        assert (await server.ask("/stats", client=None)).status_code == 200

    with_idle_server(body)


@pytest.mark.parametrize(
    "address",
    [
        "192.168.1.5",
        "10.0.0.1",
        "8.8.8.8",
        "0.0.0.0",
        "169.254.1.1",
        "::",
        "fe80::1%eth0",
        "2001:db8::1",
        "unknown",
        "",
    ],
)
def test_a_peer_elsewhere_is_refused_whatever_it_calls_us(with_idle_server, address):
    async def body(server):
        form = [("content-type", FORM)]
        for answer in (
            await server.ask("/stats", client=(address, 1234)),
            await server.ask(
                "/tasks/transcription", "POST", form, [a_form(the_file())], client=(address, 1234)
            ),
        ):
            assert the_error(answer) == (403, "forbidden", None)
        assert await server.left() == NOTHING

    with_idle_server(body)


@pytest.mark.parametrize("named", ["8.8.8.8", "unknown", "_hidden, 10.0.0.1", "[::1]:80, x", "\xff"])
def test_a_client_that_a_proxy_names_is_not_this_machine(with_idle_server, named):
    async def body(server):
        status, *_ = await server.exchange(
            a_request(b"", f"X-Forwarded-For: {named}", target="/stats", method="GET")
        )
        assert status == 403

    with_idle_server(body)
