"""Where the daemon listens, and what its end does to requests that are under way."""

import asyncio
import json
import subprocess
import sys

import pytest

from tests.http_server import a_form, a_request, parsed, the_file, until
from whisperd import listening, spool
from whisperd.config import Http
from whisperd.http import CutOff
from whisperd.listening import bind, http_server


def test_an_upload_that_the_stop_cuts_off_is_told_to_come_back(with_server, caplog):
    async def body(server):
        uvicorn = http_server(server.services)
        uvicorn.config.timeout_graceful_shutdown = 0.1
        listening = bind(Http(port=0))
        serving = asyncio.create_task(uvicorn.serve([listening]))
        await until(lambda: uvicorn.started)
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        request = a_request(a_form(the_file(sound=bytes(2 * spool.BUFFER))))  # more than is gathered
        writer.write(request[:-5000])
        await until(lambda: server.receives)

        server.services.draining = True
        uvicorn.should_exit = True
        status, headers, content = parsed(await reader.read())
        writer.close()
        await serving

        assert (status, headers["content-type"]) == (503, "application/json")
        assert int(headers["retry-after"]) > 0
        assert json.loads(content)["error"]["code"] == "shutting_down"
        assert list(server.folder.iterdir()) == []

    with_server(body)
    assert [entry.exc_info for entry in caplog.records if entry.levelname == "ERROR"] == [None]
    caplog.clear()  # uvicorn says that it cancels a request


def test_a_download_that_the_stop_cuts_off_is_no_bug_in_the_log(with_server):
    async def body(server):
        server.services.draining = True
        sent = []

        async def endless(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await asyncio.Future()

        downloading = asyncio.create_task(cut_off(endless, server, sent))
        await until(lambda: sent)
        downloading.cancel()
        await downloading

        assert [message["type"] for message in sent] == ["http.response.start"]

    with_server(body)


def test_a_request_that_is_cancelled_while_nothing_stops_is_cancelled(with_server):
    async def body(server):
        sent = []

        async def endless(scope, receive, send):
            await asyncio.Future()

        asking = asyncio.create_task(cut_off(endless, server, sent))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])

        assert asking.cancelled()
        assert sent == []

    with_server(body)


async def cut_off(app, server, sent):
    async def send(message):
        sent.append(message)

    await CutOff(app, server.services)({"type": "http"}, None, send)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_keys_no_address_is_taken_that_others_can_reach(host):
    with pytest.raises(OSError, match=r"without keys .* `whisperd keys add`, or set http\.host"):
        bind(Http(host=host, port=0))


def test_with_keys_any_address_is_taken():
    with bind(Http(host="0.0.0.0", port=0), asks_for_keys=True) as listening:
        assert listening.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize("host", ["no such name", "a" * 64 + ".lan"])
def test_a_host_without_an_address_is_told_with_what_to_do(host):
    with pytest.raises(OSError, match=rf"cannot listen on {host}: no address is known.*set http\.host"):
        bind(Http(host=host, port=0))


def test_a_port_that_is_taken_is_told():
    with bind(Http(port=0)) as taken:
        taken.listen()

        with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already in use"):
            bind(Http(port=taken.getsockname()[1]))


def test_every_connection_that_is_let_in_may_bring_audio(monkeypatch):
    """A socket and a file each: else the last ones would be accepted, and could not be written."""
    monkeypatch.setattr(listening, "_allow_files", lambda: listening.FILES_OF_OURS + 2 * 300)

    server = listening.server_of(None, Http(max_connections=1000))

    assert server.config.crowd.most == 300


_SERVES = """
import asyncio, sys
from whisperd.config import Http
from whisperd.listening import bind, server_of

async def serve():
    server = server_of(None, Http())
    server.should_exit = True  # as soon as it listens
    with bind(Http(port=0)) as listening:
        await server.serve([listening])

asyncio.run(serve())
print("anyio._backends._asyncio" in sys.modules)
"""


def test_the_first_stream_does_not_hold_up_the_loop_to_load_what_it_needs():
    done = subprocess.run([sys.executable, "-P", "-c", _SERVES], capture_output=True, text=True, timeout=60)

    assert done.stdout == "True\n", done.stderr
