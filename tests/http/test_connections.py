"""Slow and many clients, on real connections to a real server. The looks at their pace are made by hand."""

import asyncio
import contextlib
import json
import socket

import pytest

from tests.http_server import NOTHING, a_form, a_request, parsed, the_file, until
from whisperd.config import Http
from whisperd.connections import MAX_HEADERS, SPARE
from whisperd.listening import bind, server_of
from whisperd.spool import BUFFER

HOURS = 10_000.0  # seconds: what is not the point of a test does not happen in it
LEAST = 600  # bytes that have to move between two looks
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Served:
    """A server of an application, its clients, and what it knows of their connections."""

    def __init__(self, app, uvicorn, address, refused):
        self.app, self.uvicorn, self.address = app, uvicorn, address
        self.refused = refused  # the reasons that were told
        self._writers = []

    @property
    def connections(self):
        return list(self.uvicorn.server_state.connections)

    async def connected(self, *pieces):
        """A client that has sent these bytes, and that the server has heard of."""
        before = self.connections
        reader, writer = await self.open()
        writer.write(b"".join(pieces))
        await until(lambda: set(self.connections) - set(before))
        return reader, writer

    async def open(self):
        reader, writer = await asyncio.open_connection(*self.address)
        self._writers.append(writer)
        return reader, writer

    async def ask(self, request=GET):
        """The answer as (status, headers, body); the connection is closed behind it."""
        reader, writer = await self.open()
        writer.write(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        return parsed(await reader.read())

    def look(self):
        for connection in self.connections:
            connection.look()

    async def heard(self, size):
        """Wait until so many bytes came since the last look."""
        (connection,) = self.connections
        await until(lambda: connection._came >= size)

    def leave(self):
        for writer in self._writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(app, **limits):
    hours = {"head_seconds": HOURS, "slow_seconds": HOURS, "keep_alive_seconds": int(HOURS)}
    http = Http(**{"port": 0, **hours, "min_bytes_per_second": 0, **limits})
    refused = []
    uvicorn = server_of(app, http, refused.append)
    with bind(http) as listening:
        running = asyncio.create_task(uvicorn.serve([listening]))
        await until(lambda: uvicorn.started)
        served = Served(app, uvicorn, listening.getsockname(), refused)
        try:
            yield served
        finally:
            served.leave()
            await until(lambda: not uvicorn.server_state.connections)
            uvicorn.should_exit = True
            await running


def run(body, app=None, **limits):
    async def main():
        async with asyncio.timeout(60), serving(app or answering, **limits) as served:
            await body(served)

    asyncio.run(main())


def paced(body, app=None, **limits):
    run(body, app, slow_seconds=HOURS, min_bytes_per_second=LEAST / HOURS, **limits)


async def answering(scope, receive, send):
    """An application that reads a request and answers it."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Waiting:
    """An application that does nothing with a request until it may."""

    def __init__(self):
        self.may = asyncio.Event()
        self.asked = 0

    async def __call__(self, scope, receive, send):
        self.asked += 1
        if not scope["path"].startswith("/health"):
            await self.may.wait()
        await answering(scope, receive, send)


def the_refusal(answer):
    status, headers, content = answer
    error = json.loads(content)["error"]
    assert headers["x-content-type-options"] == "nosniff"
    return status, error["code"]


def an_upload(length, sent=b""):
    return f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode() + sent


# --- the head ---


def test_a_head_that_does_not_end_is_not_waited_for():
    async def body(served):
        reader, _ = await served.connected(GET[:-1])

        assert the_refusal(parsed(await reader.read())) == (408, "too_slow")

    run(body, head_seconds=0.1)


def test_a_head_that_comes_byte_by_byte_has_no_more_time():
    async def body(served):
        reader, writer = await served.connected(GET[:-2])
        ended = asyncio.create_task(reader.read())
        while not ended.done():
            writer.write(b"X")
            await asyncio.sleep(0.002)

        with contextlib.suppress(ConnectionResetError):  # a byte too late can take the answer with it
            assert the_refusal(parsed(ended.result())) == (408, "too_slow")

    run(body, head_seconds=0.1)


def test_a_connection_that_asks_nothing_is_closed_without_a_word():
    async def body(served):
        reader, _ = await served.connected()

        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        await until(lambda: not served.connections)

    run(body, head_seconds=0.1)


def test_an_answer_may_take_longer_than_a_head():
    async def body(served):
        reader, _ = await served.connected(GET)
        silent, _ = await served.connected()
        with contextlib.suppress(ConnectionResetError):
            await silent.read()  # it came later, and its time is over
        served.app.may.set()

        assert b"200 OK" in await reader.readuntil(b"ok")

    run(body, Waiting(), head_seconds=0.05)


def test_the_head_of_a_second_request_has_its_own_time():
    async def body(served):
        reader, writer = await served.connected(GET)
        await reader.readuntil(b"ok")
        writer.write(GET[:-1])

        assert the_refusal(parsed(await reader.read())) == (408, "too_slow")

    run(body, head_seconds=0.1)


def test_a_connection_is_kept_for_a_next_request_only_for_a_while():
    async def body(served):
        reader, _ = await served.connected(GET)
        await reader.readuntil(b"ok")

        assert await reader.read() == b""

    run(body, keep_alive_seconds=0)


def test_more_headers_than_anybody_needs_are_refused():
    async def body(served):
        headers = b"".join(b"X-%d: 1\r\n" % n for n in range(MAX_HEADERS))

        assert the_refusal(await served.ask(GET[:-2] + headers + b"\r\n")) == (431, "too_many_headers")
        assert served.refused == ["headers"]

    run(body)


def test_what_is_not_http_is_told_so():
    async def body(served):
        reader, _ = await served.connected(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")

        assert the_refusal(parsed(await reader.read())) == (400, "malformed_request")
        assert served.refused == ["malformed"]

    run(body)


def test_what_is_not_http_in_the_middle_of_an_answer_ends_it():
    """uvicorn would raise, since it cannot begin a second answer."""

    async def body(served):
        chunked = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        reader, writer = await served.connected(chunked)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"no chunk\r\n")

        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        await until(lambda: not served.connections)

    run(body, beginning)


async def beginning(scope, receive, send):
    """An application that begins its answer at once and goes on as long as the client is there."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while (await receive())["type"] != "http.disconnect":
        pass


# --- the body ---


@pytest.mark.parametrize(("came", "is_cut_off"), [(0, True), (LEAST - 1, True), (LEAST, False)])
def test_a_body_has_to_come_on(came, is_cut_off):
    async def body(served):
        reader, writer = await served.connected(an_upload(10_000, b"begun"))
        await served.heard(5)
        served.look()  # from here on it is due
        writer.write(bytes(came))
        await served.heard(came)
        served.look()

        if is_cut_off:
            assert the_refusal(parsed(await reader.read())) == (408, "too_slow")
        else:
            writer.write(bytes(10_000 - came - 5))
            assert b"200 OK" in await reader.readuntil(b"ok")

    paced(body)


def test_a_body_is_given_the_time_between_two_looks():
    async def body(served):
        reader, writer = await served.connected(an_upload(10, b"begun"))
        await served.heard(5)
        served.look()
        writer.write(bytes(5))
        await reader.readuntil(b"ok")

        request = an_upload(10_000, b"begun")  # the next one, just before the next look
        writer.write(request)
        await served.heard(5 + len(request))
        served.look()
        writer.write(bytes(9_995))

        assert b"200 OK" in await reader.readuntil(b"ok")

    paced(body)


def test_an_upload_that_stalls_leaves_nothing_behind(with_server):
    async def body(server):
        limits = {"slow_seconds": HOURS, "min_bytes_per_second": LEAST / HOURS}
        async with serving(server.app, **limits) as served:
            request = a_request(a_form(the_file(sound=bytes(3 * BUFFER))))
            reader, _ = await served.connected(request[: 2 * BUFFER])
            await until(lambda: list(server.folder.iterdir()))
            await served.heard(2 * BUFFER)
            (connection,) = served.connections
            await until(lambda: not connection.flow.read_paused)
            served.look()
            served.look()

            assert the_refusal(parsed(await reader.read())) == (408, "too_slow")
            await until(lambda: not list(server.folder.iterdir()))
            assert await server.left() == NOTHING

    with_server(body)


def test_nothing_is_due_while_we_keep_the_client_waiting():
    async def body(served):
        reader, writer = await served.connected(an_upload(200_000, bytes(100_000)))
        (connection,) = served.connections
        await until(lambda: connection.flow.read_paused)
        for _ in range(3):
            served.look()
        served.app.may.set()
        writer.write(bytes(100_000))

        assert b"200 OK" in await reader.readuntil(b"ok")

    paced(body, Waiting())


def test_nothing_was_due_where_we_kept_the_client_waiting_for_some_of_the_time():
    async def body(served):
        reader, writer = await served.connected(an_upload(100_000, bytes(65_400)))
        await served.heard(65_400)
        (connection,) = served.connections
        served.look()
        writer.write(bytes(200))
        await until(lambda: connection.flow.read_paused)
        served.app.may.set()
        await until(lambda: not connection.flow.read_paused)
        served.look()
        writer.write(bytes(100_000 - 65_600))

        assert b"200 OK" in await reader.readuntil(b"ok")

    paced(body, Waiting())


def test_nothing_is_due_from_a_client_that_waits_to_be_asked():
    async def body(served):
        request = an_upload(1000).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
        reader, writer = await served.connected(request)
        await until(lambda: served.app.asked)
        for _ in range(3):
            served.look()
        served.app.may.set()
        assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
        writer.write(bytes(1000))

        assert b"200 OK" in await reader.readuntil(b"ok")

    paced(body, Waiting())


def test_the_rest_of_a_body_that_was_answered_is_not_read_for_ever():
    async def early(scope, receive, send):
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})

    async def body(served):
        reader, writer = await served.connected(an_upload(10**9))
        await reader.readuntil(b"no")
        served.look()
        writer.write(bytes(10 * LEAST))  # at whatever pace
        await served.heard(10 * LEAST)
        served.look()

        await until(lambda: not served.connections)

    paced(body, early)


