"""Requests to addresses that users name: against real servers on this machine, with names of our own.

127.0.0.1 stands for the internet: the settings allow it. 127.0.0.2 is what nobody may reach.
"""

import asyncio
import gzip
import logging
import ssl
import threading

import pytest
import trustme

from tests.outside import GIFT, Outside, an_answer, fake_names, header, to
from whisperd.config import Outbound as Settings
from whisperd.outbound import (
    LOOK_UPS,
    MAX_REDIRECTS,
    AnswerTooLarge,
    Outbound,
    OutboundError,
    UrlRefused,
    system_addresses,
)

INTERNET = "127.0.0.1"
INSIDE = "127.0.0.2"
SECONDS = 20  # nothing here takes so long


def an_outbound(names=None, *, tls=None, **settings):
    """Allowed is 127.0.0.1 alone; `names` maps a host to its addresses, or to those of each look-up."""
    settings = {"allowed_networks": (INTERNET,), **settings}
    resolve = fake_names(names or {"example.org": [INTERNET]})
    return Outbound(Settings(**settings), resolve, tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


async def got(outbound, url, max_bytes=10_000, seconds=SECONDS):
    async with outbound.download(url, max_bytes=max_bytes, seconds=seconds) as download:
        return b"".join([piece async for piece in download.pieces])


def run(body, **options):
    """Run `body` with a server on the internet."""

    async def main():
        async with asyncio.timeout(60), Outside().serving(**options) as outside:
            await body(outside)

    asyncio.run(main())


async def refusal(awaitable, kind=OutboundError):
    with pytest.raises(kind) as caught:
        await awaitable
    assert type(caught.value) is kind
    return str(caught.value)


# --- what works ---


def test_what_is_at_the_url_is_fetched_as_it_is():
    async def body(outside):
        assert await got(an_outbound(), f"http://example.org:{outside.port}/a.wav?key=value#part") == GIFT

        ((head, _),) = outside.asked
        assert head.startswith("GET /a.wav?key=value HTTP/1.1\r\n")
        assert header(head, "host") == f"example.org:{outside.port}"
        assert header(head, "accept-encoding") == "identity"

    run(body)


def test_a_post_sends_what_it_was_given_and_returns_the_status():
    async def body(outside):
        outside.answers["/hook"] = an_answer(b"busy", "503 Busy", Retry_After="7")

        url = f"http://example.org:{outside.port}/hook"
        answer = await an_outbound().post(url, b'{"a":1}', {"webhook-id": "m1"}, seconds=SECONDS)

        assert (answer.status, answer.headers["retry-after"]) == (503, "7")
        ((head, content),) = outside.asked
        assert header(head, "webhook-id") == "m1"
        assert content == b'{"a":1}'

    run(body)


def test_the_next_address_is_tried_where_one_takes_no_connection():
    async def body(outside):
        outbound = an_outbound({"example.org": ["127.0.0.3", INTERNET]}, allowed_networks=("127.0.0.0/8",))

        assert await got(outbound, f"http://example.org:{outside.port}/") == GIFT

    run(body)


@pytest.mark.parametrize("host", ["example.org", "EXAMPLE.org", "example.org."])
def test_an_allowed_host_may_be_anywhere(host):
    async def body(outside):
        outbound = an_outbound(allowed_networks=(), allowed_hosts=("Example.ORG",))

        assert await got(outbound, f"http://{host}:{outside.port}/") == GIFT

    run(body)


def test_a_name_of_other_letters_is_looked_up_as_the_dns_has_it():
    async def body(outside):
        outbound = an_outbound({"xn--bcher-kva.example": [INTERNET]})

        assert await got(outbound, f"http://b\u00fccher.example:{outside.port}/") == GIFT
        assert header(outside.asked[0][0], "host").startswith("xn--bcher-kva.example:")

    run(body)


def test_the_environment_names_no_proxy(monkeypatch):
    async def body(outside):
        async with Outside().serving() as proxy:
            for name in ("http_proxy", "all_proxy", "HTTP_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("no_proxy", "")

            assert await got(an_outbound(), f"http://example.org:{outside.port}/") == GIFT
            assert proxy.connections == 0

    run(body)


# --- where it may go ---


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "169.254.169.254", "[::1]", "[fd00:ec2::254]", "[::ffff:127.0.0.1]"),
        *("2130706433", "0x7f.1", "0x7f000001", "127.1", "0177.0.0.1", "127.0.0.1.", "1.2.3"),
        *("[fe80::1%25eth0]", "[fe80::1%eth0]", "[::1%25lo]", "[::127.0.0.1]"),
        *("127%2e0.0.1", "127\u30020\u30020\u30021", "\u2460\u2461\u2466.0.0.1", "\uff11\uff12\uff17.0.0.1"),
        *("localhost", "localhost.", "LOCALHOST"),
    ],
)
def test_no_spelling_of_this_machine_is_reached(host):
    async def body(outside):
        outbound = Outbound(Settings())  # with the system's own look-up: it knows more spellings than we do

        await refusal(got(outbound, f"http://{host}:{outside.port}/"), UrlRefused)
        assert outside.connections == 0

    run(body)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "example.org",
            "//example.org/",
            "http://",
            "http:///a",
            "http://:80/",
            "http://[::1",
            "/etc/passwd",
        ),
        *("ftp://example.org/", "file:///etc/passwd", "gopher://example.org/", "data:audio/wav;base64,AA"),
        *("http://user@example.org/", "http://user:password@example.org/", "http://a\\@example.org/"),
        *("http://example.org:0/", "http://example.org:99999/", "http://a b/", "http://ex\nample.org/"),
        *("http://-..-/", "http://xn--a/", "http://" + "a" * 64 + "/", "http://example.org/" + "a" * 4100),
    ],
)
def test_what_is_no_plain_url_is_refused_without_a_look(url):
    async def never(host):
        raise AssertionError(f"{host} was looked up")

    outbound = Outbound(Settings(), never)

    with pytest.raises(UrlRefused) as caught:
        outbound.check(url)
    assert "password" not in str(caught.value).replace("a user or a password", "")
    asyncio.run(refusal(got(outbound, url), UrlRefused))


