"""The application behind a real uvicorn server, in the tests' own event loop. The tests play the workers.

One server listens for the whole session, configured as the daemon's; each test puts an application of its
own behind it, on a fresh database and spool. No worker process runs: a test plays the worker itself.
"""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import time

import httpx
import websockets.asyncio.client
from starlette.types import ASGIApp

from tests.outside import fake_names
from whisperd import links
from whisperd.arrival import Arrival
from whisperd.backup import BackupStore
from whisperd.buckets import Buckets
from whisperd.condition import Condition
from whisperd.config import S3, Config, Http, Search, Storage
from whisperd.config import Outbound as OutboundSettings
from whisperd.counts import Counts
from whisperd.db import Database
from whisperd.detections import Detections
from whisperd.detector import Detector
from whisperd.drain import Drain
from whisperd.events import Events
from whisperd.history import History
from whisperd.http import build_app
from whisperd.keys import KeyRing
from whisperd.listening import server_of
from whisperd.minutes import Minutes
from whisperd.model_store import ModelStore
from whisperd.muting import Muting
from whisperd.outbound import Outbound
from whisperd.outbox import Outbox
from whisperd.outlook import Outlook
from whisperd.queue import SqliteQueue
from whisperd.redacting import Redacting
from whisperd.risk_protocol import Settings as SearchSettings
from whisperd.routes import Services
from whisperd.searcher import Books, Searcher
from whisperd.sessions import Sessions
from whisperd.sources import Sources
from whisperd.spool import Spool
from whisperd.task import PLAN, Cut, Piece, Plan, Rules, Segment
from whisperd.worker_pool import PoolSettings, WorkerPool

SECOND = 16_000  # samples
SOUND = b"RIFF\x24\x10\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00" + bytes(range(256)) * 8
SUBMIT = "/tasks/transcription"
NOTHING = {"files": [], "task": 0, "chunk": 0, "idempotency": 0}
NAMES = {"example.org": ["127.0.0.1"], "inside.example": ["127.0.0.2"]}  # what DNS there is
LEASE_SECONDS = 120.0
DEADLINE = 10.0  # seconds; nothing here takes one
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # to make one for each client costs more than a request


class Stage:
    """A server that listens before there is an application: `app` is swapped by each test."""

    def __init__(self, folder):
        self.app = None
        self.empty = folder / "empty.db"  # what each test's database is a copy of
        # With its protocol named, as asyncio asks for it: else each answer waits 40 ms (Nagle, delayed ACK).
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.server = server_of(self, Http())

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def listening(self):
        async with Database(self.empty):
            pass
        serving = asyncio.create_task(self.server.serve([self.socket]))
        await until(lambda: self.server.started)
        yield
        self.server.should_exit = True
        await serving

    async def quiet(self):
        """Wait until the server works on no request any more: none may hang on once all streams end."""
        tasks = self.server.server_state.tasks
        try:
            await until(lambda: not tasks)
        finally:
            for task in tasks:  # else the next test suffers
                task.cancel()


