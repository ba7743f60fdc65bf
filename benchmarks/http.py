"""How many requests a second the daemon answers, how long one waits, and how much its loop lags meanwhile.

    python -m benchmarks.http [--seconds 2] [--rounds 3] [--only WORD …] [--json FILE]

Submissions of a small file (4 KiB, another each time) over 1, 16 and 64 connections that are kept alive, as a
form and as JSON that names a file; then reads, and polling with an ETag, which is answered 304; then the same
with 500 who listen. A daemon of its own, paused, so that no worker takes part. The client is a process of
its own on raw sockets (benchmarks/hammer.py): its processor time a request stands in the last column, and
where it is near that of the daemon, the client is what was measured. Medians of
the rounds; of lags the worst.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from time import monotonic
from urllib.parse import urlsplit

import httpx
from msgspec import Struct, to_builtins
from rich.console import Console
from rich.table import Table

from benchmarks.daemon import Daemon, a_daemon
from benchmarks.hammer import UNIQUE, Order, ask
from benchmarks.listeners import listeners
from benchmarks.probed import FILE
from benchmarks.processor import processor_seconds

SIZE = 4096  # of a file that is submitted
LISTENERS = 500
WAV = b"RIFF\xff\xff\xff\xffWAVEfmt " + bytes(28)


class Load(Struct, frozen=True):
    name: str
    request: bytes
    connections: int
    status: int = 200


class Figures(Struct, frozen=True):
    """Of a load: each a median of the rounds, lags their worst."""

    rate: float  # a second
    p50_ms: float
    p99_ms: float
    lag_p99_ms: float
    lag_max_ms: float
    daemon_ms: float  # of processor time, a request
    client_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load, a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="loads with it in their name")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    figures = asyncio.run(_measured(given))
    _show(figures)
    if given.json:
        given.json.write_text(json.dumps(to_builtins(figures), indent=1))


async def _measured(given: argparse.Namespace) -> dict[str, Figures]:
    async with _a_daemon() as (daemon, probe, client, folder):
        loads = [load for load in await _loads(client, folder) if any(w in load.name for w in given.only)]
        figures = {load.name: await _rounds(given, daemon, probe, load) for load in loads}
        async with listeners(client, LISTENERS, 0):
            for load in loads:
                if load.connections == 16:
                    name = f"{load.name}, {LISTENERS} listen"
                    figures[name] = await _rounds(given, daemon, probe, load)
        return figures


@asynccontextmanager
async def _a_daemon() -> AsyncIterator[tuple[Daemon, Path, httpx.AsyncClient, Path]]:
    """And the file in which its probe writes, a client, and a folder of which it takes files."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = {"HTTP__MAX_CONNECTIONS": 2 * LISTENERS, "HTTP__ALLOWED_ROOTS": folder}
        probe = folder / "probe"
        daemon = stack.enter_context(
            a_daemon(program="benchmarks.probed", environ={FILE: str(probe)}, **settings)
        )
        daemon.client.pause()
        async with AsyncExitStack() as inner:
            client = httpx.AsyncClient(base_url=daemon.url, timeout=90, trust_env=False)
            yield daemon, probe, await inner.enter_async_context(client), folder


async def _loads(client: httpx.AsyncClient, folder: Path) -> list[Load]:
    (folder / "a.wav").write_bytes(WAV + bytes(SIZE))
    named = json.dumps({"audio_path": str(folder / "a.wav"), "prompt": UNIQUE.decode()}).encode()
    path = await _submitted(client)
    still = await _submitted(client, run_at="2100-01-01T00:00:00Z")  # what is in line moves up and down
    tag = (await client.get(still)).headers["etag"]
    submits = [Load(f"submit a form, {n}", submission(), n, 202) for n in (1, 16, 64)]
    return [
        *submits,
        Load("submit a path, 16", _post("application/json", named), 16, 202),
        *(Load(f"a task, {n}", _get(path), n) for n in (1, 16, 64)),
        Load("a task, 304, 16", _get(still, f"If-None-Match: {tag}\r\n"), 16, 304),
        Load("50 tasks, 16", _get("/tasks"), 16),
        Load("/stats, 16", _get("/stats"), 16),
        Load("/health, 16", _get("/health"), 16),
        Load("/health/live, 16", _get("/health/live"), 16),
    ]


async def _submitted(client: httpx.AsyncClient, **options: str) -> str:
    """The path of a task that waits."""
    answer = await client.post("/tasks/transcription", files={"file": ("a.wav", WAV)}, data=options)
    path: str = answer.headers["location"]
    return path


def submission() -> bytes:
    """Of a small file, another each time."""
    head = b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    body = head + WAV + bytes(SIZE) + UNIQUE + b"\r\n--frontier--\r\n"
    return _post("multipart/form-data; boundary=frontier", body)


def _post(media_type: str, body: bytes) -> bytes:
    lines = ["POST /tasks/transcription HTTP/1.1", "Host: localhost", f"Content-Type: {media_type}"]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def _get(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()


async def _rounds(given: argparse.Namespace, daemon: Daemon, probe: Path, load: Load) -> Figures:
    rounds = [await _round(given.seconds, daemon, probe, load) for _ in range(given.rounds)]
    figures = {name: median(getattr(one, name) for one in rounds) for name in Figures.__struct_fields__}
    worst = {name: max(getattr(one, name) for one in rounds) for name in ("lag_p99_ms", "lag_max_ms")}
    return Figures(**{**figures, **worst})


async def _round(seconds: float, daemon: Daemon, probe: Path, load: Load) -> Figures:
    address = urlsplit(daemon.url)
    assert address.hostname
    assert address.port
    order = Order(address.hostname, address.port, load.request, load.connections, seconds, load.status)
    began, used = monotonic(), processor_seconds(daemon.pid)
    report = await ask(order)
    ended = monotonic()
    used, count = processor_seconds(daemon.pid) - used, len(report.waits)
    waits, lags = sorted(report.waits), sorted(await _lags(probe, began, ended))
    return Figures(
        rate=report.rate,
        p50_ms=1000 * median(waits),
        p99_ms=1000 * waits[int(0.99 * count)],
        lag_p99_ms=1000 * lags[int(0.99 * len(lags))],
        lag_max_ms=1000 * lags[-1],
        daemon_ms=1000 * used / count,
        client_ms=1000 * report.processor_seconds / count,
    )


async def _lags(probe: Path, begins: float, ends: float) -> list[float]:
    """Those of this time, once the probe has written them."""
    looks = _looks(probe)
    while not looks or looks[-1][0] < ends:
        await asyncio.sleep(0.1)
        looks = _looks(probe)
    return [lag for at, lag in looks if begins <= at <= ends]


def _looks(probe: Path) -> list[tuple[float, float]]:
    lines = probe.read_text().splitlines()[:-1]  # the last may be a part
    return [(float(at), float(lag)) for at, lag in map(str.split, lines)]


def _show(figures: dict[str, Figures]) -> None:
    table = Table(title="requests, and the number of connections that make them")
    heads = ("", "a second", "p50 ms", "p99 ms", "lag p99", "lag max", "daemon, CPU ms", "client, CPU ms")
    for column in heads:
        table.add_column(column, justify="right" if column else "left")
    for name, one in figures.items():
        shown = [f"{one.rate:.0f}", f"{one.p50_ms:.1f}", f"{one.p99_ms:.1f}"]
        shown += [f"{one.lag_p99_ms:.1f}", f"{one.lag_max_ms:.1f}"]
        table.add_row(name, *shown, f"{one.daemon_ms:.3f}", f"{one.client_ms:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