def test_a_look_at_a_url_alone_finds_a_closed_address_and_asks_no_dns():
    outbound = an_outbound({})

    outbound.check("https://example.org/hook")
    outbound.check("https://8.8.8.8/hook")
    with pytest.raises(UrlRefused):
        outbound.check("http://10.0.0.1/hook")


@pytest.mark.parametrize("order", [1, -1])
def test_a_name_is_refused_when_one_of_its_addresses_is_closed(order):
    async def body(outside):
        outbound = an_outbound({"example.org": [INTERNET, INSIDE][::order]})

        told = await refusal(got(outbound, f"http://example.org:{outside.port}/"), UrlRefused)
        assert told.startswith("the host example.org is not on the public internet")
        assert "127.0." not in told
        assert outside.connections == 0

    run(body)


def test_a_name_that_changes_its_address_after_the_look_gains_nothing():
    async def body(outside):
        async with Outside().serving(INSIDE) as inside:
            inside.answers["/"] = an_answer(b"a secret of the inside")
            names = {"rebinding.example": iter([[INTERNET], [INSIDE]])}

            assert await got(an_outbound(names), f"http://rebinding.example:{outside.port}/") == GIFT
            assert inside.connections == 0
            assert next(names["rebinding.example"]) == [INSIDE]  # nobody looked a second time

    run(body)


def test_a_host_that_is_not_known_is_told():
    async def body(outside):
        told = await refusal(got(an_outbound({}), "http://gone.example/"))
        assert told == "no address is known for the host gone.example"

    run(body)


def test_a_look_up_that_does_not_end_is_given_up():
    async def endless(host):
        await asyncio.Future()

    outbound = Outbound(Settings(connect_seconds=0.01), endless)

    asyncio.run(refusal(got(outbound, "http://example.org/")))


def test_many_look_ups_that_hang_do_not_pile_up(monkeypatch):
    """Nor does one hold up the end of the loop, which waits for the threads that belong to it."""
    hanging = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: hanging.wait(30) or [])

    async def main():
        looks = [asyncio.create_task(system_addresses("slow.example")) for _ in range(LOOK_UPS)]
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="too many look-ups"):
            await system_addresses("one.more")
        for look in looks:
            look.cancel()

    asyncio.run(main())
    hanging.set()
    for thread in threading.enumerate():
        if thread.name == "look-up":
            thread.join(10)


# --- redirects ---


