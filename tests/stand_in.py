"""A small HTTP server that speaks API.md, for the tests of what talks to the daemon.

It transcribes nothing: a task moves one step each time somebody looks at it, and its file's name says how it
ends: bad.* fails, refused.* is not accepted, slow.* never ends, all others are completed.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

RESULTS = {
    "text": "Ask not.\n",
    "srt": "1\n00:00:00,000 --> 00:00:01,000\nAsk not.\n\n",
    "json": '{"text":"Ask not."}',
    "verbose_json": '{"task":"transcribe","text":"Ask not."}',
}


WORKER = {
    "id": 1,
    "pid": 4711,
    "state": "busy",
    "model": "tiny.en",
    "task_id": "01J001",
    "chunk": 2,
    "rss_bytes": 210_000_000,
    "tasks_done": 3,
    "chunks_done": 40,
    "real_time_factor": 0.05,
    "restarts": 0,
}


DELIVERY = {
    "kind": "webhook",
    "event": "task.failed",
    "task_id": "01J001",
    "tenant": "default",
    "to": "https://hooks.example",
    "state": "dead",
    "attempts": 20,
    "created_at": "2026-11-22T10:00:00.000Z",
    "next_attempt_at": None,
    "ended_at": "2026-11-23T10:00:00.000Z",
    "answer": 500,
    "problem": "it answered 500",
}


EVENT = {
    "at": "2026-11-22T10:00:00.000Z",
    "attempt": None,
    "chunk": None,
    "worker": None,
    "seconds": None,
    "message": None,
}
_SUMS = {"audio_seconds": 3723.4, "compute_seconds": 61.2, "completed": 3, "failed": 1, "cancelled": 0}
USAGE = {
    "from": "2026-11-01",
    "to": "2026-11-30",
    "usage": [{"day": "2026-11-22", "tenant": "acme", "model": "tiny.en", **_SUMS}],
    "total": _SUMS,
    "truncated": False,
}


class StandIn:
    """The state behind the server, for tests to look into and to arrange."""

    def __init__(self):
        self.url = ""
        self.reset()

    def reset(self):
        self.tasks = {}
        self.seen = []  # (method, path with query)
        self.estimated = []
        self.submitted = []  # (file name, bytes, form fields, headers)
        self.health = {"status": "ok", "uptime_seconds": 5.0, "version": "0.1.0", "checks": {}}
        self.workers = [dict(WORKER)]
        self.paused = False
        self.drains = []  # what a daemon that is emptied says, one after the other
        self.backup = {"name": "b", "path": "/backups/b", "tasks": 3, "bytes": 4096, "seconds": 0.25}
        self.deliveries = []
        self.timeline = [{"kind": "submitted"}]
        self.cleared = []  # (states, hours)
        self.joins = None  # the id of the task that every submission comes to
        self.die_on_wait = False  # hang up in the middle of an answer

    def add(self, name="talk.mp3", status="queued", **changes):
        number = len(self.tasks) + 1
        task = {
            "task_id": f"01J{number:03d}",
            "kind": "transcription",
            "status": status,
            "priority": 0,
            "position": number if status == "queued" else None,
            "progress": {"processing": 0.42, "completed": 1.0}.get(status, 0.0),
            "tenant": "default",
            "model": "tiny.en",
            "attempt": 1,
            "max_retries": 3,
            "created_at": f"2026-11-22T10:00:{number % 60:02d}.000Z",
            "run_at": None,
            "started_at": None,
            "finished_at": None,
            "audio": {"name": name, "duration": 812.4, "size": 9123456, "sha256": "00"},
            "language": "en",
            "eta_seconds": None,
            "warnings": [],
            "error": {"code": "worker_crashed", "message": "the worker exited with -11"}
            if status == "failed"
            else None,
            "metadata": {},
        }
        self.tasks[task["task_id"]] = task | changes
        return self.tasks[task["task_id"]]

    def step(self, task):
        name = task["audio"]["name"]
        if task["status"] == "queued":
            task.update(status="processing", position=None, progress=0.5)
        elif task["status"] == "processing" and name.startswith("bad"):
            error = {"code": "worker_crashed", "message": "the worker exited with -11"}
            task.update(status="failed", error=error)
        elif task["status"] == "processing" and not name.startswith("slow"):
            task.update(status="completed", progress=1.0)

    def stats(self):
        states = [task["status"] for task in self.tasks.values()]
        names = ("queued", "processing", "completed", "failed", "cancelled")
        return {
            "total": len(states),
            **{name: states.count(name) for name in names},
            "delayed": 0,
            "success_rate": 0.75,
            "throughput": {"tasks_per_minute": 12.0, "audio_seconds_per_second": 21.5},
            "wait_seconds": {"p50": 0.004, "p95": 2.5},
            "workers": self.workers,
            "oldest_queued_seconds": 61.0,
            "paused": self.paused,
            "depth": self.depth(),
        }

    def depth(self):
        queued = [task for task in self.tasks.values() if task["status"] == "queued"]
        counts = Counter(task["priority"] for task in queued)
        return {
            "by_priority": [{"priority": p, "queued": n} for p, n in sorted(counts.items(), reverse=True)]
        }


def refusal(status, code, message):
    return JSONResponse({"error": {"code": code, "message": message, "param": None}}, status)


class Handlers:
    def __init__(self, stand_in):
        self.state = stand_in

    async def submit(self, request: Request) -> Response:
        async with request.form() as form:
            file = form["file"]
            content = await file.read()
            fields = {name: value for name, value in form.items() if name != "file"}
        self.state.submitted.append((file.filename, content, fields, dict(request.headers)))
        if file.filename.startswith("refused"):
            return refusal(415, "unsupported_media", "this is not audio")
        if self.state.joins is not None:
            return JSONResponse(self.state.tasks[self.state.joins], 200)
        return JSONResponse(self.state.add(file.filename), 202)

    async def show(self, request: Request) -> Response:
        task = self.state.tasks.get(request.path_params["id"])
        if task is None:
            return refusal(404, "task_not_found", "there is no such task")
        if "wait" in request.query_params and self.state.die_on_wait:
            return Response(b"{", headers={"content-length": "1000"})
        if "wait" in request.query_params:
            self.state.step(task)
            await asyncio.sleep(0.02)
        return JSONResponse(task)

    async def explain(self, request: Request) -> Response:
        task = self.state.tasks[request.path_params["id"]]
        found = {
            "task_id": task["task_id"],
            "status": task["status"],
            "position": 3,
            "summary": "3rd in line; 2 PRO tasks ahead; starts in about 4 min",
            "reasons": [{"code": "ahead", "message": "2 tasks before it in line"}],
            "ahead": {"tasks": 2, "by_priority": {"5": 2}},
            "tenant": {"running": 1, "limit": None},
            "starts_in_seconds": {"p50": 240.0, "p90": 360.0},
            "eta_seconds": {"p50": 250.0, "p90": 250.0},
        }
        return JSONResponse(found)

    async def estimate(self, request: Request) -> Response:
        asked = await request.json()
        self.state.estimated.append(asked)
        refused = asked["name"].startswith("refused")
        found = {
            "accepted": not refused,
            "model": asked.get("model", "tiny.en"),
            "refusal": {"code": "queue_full", "message": "the queue is full"} if refused else None,
            "audio_seconds": 812.4,
            "starts_in_seconds": None if refused else {"p50": 240.0, "p90": 360.0},
            "eta_seconds": None if refused else {"p50": 300.0, "p90": 480.0},
        }
        return JSONResponse(found)

    async def result(self, request: Request) -> Response:
        task = self.state.tasks[request.path_params["id"]]
        if task["status"] != "completed":
            return refusal(409, "not_finished", "the task is not finished")
        return PlainTextResponse(RESULTS[request.query_params["format"]])

    async def link(self, request: Request) -> Response:
        task, query = self.state.tasks[request.path_params["id"]], request.query_params
        if task["status"] == "failed":
            return refusal(410, "failed", task["error"]["message"])
        name, seconds = f"{task['task_id']}.{query['format']}", query.get("seconds", 3600)
        url = f"https://s3.lan/links/{name}?X-Amz-Expires={seconds}"
        return JSONResponse({"url": url, "expires_at": "2026-11-29T10:10:00.000Z"})

    async def list(self, request: Request) -> Response:
        query = request.query_params
        states = query["status"].split(",") if "status" in query else None
        tasks = [t for t in reversed(self.state.tasks.values()) if states is None or t["status"] in states]
        if words := query.get("q"):  # a short beginning of an id finds nothing
            tasks = [task for task in tasks if words in task["audio"]["name"]]
        start, limit = int(query.get("cursor", 0)), int(query.get("limit", 50))
        more = str(start + limit) if start + limit < len(tasks) else None
        return JSONResponse({"tasks": tasks[start : start + limit], "next_cursor": more})

    async def cancel(self, request: Request) -> Response:
        return self.move(request, ("queued", "processing"), "cancelled")

    async def retry(self, request: Request) -> Response:
        return self.move(request, ("failed", "cancelled"), "queued")

    async def bulk(self, request: Request) -> Response:
        wanted = await request.json()
        assert wanted["action"] == "retry"
        refused = []
        for task_id in wanted["task_ids"]:
            if self.state.tasks[task_id]["audio"]["name"].startswith("gone"):
                refused.append({"task_id": task_id, "code": "audio_gone"})
            else:
                self.state.tasks[task_id]["status"] = "queued"
        return JSONResponse({"done": len(wanted["task_ids"]) - len(refused), "refused": refused})

    async def change(self, request: Request) -> Response:
        wanted = await request.json()
        answer = self.move(request, ("queued",), "queued")
        if answer.status_code == 200:
            self.state.tasks[request.path_params["id"]].update(wanted)
        return answer

    def move(self, request, sources, target):
        task = self.state.tasks.get(request.path_params["id"])
        if task is None:
            return refusal(404, "task_not_found", "there is no such task")
        if task["status"] not in sources:
            return refusal(409, "wrong_state", f"the task is {task['status']}")
        task["status"] = target
        return JSONResponse(task)

    async def stats(self, request: Request) -> Response:
        return JSONResponse(self.state.stats())

    async def workers(self, request: Request) -> Response:
        return JSONResponse({"workers": self.state.workers})

    async def back_up(self, request: Request) -> Response:
        if self.state.backup is None:
            return refusal(503, "backup_failed", "the disk gave back something else")
        return JSONResponse(self.state.backup)

    async def backups(self, request: Request) -> Response:
        return JSONResponse({"backups": [self.state.backup]})

    async def list_deliveries(self, request: Request) -> Response:
        start, limit = int(request.query_params.get("cursor", 0)), int(request.query_params["limit"])
        page = self.state.deliveries[start : start + limit]
        more = str(start + limit) if start + limit < len(self.state.deliveries) else None
        return JSONResponse({"deliveries": page, "next_cursor": more})

    async def timeline(self, request: Request) -> Response:
        events = [EVENT | event for event in self.state.timeline]
        return JSONResponse({"task_id": request.path_params["id"], "events": events, "truncated": False})

    async def usage(self, request: Request) -> Response:
        return JSONResponse(USAGE)

    async def resend(self, request: Request) -> Response:
        for delivery in self.state.deliveries:
            if delivery["id"] == request.path_params["delivery_id"]:
                return JSONResponse(delivery | {"state": "waiting"}, 202)
        return refusal(404, "not_found", "there is no delivery of this id")

    async def sweep(self, request: Request) -> Response:
        return JSONResponse({"requeued": 2, "failed": 1})

    async def clear(self, request: Request) -> Response:
        body = await request.json()
        self.state.cleared.append((body["status"], body["older_than_hours"]))
        return JSONResponse({"deleted": 12})

    async def pause(self, request: Request) -> Response:
        self.state.paused = request.url.path.endswith("pause")
        return JSONResponse({"paused": self.state.paused})

    async def drain(self, request: Request) -> Response:
        off = request.url.path.endswith("undrain")
        said = {"draining": not off, "drained": False, "queued": 0, "processing": 0}
        return JSONResponse(said | (self.state.drains.pop(0) if self.state.drains else {}))

    async def health(self, request: Request) -> Response:
        return JSONResponse(self.state.health, 503 if self.state.health["status"] == "down" else 200)


def build_app(stand_in):
    handlers = Handlers(stand_in)
    routes = [
        Route("/tasks/transcription", handlers.submit, methods=["POST"]),
        Route("/tasks", handlers.list),
        Route("/tasks/estimate", handlers.estimate, methods=["POST"]),
        Route("/tasks/{id}", handlers.show),
        Route("/tasks/{id}", handlers.cancel, methods=["DELETE"]),
        Route("/tasks/{id}", handlers.change, methods=["PATCH"]),
        Route("/tasks/{id}/retry", handlers.retry, methods=["POST"]),
        Route("/tasks/bulk", handlers.bulk, methods=["POST"]),
        Route("/tasks/{id}/result", handlers.result),
        Route("/tasks/{id}/link", handlers.link),
        Route("/tasks/{id}/timeline", handlers.timeline),
        Route("/tasks/{id}/explain", handlers.explain),
        Route("/stats", handlers.stats),
        Route("/usage", handlers.usage),
        Route("/workers", handlers.workers),
        Route("/health", handlers.health),
        Route("/admin/backup", handlers.back_up, methods=["POST"]),
        Route("/admin/backups", handlers.backups),
        Route("/admin/webhooks", handlers.list_deliveries),
        Route("/admin/webhooks/{delivery_id:path}/resend", handlers.resend, methods=["POST"]),
        Route("/admin/cleanup-stuck-tasks", handlers.sweep, methods=["POST"]),
        Route("/admin/clear", handlers.clear, methods=["POST"]),
        Route("/admin/pause", handlers.pause, methods=["POST"]),
        Route("/admin/resume", handlers.pause, methods=["POST"]),
        Route("/admin/drain", handlers.drain, methods=["GET", "POST"]),
        Route("/admin/undrain", handlers.drain, methods=["POST"]),
    ]
    app = Starlette(routes=routes)

    async def recorded(scope, receive, send):
        query = scope["query_string"].decode()
        path = scope["raw_path"].decode() + (f"?{query}" if query else "")
        stand_in.seen.append((scope["method"], path))
        await app(scope, receive, send)

    return recorded


@contextlib.contextmanager
def serving(app, port=0):
    """The URL under which the ASGI app answers, in a thread."""
    config = uvicorn.Config(app, port=port, log_level="warning", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.005)
    try:
        yield "http://{}:{}".format(*server.servers[0].sockets[0].getsockname())
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def standing_in(port=0):
    stand_in = StandIn()
    with serving(build_app(stand_in), port) as stand_in.url:
        yield stand_in
