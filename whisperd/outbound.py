"""HTTP requests to addresses that users name, and the guard that they reach nothing but the outside (SSRF).

A host is looked up once; all of its addresses must be open ones (see `addresses`), and the connection goes to
exactly one of those that were looked at, so that a name which means another address a moment later gains
nothing. Each redirect goes the same way again. TLS still asks for a certificate of the host's name. Proxies
and passwords of the environment (`HTTP_PROXY`, `.netrc`) play no part, and there are no cookies.

What the errors say may be shown to whoever named the URL: its host, and nothing that was looked up.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from whisperd import config
from whisperd.addresses import is_open, networks

if TYPE_CHECKING:  # it costs memory: loaded with the first request, not with the daemon
    import httpx

MAX_REDIRECTS = 5
MAX_URL_LENGTH = 4096
LOOK_UPS = 16  # at a time
SILENCE_SECONDS = 30  # in mid-answer
_SCHEMES = ("http", "https")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MOVED = (301, 302, 303, 307, 308)

Resolve = Callable[[str], Awaitable[Sequence[str]]]


class OutboundError(Exception):
    """The request did not work out; later it might. The message is safe to show."""


class UrlRefused(OutboundError):
    """whisperd does not call this address, now or later."""


class AnswerTooLarge(OutboundError):
    """The answer has more bytes than were asked for."""


class Target(NamedTuple):
    """A URL, taken apart and fit to be looked up."""

    url: httpx.URL
    host: str  # as the look-up and TLS want it: ASCII, lower case, no dot at its end
    shown: str  # for messages: of where a redirect leads only that


class _Ask(NamedTuple):
    method: str
    headers: Mapping[str, str] = {}
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Download:
    """An answer of 200 whose body is still to come."""

    declared: int  # bytes, as the server says; 0 where it does not
    pieces: AsyncIterator[bytes]  # raises OutboundError


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered to a POST; its body is not read."""

    status: int
    headers: Mapping[str, str]  # names in lower case


async def system_addresses(host: str) -> Sequence[str]:
    """All addresses of a host, as the system's resolver has them. Raises OSError.

    On a thread of its own that nobody waits for: a look-up cannot be stopped, and neither the threads that
    write audio nor the end of the daemon may hang on one.
    """
    if not _looking.acquire(blocking=False):
        raise OSError("too many look-ups at a time")
    found: Future[Sequence[str]] = Future()
    threading.Thread(target=_look_up, args=(host, found), name="look-up", daemon=True).start()
    return await asyncio.wrap_future(found)


_looking = threading.Semaphore(LOOK_UPS)


def _look_up(host: str, found: Future[Sequence[str]]) -> None:
    try:
        if found.set_running_or_notify_cancel():
            infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found.set_result([str(info[4][0]) for info in infos])
    except Exception as error:
        found.set_exception(error)
    finally:
        _looking.release()