def test_redirects_are_followed_to_where_they_may_go():
    async def body(outside):
        outside.answers["/a"] = to(f"http://other.example:{outside.port}/b", "301 Moved")
        outside.answers["/b"] = to("/c?x", "307 Moved")
        outbound = an_outbound({"example.org": [INTERNET], "other.example": [INTERNET]})

        assert await got(outbound, f"http://example.org:{outside.port}/a") == GIFT
        assert [head.split(" ")[1] for head, _ in outside.asked] == ["/a", "/b", "/c?x"]
        assert header(outside.asked[1][0], "host") == f"other.example:{outside.port}"

    run(body)


def test_a_redirect_to_the_inside_is_not_followed():
    async def body(outside):
        async with Outside().serving(INSIDE) as inside:
            outside.answers["/address"] = to(f"http://{INSIDE}:{inside.port}/")
            outside.answers["/name"] = to(f"http://inside.example:{inside.port}/")
            outbound = an_outbound({"example.org": [INTERNET], "inside.example": [INSIDE]})

            for path in outside.answers:
                told = await refusal(got(outbound, f"http://example.org:{outside.port}{path}"), UrlRefused)
                assert "inside.example" not in told
            assert inside.connections == 0

    run(body)


def test_a_name_is_looked_up_and_checked_again_for_each_redirect():
    async def body(outside):
        outside.answers["/"] = to("/again")
        outbound = an_outbound({"example.org": iter([[INTERNET], [INSIDE]])})

        await refusal(got(outbound, f"http://example.org:{outside.port}/"), UrlRefused)
        assert outside.connections == 1

    run(body)


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://example.org/", "http://u:p@example.org/", "http://["]
)
def test_a_redirect_to_what_is_no_plain_url_is_refused(location):
    async def body(outside):
        outside.answers["/"] = to(location)

        told = await refusal(got(an_outbound(), f"http://example.org:{outside.port}/"), UrlRefused)
        assert told == "it redirects to what is no URL for whisperd"

    run(body)


def test_redirects_that_go_round_end():
    async def body(outside):
        outside.answers["/"] = to("/")

        await refusal(got(an_outbound(), f"http://example.org:{outside.port}/"))
        assert outside.connections == MAX_REDIRECTS + 1

    run(body)


def test_no_cookie_is_kept_from_one_request_to_the_next():
    async def body(outside):
        outside.answers["/"] = an_answer(b"", "302 Found", Location="/next", Set_Cookie="who=you")

        await got(an_outbound(), f"http://example.org:{outside.port}/")

        assert header(outside.asked[1][0], "cookie") is None

    run(body)


@pytest.mark.parametrize("status", ["307 Moved", "308 Moved"])
def test_a_post_follows_a_redirect_on_its_host(status):
    async def body(outside):
        outside.answers["/"] = to("/moved", status)
        outside.answers["/moved"] = an_answer(b"", "204 Taken")

        url = f"http://example.org:{outside.port}/"
        answer = await an_outbound().post(url, b"body", {"webhook-signature": "s"}, seconds=SECONDS)

        assert answer.status == 204
        assert outside.asked[1][1] == b"body"
        assert header(outside.asked[1][0], "webhook-signature") == "s"

    run(body)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Moved", "308 Moved"])
def test_a_post_never_follows_a_redirect_to_another_host(status):
    async def body(outside):
        outside.answers["/"] = to(f"http://other.example:{outside.port}/", status)
        outbound = an_outbound({"example.org": [INTERNET], "other.example": [INTERNET]})

        answer = await outbound.post(f"http://example.org:{outside.port}/", b"", {}, seconds=SECONDS)

        assert answer.status == int(status[:3])
        assert outside.connections == 1

    run(body)


# --- TLS ---


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def trusting(authority):
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    return tls


def having(authority, *names):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(tls)
    tls.sni_seen = []
    tls.sni_callback = lambda connection, name, context: tls.sni_seen.append(name)
    return tls


def test_tls_asks_for_the_certificate_of_the_hosts_name(authority):
    tls = having(authority, "example.org")

    async def body(outside):
        outbound = an_outbound(tls=trusting(authority))

        assert await got(outbound, f"https://example.org:{outside.port}/") == GIFT
        assert tls.sni_seen == ["example.org"]

    run(body, tls=tls)


@pytest.mark.parametrize("names", [("other.example",), ("127.0.0.1",)])
def test_the_certificate_of_another_name_is_refused(authority, names):
    async def body(outside):
        outbound = an_outbound(tls=trusting(authority))

        told = await refusal(got(outbound, f"https://example.org:{outside.port}/"))
        assert told == "the host example.org has no certificate that holds for it"
        assert outside.asked == []

    run(body, tls=having(authority, *names))