@dataclass
class Server:
    """What a test sees: the address, a client, and all the parts behind it."""

    port: int
    config: Config
    db: Database
    queue: SqliteQueue
    outbox: Outbox
    events: Events
    spool: Spool
    services: Services
    client: httpx.AsyncClient
    folder: Path  # the spool's
    allowed: Path  # a root for `audio_path`; holds a.wav
    app: ASGIApp
    _serial: Iterator[int] = field(default_factory=count)

    @property
    def receives(self):
        """Whether audio is coming: a small file is in the spool only once it is whole."""
        return bool(self.spool._arriving)

    # --- as a client ---

    async def post(self, sound=SOUND, name="a.wav", headers=None, **fields):
        """Submit by multipart; the answer as it is."""
        files = {"file": (name, sound, "audio/wav")}
        return await self.client.post(SUBMIT, files=files, data=fields, headers=headers)

    async def post_json(self, headers=None, **fields):
        """Submit by JSON, the sound that lies in the allowed root unless told otherwise."""
        body = {"audio_path": str(self.allowed / "a.wav"), **fields}
        return await self.client.post(SUBMIT, json=body, headers=headers)

    async def post_form(self, *parts, headers=None, **options):
        """Submit a multipart body of our own making."""
        kind = {"Content-Type": "multipart/form-data; boundary=frontier"}
        return await self.client.post(
            SUBMIT, content=a_form(*parts, **options), headers={**kind, **(headers or {})}
        )

    async def submit(self, sound=None, **fields):
        """Submit sound that no other task has; the task."""
        answer = await self.post(sound or SOUND + str(next(self._serial)).encode(), **fields)
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def get(self, path, **parameters):
        return await self.client.get(path, params=parameters)

    async def task(self, task_id):
        return (await self.get(f"/tasks/{task_id}")).json()

    async def exchange(self, *pieces):
        """Send bytes as they are; the answer as (status, headers, body), read until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        async with asyncio.timeout(DEADLINE), contextlib.aclosing(_closing(writer)) as closing:
            await anext(closing)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return parsed(await reader.read())

    async def ask(self, path, method="GET", headers=(), pieces=(b"",), client=("127.0.0.1", 50_000)):
        """Call the application with no server between: a request from any address, a body in any pieces."""
        waiting = list(pieces)
        sent = []

        async def receive():
            if waiting:
                return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}
            return await asyncio.Future()

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"localhost"), *((a.encode(), b.encode()) for a, b in headers)],
            "client": client,
            "server": ("127.0.0.1", self.port),
        }
        await self.app(scope, receive, send)
        body = b"".join(message.get("body", b"") for message in sent)
        return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=body)

    def websocket(self, origin=None, **options):
        url = f"ws://127.0.0.1:{self.port}/ws"
        return websockets.asyncio.client.connect(url, origin=origin, proxy=None, **options)

    @contextlib.asynccontextmanager
    async def events_of(self, task_id, after=None):
        """The open event stream of a task, as (id, event, data) a frame; a ping is a frame of None."""
        headers = {} if after is None else {"Last-Event-ID": after}
        async with self.client.stream("GET", f"/tasks/{task_id}/events", headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            async with contextlib.aclosing(_frames(answer)) as frames:
                yield frames

    def listeners(self):
        """How many streams are open on the events."""
        return len(self.events._all) + sum(map(len, self.events._by_task.values()))

    # --- as a worker ---

    async def plan(self, chunks=1):
        """Claim the next plan and make it: chunks of ten seconds."""
        chunk = await self.queue.claim()
        assert chunk.number == PLAN
        cuts = tuple(Cut(pieces=(Piece(n * 10 * SECOND, (n + 1) * 10 * SECOND),)) for n in range(chunks))
        plan = Plan(fingerprint="f", cuts=cuts, duration=10.0 * chunks, language="en")
        return await self.queue.plan(chunk, plan)

    async def finish(self, *texts):
        """Claim the next chunk and finish it with a segment a text."""
        chunk = await self.queue.claim()
        return await self.queue.finish(chunk, said(chunk.number, *texts))

    async def completed(self, *texts, **fields):
        task = await self.submit(**fields)
        await self.plan(1)
        await self.finish(*(texts or ("Ask not.",)))
        return task

    @contextlib.asynccontextmanager
    async def detecting(self, max_seconds=30.0, paused=lambda: False):
        """A detector at work while the block lasts."""
        searcher = Searcher(self.services.searcher.books, self.services.searcher.settings)
        detector = Detector(
            self.services.detections,
            searcher,
            self.events,
            self.services.counts,
            lambda: max_seconds,
            paused,
        )
        working = asyncio.create_task(detector.run())
        try:
            yield searcher
        finally:
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working

    # --- what is left ---

    async def left(self):
        """Everything that a submission can leave behind."""

        def rows(conn):
            return {
                table: conn.execute(f"select count(*) from {table}").fetchone()[0]
                for table in ("task", "chunk", "idempotency")
            }

        return {"files": sorted(path.name for path in self.folder.iterdir()), **await self.db.read(rows)}


def said(number, *texts):
    """Segments of a second each, in chunk `number` of ten seconds."""
    start = (number - 1) * 10.0
    return [Segment(start=start + n, end=start + n + 1, text=text) for n, text in enumerate(texts)]


@contextlib.asynccontextmanager
async def a_server(
    stage,
    folder,
    *,
    http=None,
    storage=None,
    outbound=None,
    s3=None,
    search=None,
    tracing=None,
    workers=0,
    now=time,
    **rules,
):
    """An application of its own behind the server, with settings of some sections."""
    allowed = folder / "allowed"
    allowed.mkdir()
    (allowed / "a.wav").write_bytes(SOUND)
    config = Config(
        http=Http(**{"max_upload_bytes": 2**20, "allowed_roots": (str(allowed),), **(http or {})}),
        outbound=OutboundSettings(**{"allowed_networks": ("127.0.0.1",), **(outbound or {})}),
        s3=S3(**(s3 or {})),
        search=Search(**(search or {})),
        storage=Storage(
            **{
                "data_dir": str(folder),
                "models_dir": str(folder / "models"),
                "min_free_mb": 0,
                "warn_free_mb": 0,
                **(storage or {}),
            }
        ),
    )
    _models(config.models_dir)
    shutil.copy(stage.empty, folder / "q.db")
    counts = Counts()
    async with Database(folder / "q.db", committed=counts.committed) as db:
        events = Events()
        queue = SqliteQueue(db, events, Rules(**rules), now, counts=counts)
        outbox = Outbox(db, now)
        spool = Spool(
            folder / "spool",
            max_bytes=config.http.max_upload_bytes,
            min_free_bytes=config.storage.min_free_mb * 2**20,
        )
        store = ModelStore(config)
        backups = BackupStore(folder / "backups", now=now)
        settings = PoolSettings(workers=max(1, workers), threads=1)
        pool = WorkerPool(queue, events, spool, store.find, config.workers.model, settings, counts)
        del pool._slots[workers:]  # a pool has at least one
        searcher = Searcher(
            Books(), SearchSettings(daemon_pid=os.getpid(), rules_dir=str(folder / "rules"), nice=0)
        )
        detections = Detections(db, events, queue.told_all, now)
        redacting = Redacting(queue, detections)
        services = Services(
            queue=queue,
            events=events,
            history=History(db),
            detections=detections,
            redacting=redacting,
            muting=Muting(spool, settings),
            searcher=searcher,
            outbox=outbox,
            resend=outbox.resend,
            spool=spool,
            sources=Sources(config, Outbound(config.outbound, fake_names(NAMES)), Buckets(config.s3)),
            pool=pool,
            outlook=Outlook(queue, pool, now),
            config=config,
            check_model=store.multilingual,
            installed_models=store.installed,
            database_trouble=lambda: db.broken,
            backups=backups,
            back_up=lambda: backups.take(db, "manual"),
            sweep=lambda: queue.sweep(now() - LEASE_SECONDS, pool.held()),
            arrival=Arrival(Condition.CLEAN, "the database is whole", now()),
            keys=KeyRing(folder / "keys.json"),
            sessions=Sessions(folder / "sessions.json"),
            minutes=Minutes(db, now),
            drain=Drain(queue, pool),
            links=links.opened(config, redacting, now),
            now=now,
            counts=counts,
            tracing=tracing,
        )
        stage.app = build_app(services)
        attending = asyncio.create_task(services.attendance.cancel_abandoned(queue.cancel))
        url = f"http://127.0.0.1:{stage.port}"
        async with httpx.AsyncClient(
            base_url=url, verify=NO_TLS, trust_env=False, timeout=DEADLINE
        ) as client:
            server = Server(
                port=stage.port,
                config=config,
                db=db,
                queue=queue,
                outbox=outbox,
                events=events,
                spool=spool,
                services=services,
                client=client,
                folder=folder / "spool",
                allowed=allowed,
                app=stage.app,
            )
            try:
                yield server
            finally:
                events.close()
                services.attendance.stop()
                await searcher.close()
        await asyncio.gather(attending, stage.quiet())


def _models(folder):
    """What `models.find` looks at: the magic and the size of the vocabulary, which tells the languages."""
    folder.mkdir()
    for name, n_vocab in (("tiny.en", 51864), ("tiny", 51865)):
        (folder / f"ggml-{name}.bin").write_bytes(struct.pack("<Ii", 0x67676D6C, n_vocab))
    (folder / "ggml-broken.bin").write_bytes(b"no model")


def parsed(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    assert len({name for name, _ in headers}) == len(headers), headers
    return int(status.split()[1]), dict(headers), body


async def _closing(writer):
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _frames(answer):
    frame = {}
    async for line in answer.aiter_lines():
        if line.startswith(":"):
            yield None
        elif line:
            name, _, value = line.partition(": ")
            frame[name] = value
        elif frame:
            yield frame["id"], frame["event"], json.loads(frame["data"])
            frame = {}


async def until(condition):
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - what it waits for signals nothing
            await asyncio.sleep(0.002)


def a_form(*parts, boundary="frontier", end=True):
    """A multipart body, part by part as (headers, content); each may be text or bytes."""
    body = b""
    for headers, content in parts:
        body += b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary.encode(), _bytes(headers), _bytes(content))
    return body + (b"--%s--\r\n" % boundary.encode() if end else b"")


def the_file(name="a.wav", sound=SOUND):
    head = b'Content-Disposition: form-data; name="file"; filename="%s"\r\nContent-Type: audio/wav'
    return head % _bytes(name), sound


def a_field(name, value):
    return f'Content-Disposition: form-data; name="{name}"', value


def a_request(body, *headers, target=SUBMIT, method="POST", kind="multipart/form-data; boundary=frontier"):
    """The bytes of a request that asks to close the connection behind it."""
    lines = [
        f"{method} {target} HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        f"Content-Length: {len(body)}",
    ]
    if kind is not None:
        lines.append(f"Content-Type: {kind}")
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


def _bytes(text):
    return text if isinstance(text, bytes) else text.encode()


def the_error(answer):
    """The error of an answer, whose shape and safety it checks."""
    status = answer.status_code
    assert answer.headers["content-type"] == "application/json", answer.text
    body = answer.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["code", "message", "param"]
    error = body["error"]
    assert status >= 400
    assert error["code"]
    assert error["message"]
    for secret in ("Traceback", "/tmp/", "/work", ".py", "sqlite", "msgspec", "Error("):
        assert secret not in answer.text
    return status, error["code"], error["param"]


async def refused(server, answer, status, code, param=None):
    """The answer is this error, and nothing is left of the request."""
    assert the_error(answer) == (status, code, param), answer.text
    assert await server.left() == NOTHING
