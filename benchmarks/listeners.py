"""What listeners cost the workers: tasks a second of a real daemon with nobody and with 550 who listen.

    python -m benchmarks.listeners [--tasks 300] [--rounds 3] [--idle 500] [--slow 50]

Starts a daemon of its own and sends it clips of silence, each a task of one short plan, as fast as it takes
them: so the way of a task through HTTP, queue, workers and events is nearly all there is. Half of the idle
listeners are event streams, half WebSockets that subscribed, to a task that waits. The slow ones are
WebSockets that want to hear everything, and never read. Rounds without and with listeners alternate: machines
are busy.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import re
import resource
import socket
import sys
import tempfile
import wave
from collections.abc import AsyncIterator
from statistics import median
from time import perf_counter

import httpx
from msgspec import Struct
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect

from benchmarks.processor import processor_seconds
from whisperd.config import load

SENDERS = 8
MOST_MS = 10.0  # of processor time that listeners may cost a task: 2 % of what a worker needs for a chunk


class Figures(Struct, frozen=True):
    tasks_per_second: float
    daemon_ms: float  # of processor time, a task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=300, help="a round")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind")
    parser.add_argument("--idle", type=int, default=500)
    parser.add_argument("--slow", type=int, default=50)
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    alone, heard = asyncio.run(_measured(args))
    sys.exit(_report(args, alone, heard) > MOST_MS)


async def _measured(args: argparse.Namespace) -> tuple[list[Figures], list[Figures]]:
    alone, heard = [], []
    async with _daemon(args.idle + args.slow + 2 * SENDERS) as (process, client):
        await _round(process, client, args.tasks)  # to be warm
        for _ in range(args.rounds):
            alone.append(await _round(process, client, args.tasks))
            async with listeners(client, args.idle, args.slow):
                heard.append(await _round(process, client, args.tasks))
    return alone, heard


def _report(args: argparse.Namespace, alone: list[Figures], heard: list[Figures]) -> float:
    table = Table(title=f"{args.tasks} tasks a round, median of {args.rounds} rounds")
    for column in ("", "tasks/s", "daemon, ms a task"):
        table.add_column(column, justify="right" if column else "left")
    rates = [median(found.tasks_per_second for found in some) for some in (alone, heard)]
    costs = [median(found.daemon_ms for found in some) for some in (alone, heard)]
    for name, rate, cost in zip(
        ("no listeners", f"{args.idle} idle, {args.slow} slow"), rates, costs, strict=True
    ):
        table.add_row(name, f"{rate:.1f}", f"{cost:.2f}")
    Console().print(table)
    print(
        f"with listeners {rates[1] / rates[0]:.2f} of the tasks a second, in rounds of nothing but overhead"
    )
    print(f"they cost {costs[1] - costs[0]:.1f} ms a task (at most {MOST_MS:.0f} is promised)")
    return costs[1] - costs[0]


async def _round(process: asyncio.subprocess.Process, client: httpx.AsyncClient, tasks: int) -> Figures:
    numbers = iter(range(tasks))
    before, began = processor_seconds(process.pid), perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(SENDERS):
            group.create_task(_send(client, numbers))
    seconds, used = perf_counter() - began, processor_seconds(process.pid) - before
    return Figures(tasks / seconds, 1000 * used / tasks)


async def _send(client: httpx.AsyncClient, numbers: object) -> None:
    for _ in numbers:  # type: ignore[attr-defined]
        task = (await client.post("/tasks/transcription", files={"file": ("a.wav", silence())})).json()
        done = (await client.get(f"/tasks/{task['task_id']}?wait=60")).json()
        assert done["status"] == "completed", done


def silence() -> bytes:
    """A fifth of a second. Of another length each time, so that no two tasks are alike."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(bytes(6400) + os.urandom(8))
    return file.getvalue()


@contextlib.asynccontextmanager
async def listeners(client: httpx.AsyncClient, idle: int, slow: int) -> AsyncIterator[None]:
    answer = await client.post(
        "/tasks/transcription", files={"file": ("a.wav", silence())}, data={"run_at": "2100-01-01T00:00:00Z"}
    )
    task_id, address = answer.json()["task_id"], client.base_url
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(idle // 2):
            await stack.enter_async_context(_stream(address, task_id))
        for _ in range(idle - idle // 2):
            await _join(stack, f"ws://{address.host}:{address.port}/ws", task_id)
        for _ in range(slow):
            stack.callback(_deaf(address).close)
        yield
    await client.delete(f"/tasks/{task_id}")


async def _join(stack: contextlib.AsyncExitStack, url: str, task_id: str) -> None:
    """A WebSocket that subscribed to the task, and reads what it is told."""
    websocket = await stack.enter_async_context(connect(url, proxy=None))
    await websocket.send(f'{{"subscribe": ["{task_id}"]}}')
    reading = asyncio.create_task(_read(websocket))
    stack.callback(reading.cancel)


async def _read(websocket: object) -> None:
    async for _ in websocket:  # type: ignore[attr-defined]
        pass


@contextlib.asynccontextmanager
async def _stream(address: httpx.URL, task_id: str) -> AsyncIterator[None]:
    """An event stream of the task that reads all there is."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    head = f"GET /tasks/{task_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    writer.write(head.encode())
    await reader.readuntil(b"\r\n\r\n")
    reading = asyncio.create_task(reader.read())
    try:
        yield
    finally:
        reading.cancel()
        writer.close()


def _deaf(address: httpx.URL) -> socket.socket:
    """A WebSocket to which everything is told, and which takes nothing of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((address.host, address.port))
    head = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    connection.sendall((head + key).encode())
    return connection


@contextlib.asynccontextmanager
async def _daemon(connections: int) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "whisperd", "serve", "--port", "0", "--data-dir", folder]
        process = await asyncio.create_subprocess_exec(
            *(*command, "--models-dir", str(load().models_dir)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "WHISPERD_HTTP__MAX_CONNECTIONS": str(2 * connections)},
        )
        try:
            assert process.stdout is not None
            found = re.search(rb"http://\S+", await process.stdout.readline())
            assert found, "the daemon did not start"
            async with httpx.AsyncClient(base_url=found[0].decode(), timeout=90, trust_env=False) as client:
                yield process, client
        finally:
            process.terminate()
            await process.wait()


if __name__ == "__main__":
    main()
