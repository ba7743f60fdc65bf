"""The listening socket and the HTTP server on it: uvicorn, without its ways that do not fit a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import uvicorn
from msgspec.structs import replace
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from whisperd.config import Http
from whisperd.connections import ServerConfig, Tell
from whisperd.http import build_app
from whisperd.routes import Services

HTTP_GRACE_SECONDS = 1  # for answers under way
TICK_SECONDS = 1.0
LAST_WORDS_SECONDS = 0.1  # for the WebSockets that are being closed: uvicorn's own close code is another
FILES_OF_OURS = 256  # open at a time, besides connections and what comes over them
FILES_EACH = 2  # of a connection: its own, and that of the audio which it brings


def bind(config: Http, *, asks_for_keys: bool = False) -> socket.socket:
    """The listening socket. Without keys it must be one that only this machine can reach."""
    info = _address(config)
    if not asks_for_keys and not ip_address(info[4][0].partition("%")[0]).is_loopback:
        raise OSError(
            f"refusing to listen on {config.host}: without keys whisperd serves only this machine. "
            "Make one with `whisperd keys add`, or set http.host to 127.0.0.1"
        )
    # With its protocol named: asyncio sets TCP_NODELAY only then, and answers would wait 40 ms (Nagle).
    listening = socket.socket(info[0], info[1], info[2])
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(info[4])
    except OSError as error:
        listening.close()
        raise OSError(f"cannot listen on {config.host}:{config.port}: {error.strerror}") from None
    return listening


def _address(config: Http) -> tuple[Any, ...]:
    """The first that the host stands for, as getaddrinfo tells it."""
    try:
        return socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:  # no such name; one that cannot be a name
        why = error.strerror if isinstance(error, OSError) else "not a name"
        raise OSError(
            f"cannot listen on {config.host}: no address is known for it ({why}); set http.host to 127.0.0.1"
        ) from None


def announce(listening: socket.socket) -> None:
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"whisperd is ready on {url}", flush=True)
    example = os.environ.get("WHISPERD_EXAMPLE", "talk.mp3")  # `make run` names a clip that is there
    print(f"Try it: curl -F file=@{example} {url}/tasks/transcription", flush=True)


def http_server(services: Services) -> uvicorn.Server:
    return server_of(build_app(services), services.config.http, services.counts.refused)


def server_of(app: ASGIApp, limits: Http, refused: Tell = lambda reason: None) -> uvicorn.Server:
    most = min(limits.max_connections, (_allow_files() - FILES_OF_OURS) // FILES_EACH)
    return _Server(
        ServerConfig(
            app,
            replace(limits, max_connections=max(1, most)),
            refused,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            backlog=512,  # so many are also taken in one go, between which nobody is answered
            timeout_keep_alive=limits.keep_alive_seconds,
            timeout_graceful_shutdown=HTTP_GRACE_SECONDS,
            ws_max_size=2**20,
            h11_max_incomplete_event_size=2**16,
        )
    )


def _allow_files() -> int:
    """Let the process open as many files, and so connections, as it may; their number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 2**20


class _Server(uvicorn.Server):
    """Leaves signals to the daemon: uvicorn would raise them again after it has shut down.

    And sleeps longer: uvicorn wakes ten times a second to see whether it is to end, which was most of what an
    idle daemon did.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        self._to_end = asyncio.Event()
        super().__init__(config)

    @property
    def should_exit(self) -> bool:
        return self._to_end.is_set()

    @should_exit.setter
    def should_exit(self, ends: bool) -> None:
        self._to_end.set() if ends else self._to_end.clear()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # which renews the Date of the answers
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._to_end.wait()
        await asyncio.sleep(LAST_WORDS_SECONDS)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Loads what Starlette streams by: 40 ms of the loop, for which its first stream held it up.
        await run_in_threadpool(int)
        await super().startup(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