class Outbound:
    """Requests to addresses that users name. Safe to share; holds no connection between two requests."""

    def __init__(
        self,
        settings: config.Outbound,
        resolve: Resolve = system_addresses,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`tls`: whom to trust, else the usual authorities."""
        self._allowed = networks(settings.allowed_networks)
        self._allowed_hosts = {host.lower().rstrip(".") for host in settings.allowed_hosts}
        self._connect_seconds = settings.connect_seconds
        self._resolve = resolve
        self._tls = tls

    def check(self, url: str) -> None:
        """Refuse at once what could never be called; looks nothing up. Raises UrlRefused."""
        target = _target(url)
        if _is_address(target.host):
            self._check_addresses(target, [target.host])

    @asynccontextmanager
    async def download(self, url: str, *, max_bytes: int, seconds: float) -> AsyncIterator[Download]:
        """Get what is at `url`, following redirects; all in all within `seconds`, the block included.

        Raises OutboundError; out of `pieces`, too.
        """
        async with _deadline(seconds), self._answer(url, _Ask("GET")) as (answer, target):
            if answer.status_code != 200:
                raise OutboundError(f"{target.shown} answered {answer.status_code}")
            if answer.headers.get("content-encoding", "identity").lower() != "identity":
                raise OutboundError(f"{target.shown} sends it with a Content-Encoding, which is not taken")
            declared = _declared(answer)
            if declared > max_bytes:
                raise AnswerTooLarge(f"it has more than {max_bytes} bytes")
            yield Download(declared, _pieces(answer, target, max_bytes))

    async def post(self, url: str, content: bytes, headers: Mapping[str, str], *, seconds: float) -> Answer:
        """Post `content`, within `seconds`. Whatever the status, it is an answer. Raises OutboundError.

        Only redirects that keep the request as it is (307, 308) and stay on its host are followed: what is
        sent was meant, and may be signed, for that host. Another one is the answer.
        """
        async with _deadline(seconds), self._answer(url, _Ask("POST", headers, content)) as (answer, _):
            return Answer(answer.status_code, dict(answer.headers))

    @asynccontextmanager
    async def _answer(self, url: str, ask: _Ask) -> AsyncIterator[tuple[httpx.Response, Target]]:
        """The answer behind the redirects, its body still to be read, and who gave it."""
        tls = await self._prepared()
        target = _target(url)
        for _ in range(MAX_REDIRECTS + 1):
            async with self._client(tls) as client, self._sent(client, target, ask) as answer:
                following = _redirect(answer, target, ask)
                if following is None:
                    yield answer, target
                    return
            target = following
        raise OutboundError(f"more than {MAX_REDIRECTS} redirects")

    @asynccontextmanager
    async def _sent(
        self, client: httpx.AsyncClient, target: Target, ask: _Ask
    ) -> AsyncIterator[httpx.Response]:
        addresses = await self._addresses(target)
        with _told(target):
            answer = await _first_reached(client, [_request(client, target, a, ask) for a in addresses])
        try:
            yield answer
        finally:
            await answer.aclose()

    async def _addresses(self, target: Target) -> Sequence[str]:
        """Where to connect to: one or more. Raises UrlRefused, OutboundError."""
        found: Sequence[str] = [target.host]
        if not _is_address(target.host):
            try:
                async with asyncio.timeout(self._connect_seconds):
                    found = list(dict.fromkeys(await self._resolve(target.host)))
            except (OSError, UnicodeError):  # a TimeoutError is an OSError
                found = []
        if not found:
            raise OutboundError(f"no address is known for {target.shown}")
        self._check_addresses(target, found)
        return found

    def _check_addresses(self, target: Target, found: Sequence[str]) -> None:
        """All of them: a name that means one address of each kind is a trap, not a service."""
        if target.host in self._allowed_hosts or all(is_open(address, self._allowed) for address in found):
            return
        raise UrlRefused(f"{target.shown} is not on the public internet; see outbound.allowed_networks")

    async def _prepared(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = await asyncio.to_thread(_usual_authorities)
        return self._tls

    def _client(self, tls: ssl.SSLContext) -> httpx.AsyncClient:
        """One a request: a connection that stayed open would serve another host at the same address."""
        import httpx

        timeout = httpx.Timeout(SILENCE_SECONDS, connect=self._connect_seconds)
        return httpx.AsyncClient(verify=tls, trust_env=False, follow_redirects=False, timeout=timeout)


def _usual_authorities() -> ssl.SSLContext:
    import httpx

    logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line a request, with the URL's secrets
    return httpx.create_ssl_context(trust_env=False)


def _target(url: str | httpx.URL) -> Target:
    """Raises UrlRefused."""
    import httpx

    try:
        if len(str(url)) > MAX_URL_LENGTH:
            raise UrlRefused(f"the URL is longer than {MAX_URL_LENGTH} characters")
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode("ascii").lower() if parsed.host else ""  # host: is it good IDNA?
    except (httpx.InvalidURL, UnicodeError):
        raise UrlRefused("this is not a URL") from None
    if parsed.scheme not in _SCHEMES:
        raise UrlRefused("the URL must begin with http:// or https://")
    if parsed.userinfo:
        raise UrlRefused("the URL must not have a user or a password in it")
    port_is_good = parsed.port is None or 0 < parsed.port < 65536
    if not port_is_good or not (_is_address(host) or _is_name(host)):
        raise UrlRefused("the URL names no host, or not in its usual form")
    return Target(parsed, host.rstrip("."), f"the host {host}")


def _is_address(host: str) -> bool:
    """In its usual form; one with a zone is none, as no URL has them."""
    try:
        return bool(ip_address(host)) and "%" not in host
    except ValueError:
        return False


def _is_name(host: str) -> bool:
    """As WHATWG's URLs have it: what ends in a number would be an address to some ("127.1", "0x7f000001")."""
    last = host.rstrip(".").rpartition(".")[2]
    return len(host) <= 254 and bool(_NAME.fullmatch(host)) and not _NUMBER.fullmatch(last)


def _request(client: httpx.AsyncClient, target: Target, address: str, ask: _Ask) -> httpx.Request:
    """To this address, for that host: the Host header and the name that TLS asks for are the URL's."""
    head = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "whisperd", **ask.headers}
    head["Host"] = target.url.netloc.decode("ascii")
    url = target.url.copy_with(host=address, fragment=None)
    extensions = {"sni_hostname": target.host}
    return client.build_request(ask.method, url, headers=head, content=ask.content, extensions=extensions)