# --- the answer ---


async def streaming(scope, receive, send):
    """An application that sends as much as is taken."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    gone = asyncio.create_task(receive())
    while not gone.done():
        await send({"type": "http.response.body", "body": bytes(16_384), "more_body": True})
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def a_deaf_client(served, request=GET):
    """It asks, and reads nothing: the buffers on the way are full."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, served.address)
        await loop.sock_sendall(client, request)
        await until(lambda: served.connections and unsent(served) > 0)
        yield client


def unsent(served):
    (connection,) = served.connections
    return connection.transport.get_write_buffer_size()


def test_a_client_that_does_not_take_its_answer_is_cut_off():
    async def body(served):
        async with a_deaf_client(served):
            (connection,) = served.connections
            await until(lambda: connection.flow.write_paused)
            served.look()
            assert served.connections
            served.look()

            await until(lambda: not served.connections and not served.uvicorn.server_state.tasks)

    paced(body, streaming)


def test_a_client_that_takes_its_answer_slowly_gets_it():
    async def body(served):
        async with a_deaf_client(served) as client:
            (connection,) = served.connections
            await until(lambda: connection.flow.write_paused)
            for _ in range(3):
                served.look()
                while not connection.resumed:
                    client_read = await asyncio.get_running_loop().sock_recv(client, 65_536)
                    assert client_read
                    await asyncio.sleep(0)
                await until(lambda: connection.flow.write_paused)  # there is as much in it as before
            served.look()

            assert served.connections == [connection]

    paced(body, streaming)


