"""The dashboard's page and its parts: who may load them, what they may do, and what is sent again."""

import gzip
import re
from importlib import resources

import pytest

from tests.http.test_rights import add
from tests.http_server import a_request, the_error
from whisperd.routes.web import MEDIA_TYPES

PARTS = sorted(
    str(path.relative_to(root))
    for root in [resources.files("whisperd") / "web" / "dashboard"]
    for path in root.rglob("*")
    if path.suffix in MEDIA_TYPES and path.name != "index.html"
)


def policy_of(answer):
    directives = (rule.split() for rule in answer.headers["content-security-policy"].split(";"))
    return {name: values for name, *values in directives}


def test_anybody_may_load_the_page_and_its_parts(with_server):
    async def body(server):
        add(server, "admin")
        page = await server.client.get("/", headers={"Host": "whisper.example.org"})
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        for part in PARTS:
            assert (await server.client.get(f"/ui/{part}")).status_code == 200, part

    with_server(body)


def test_without_keys_a_page_of_this_machine_is_not_shown_by_another_name(with_idle_server):
    async def body(server):
        for path in ("/", "/ui/app.js"):
            assert (await server.client.get(path, headers={"Host": "evil.example"})).status_code == 403
            assert (await server.ask(path, client=("192.168.1.5", 1))).status_code == 403

    with_idle_server(body)


@pytest.mark.parametrize("path", ["/", "/ui/app.js", "/ui/style.css"])
def test_what_is_written_into_the_page_is_not_run_and_nothing_leaves_it(with_idle_server, path):
    async def body(server):
        answer = await server.client.get(path)

        policy = policy_of(answer)
        assert policy["default-src"] == ["'none'"]
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == ["'self'"]
        assert policy["frame-ancestors"] == policy["base-uri"] == ["'none'"]
        assert not re.search(r"unsafe|https?:|\*", answer.headers["content-security-policy"])
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "microphone=()" in answer.headers["permissions-policy"]

    with_idle_server(body)


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(with_idle_server):
    async def body(server):
        page = (await server.client.get("/")).text

        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page, re.IGNORECASE)
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page, re.IGNORECASE))
        assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
        for part in re.findall(r'(?:src|href)="(ui/[^"]+)"', page):
            answer = await server.client.get(f"/{part}")
            assert answer.status_code == 200, part

    with_idle_server(body)


NO_PARTS = """
    nosuch.js . ../docs/show.js ..%2fdocs%2fshow.js %2e%2e/docs/show.js ../../py.typed %2fetc%2fpasswd
    index.html%00 app.js/ app.js%00.css //app.js APP.JS vendor
"""


@pytest.mark.parametrize("name", ["", *NO_PARTS.split()])
def test_the_page_has_no_other_parts(with_idle_server, name):
    async def body(server):
        status, _, content = await server.exchange(a_get(f"/ui/{name}"))
        assert (status, b"not_found" in content) == (404, True)

    with_idle_server(body)


def a_get(target, *headers):
    """As it is written, and not as a client would tidy it."""
    return a_request(b"", *headers, target=target, method="GET", kind=None)


def test_a_part_is_sent_again_only_when_it_is_another(with_idle_server):
    async def body(server):
        first = await server.client.get("/ui/app.js")
        same = await server.client.get("/ui/app.js", headers={"If-None-Match": first.headers["etag"]})
        other = await server.client.get("/ui/app.js", headers={"If-None-Match": '"other"'})

        assert first.headers["cache-control"] == "no-cache"
        assert (same.status_code, same.content) == (304, b"")
        assert other.content == first.content

    with_idle_server(body)


def test_what_the_page_names_with_its_version_is_asked_for_once(with_idle_server):
    async def body(server):
        page = (await server.client.get("/")).text
        versions = set(re.findall(r'"ui/([^/"]*)', page))
        assert len(versions) == 1
        version = versions.pop()
        assert re.fullmatch("[0-9a-f]{12}", version)

        now = await server.client.get(f"/ui/{version}/app.js")
        once = await server.client.get(f"/ui/{version[::-1]}/app.js")

        assert "immutable" in now.headers["cache-control"]
        assert once.headers["cache-control"] == "no-cache"
        assert now.content == once.content

    with_idle_server(body)


def test_the_page_names_all_its_modules_so_that_none_is_found_late(with_idle_server):
    async def body(server):
        page = (await server.client.get("/")).text

        scripts = re.findall(r'(?:src|href)="ui/[0-9a-f]{12}/([^"]+\.js)"', page)
        assert sorted(scripts) == [part for part in PARTS if part.endswith(".js")]

    with_idle_server(body)


@pytest.mark.parametrize(
    ("takes", "packed"),
    [("gzip", True), ("br, gzip;q=0.5", True), ("identity", False), ("gzip;q=0", False), ("xgzip", False)],
)
def test_a_part_is_packed_for_who_can_unpack_it(with_idle_server, takes, packed):
    async def body(server):
        _, headers, plain = await server.exchange(a_get("/docs/swagger-ui.css"))
        _, answered, content = await server.exchange(
            a_get("/docs/swagger-ui.css", f"Accept-Encoding: {takes}")
        )

        assert headers["vary"] == answered["vary"] == "Accept-Encoding"
        assert answered.get("content-encoding") == ("gzip" if packed else None)
        assert (gzip.decompress(content) if packed else content) == plain

    with_idle_server(body)


def test_a_head_is_told_what_a_get_would_be_sent(with_idle_server):
    async def body(server):
        for path in ("/", "/ui/app.js"):
            got, told = await server.client.get(path), await server.client.head(path)
            for name in ("content-type", "content-length", "etag", "content-security-policy"):
                assert told.headers[name] == got.headers[name]
            assert told.content == b""

    with_idle_server(body)


def test_the_page_takes_no_other_method(with_idle_server):
    async def body(server):
        assert the_error(await server.client.post("/")) == (405, "method_not_allowed", None)

    with_idle_server(body)