async def _first_reached(client: httpx.AsyncClient, requests: Sequence[httpx.Request]) -> httpx.Response:
    """The answer at the first address that takes a connection; the troubles of the last one are raised."""
    import httpx

    *others, last = requests
    for request in others:
        with suppress(httpx.ConnectError, httpx.ConnectTimeout):
            return await client.send(request, stream=True)
    return await client.send(last, stream=True)


def _redirect(answer: httpx.Response, target: Target, ask: _Ask) -> Target | None:
    """Where it sends us on to; None where it does not, or where a POST must not follow. Raises UrlRefused."""
    location = answer.headers.get("location")
    if answer.status_code not in _MOVED or not location:
        return None
    if ask.method == "POST" and answer.status_code not in (307, 308):
        return None
    following = _joined(target, location)
    if target.url.scheme == "https" and following.url.scheme != "https":
        raise UrlRefused("it redirects from https to http")
    return None if ask.method == "POST" and following.host != target.host else following


def _joined(target: Target, location: str) -> Target:
    import httpx

    try:
        return _target(target.url.join(location))._replace(shown="the host that it redirects to")
    except (httpx.InvalidURL, UnicodeError, UrlRefused):
        raise UrlRefused("it redirects to what is no URL for whisperd") from None


async def _pieces(answer: httpx.Response, target: Target, max_bytes: int) -> AsyncIterator[bytes]:
    """The body as it comes, whatever length was declared."""
    size = 0
    with _told(target):
        async for piece in answer.aiter_raw():
            size += len(piece)
            if size > max_bytes:
                raise AnswerTooLarge(f"it has more than {max_bytes} bytes")
            yield piece


def _declared(answer: httpx.Response) -> int:
    length = answer.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else 0


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise OutboundError(f"it took longer than {seconds:g} seconds") from None
        raise


@contextmanager
def _told(target: Target) -> Iterator[None]:
    """The troubles of a connection, in our words: theirs name addresses."""
    import httpx

    try:
        yield
    except httpx.TimeoutException:
        raise OutboundError(f"{target.shown} does not answer in time") from None
    except httpx.ConnectError as error:
        what = "has no certificate that holds for it" if _is_about_tls(error) else "cannot be reached"
        raise OutboundError(f"{target.shown} {what}") from None
    except httpx.HTTPError:
        raise OutboundError(f"{target.shown} broke the connection off, or does not speak HTTP") from None


def _is_about_tls(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, ssl.SSLError) or _is_about_tls(error.__context__))