def test_an_answer_that_is_whole_and_not_taken_keeps_no_connection():
    """Its application is done, and a close waits for the client; nobody else would end it."""

    async def large(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": bytes(20 * 2**20)})

    async def body(served):
        async with a_deaf_client(served):
            await until(lambda: not served.uvicorn.server_state.tasks)
            served.look()
            served.look()

            await until(lambda: not served.connections)

    paced(body, large)


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def talking(scope, receive, send):
    """A WebSocket application that sends as much as is taken."""
    await receive()
    await send({"type": "websocket.accept"})
    with contextlib.suppress(OSError):
        while True:
            await send({"type": "websocket.send", "bytes": bytes(16_384)})
            await asyncio.sleep(0)


def test_a_websocket_client_that_does_not_read_is_cut_off():
    async def body(served):
        async with a_deaf_client(served, UPGRADE):
            (socket,) = served.connections
            await until(lambda: not socket.writable.is_set())
            watch = socket._connection
            watch.look()
            assert served.connections
            watch.look()

            await until(lambda: not served.connections and not served.uvicorn.server_state.tasks)
            assert len(watch._crowd) == 0

    paced(body, talking)


def test_a_websocket_client_that_answers_no_ping_is_cut_off_though_it_takes_nothing():
    async def body(served):
        async with a_deaf_client(served, UPGRADE):
            (socket,) = served.connections
            socket.keepalive_timeout()

            await until(lambda: not served.connections and not served.uvicorn.server_state.tasks)

    run(body, talking)


def test_a_websocket_that_came_after_a_request_is_let_be():
    async def listening(scope, receive, send):
        if scope["type"] == "http":
            await answering(scope, receive, send)
            return
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def body(served):
        reader, writer = await served.connected(GET)
        await reader.readuntil(b"ok")
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        (socket,) = served.connections
        for _ in range(3):
            socket._connection.look()

        assert served.connections == [socket]
        assert not socket.transport.is_closing()

    paced(body, listening)


# --- many ---


def test_beyond_the_limit_requests_are_told_to_come_back_and_health_is_answered():
    async def body(served):
        for n in range(3):
            await served.connected(GET)
            await until(lambda n=n: served.app.asked == n + 1)

        _, headers, _ = answer = await served.ask()
        assert the_refusal(answer) == (503, "too_many_connections")
        assert int(headers["retry-after"]) > 0
        for path in (b"/health", b"/health/live", b"/health/ready"):
            assert (await served.ask(GET.replace(b"/", path, 1)))[0] == 200
        reader, writer = await served.open()
        writer.write(UPGRADE)
        assert the_refusal(parsed(await reader.read())) == (503, "too_many_connections")
        assert served.refused == ["crowded", "crowded"]

        served.app.may.set()
        await until(lambda: not served.uvicorn.server_state.tasks)
        assert (await served.ask())[0] == 200

    run(body, Waiting(), max_connections=3)


def test_websockets_count_as_connections():
    async def hanging(scope, receive, send):
        while (await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.accept"})

    async def body(served):
        for _ in range(2):
            reader, writer = await served.connected(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
        assert the_refusal(await served.ask()) == (503, "too_many_connections")

        writer.transport.abort()
        await until(lambda: len(served.connections) == 1)
        assert b"101 Switching" in await (await served.connected(UPGRADE))[0].readuntil(b"\r\n\r\n")

    run(body, hanging, max_connections=2)


def test_who_asks_nothing_makes_room_the_longest_idle_first():
    async def body(served):
        busy, _ = await served.connected(GET)
        await until(lambda: served.app.asked)
        silent, _ = await served.connected()
        half, writer = await served.connected(GET[:-2])

        served.app.may.set()
        assert b"200 OK" in await busy.readuntil(b"ok")
        assert (await served.ask())[0] == 200  # a fourth

        with contextlib.suppress(ConnectionResetError):
            assert await silent.read() == b""
        writer.write(b"\r\n")
        assert b"200 OK" in await half.readuntil(b"ok")

    run(body, Waiting(), max_connections=3)


def test_two_thousand_half_open_connections_leave_health_answered_and_a_bounded_number():
    most = 200

    async def body(served):
        with contextlib.ExitStack() as stack:
            for _ in range(2000):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, served.address)
                client.send(GET[:-1])

            assert (await served.ask(GET.replace(b"/", b"/health", 1)))[0] == 200
            assert (await served.ask())[0] == 200
            assert len(served.connections) <= most + SPARE

    run(body, max_connections=most)


def test_beyond_the_spare_ones_connections_are_not_taken():
    async def body(served):
        for _ in range(1 + SPARE):
            await served.connected(an_upload(10))
        await until(lambda: served.app.asked == 1)

        reader, _ = await served.open()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert served.refused[-1] == "dropped"
        served.app.may.set()

    run(body, Waiting(), max_connections=1)