def test_a_certificate_of_nobody_known_is_refused(authority):
    async def body(outside):
        outbound = an_outbound(tls=trusting(trustme.CA()))

        await refusal(got(outbound, f"https://example.org:{outside.port}/"))
        assert outside.asked == []

    run(body, tls=having(authority, "example.org"))


def test_a_redirect_from_https_to_http_is_refused(authority):
    async def body(outside):
        outside.answers["/"] = to(f"http://example.org:{outside.port}/")
        outbound = an_outbound(tls=trusting(authority))

        told = await refusal(got(outbound, f"https://example.org:{outside.port}/"), UrlRefused)
        assert told == "it redirects from https to http"

    run(body, tls=having(authority, "example.org"))


# --- limits ---


def test_more_bytes_than_allowed_are_not_taken():
    async def body(outside):
        outside.answers["/"] = [b"HTTP/1.1 200 OK\r\n\r\n", *[bytes(1000)] * 12, None]  # and never ends

        await refusal(got(an_outbound(), f"http://example.org:{outside.port}/"), AnswerTooLarge)

    run(body)


def test_an_answer_that_says_it_is_too_large_is_not_waited_for():
    async def body(outside):
        outside.answers["/"] = [b"HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n", None]

        await refusal(got(an_outbound(), f"http://example.org:{outside.port}/"), AnswerTooLarge)

    run(body)


def test_exactly_as_many_bytes_as_allowed_are_taken():
    async def body(outside):
        outside.answers["/"] = an_answer(bytes(10_000))

        assert len(await got(an_outbound(), f"http://example.org:{outside.port}/")) == 10_000

    run(body)


def test_what_comes_packed_is_not_taken():
    async def body(outside):
        outside.answers["/"] = an_answer(gzip.compress(bytes(10**6)), Content_Encoding="gzip")

        assert "Content-Encoding" in await refusal(got(an_outbound(), f"http://example.org:{outside.port}/"))

    run(body)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\nRI"])
def test_a_server_that_falls_silent_is_left_when_the_time_is_over(said):
    async def body(outside):
        outside.answers["/"] = [said, None]

        told = await refusal(got(an_outbound(), f"http://example.org:{outside.port}/", seconds=0.2))
        assert told == "it took longer than 0.2 seconds"

    run(body)


def test_the_time_runs_over_redirects_too():
    async def body(outside):
        outside.answers["/"] = to("/silent")
        outside.answers["/silent"] = [None]

        await refusal(got(an_outbound(), f"http://example.org:{outside.port}/", seconds=0.2))

    run(body)


@pytest.mark.parametrize("status", ["404 Gone", "500 Broken", "204 Nothing", "206 Partial", "304 Same"])
def test_any_answer_but_the_file_itself_is_told(status):
    async def body(outside):
        outside.answers["/"] = an_answer(b"", status)

        told = await refusal(got(an_outbound(), f"http://example.org:{outside.port}/"))
        assert told == f"the host example.org answered {status[:3]}"

    run(body)


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nRIFF", bytes(200_000)],
)
def test_what_speaks_no_http_or_breaks_off_is_told(answer):
    async def body(outside):
        outside.answers["/"] = answer

        told = await refusal(got(an_outbound(), f"http://example.org:{outside.port}/"))
        assert told == "the host example.org broke the connection off, or does not speak HTTP"

    run(body)


def test_a_host_that_takes_no_connection_is_told():
    async def main():
        async with Outside().serving() as gone:
            pass
        told = await refusal(got(an_outbound(), f"http://example.org:{gone.port}/"))
        assert told == "the host example.org cannot be reached"

    asyncio.run(main())


def test_trouble_of_the_caller_stays_its_own():
    async def body(outside):
        url = f"http://example.org:{outside.port}/"
        for trouble in (OSError("the disk is full"), TimeoutError("of the caller")):
            with pytest.raises(type(trouble), match=str(trouble)):
                async with an_outbound().download(url, max_bytes=10_000, seconds=SECONDS):
                    raise trouble

    run(body)


def test_nothing_is_logged_of_a_url(caplog):
    caplog.set_level(logging.DEBUG)

    async def body(outside):
        await got(
            Outbound(Settings(allowed_networks=(INTERNET,))), f"http://127.0.0.1:{outside.port}/?key=s3cr3t"
        )

    run(body)
    assert "s3cr3t" not in caplog.text
