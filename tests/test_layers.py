"""Who may import whom. The tables are the architecture; change them on purpose or not at all."""

import ast
import json
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "whisperd"

# A module, or a folder of modules, and what of ours it may import: down only, and no more than it needs.
ALLOWED = {
    # the vocabulary, and what has nothing to do with tasks
    "task": set(),
    "config": set(),
    "sniff": set(),
    "client": set(),
    "legacy_client": {"client"},
    "addresses": set(),
    "terminal": set(),
    # one thing each
    "clock": {"task"},
    "events": {"task"},
    "together": set(),
    "aside": set(),
    "spool": {"task", "durable", "together"},
    "forecast": {"task"},
    "sql": {"task", "job", "delivery", "forecast", "look", "timeline", "usage"},
    "delivery": {"task"},
    "job": {"task"},
    "timeline": set(),
    "usage": set(),
    "engine": {"task"},
    "transcript": {"task", "engine"},  # LANGUAGES
    "risk": {"task"},
    "rulebooks": {"risk"},
    "look": {"task"},
    "risk_protocol": {"task", "look"},
    "risk_worker": {"task", "leash", "look", "risk", "risk_protocol", "rulebooks"},
    "attendance": {"task"},
    "drain": {"task"},
    "logs": {"config"},
    "reload": {"config"},
    "outbound": {"config", "addresses"},
    "s3": {"config"},
    "buckets": {"config", "outbound", "s3"},
    "turns": set(),
    "sources": {"config", "outbound", "buckets", "turns"},
    "notify": set(),
    "restraint": set(),
    "restarts": {"moment"},
    "pace": {"task"},
    "malloc": set(),
    "gpu": set(),
    "fitting": {"config", "catalogue", "engine", "gpu"},
    "lag": set(),
    "counts": {"task"},
    # the database file, and how it comes back
    "sqlite_trouble": {"task"},
    "durable": {"task"},
    "scratch": set(),
    "connection": set(),
    "snapshot": {"connection", "sqlite_trouble"},
    "db": {"task", "connection", "snapshot", "sqlite_trouble", "together"},
    "wal": set(),
    "condition": {"connection", "db", "durable", "wal"},
    "archive": {"durable", "task", "condition"},
    "packer": {"task", "archive"},
    "backup": {"durable", "db", "snapshot", "archive", "packer"},
    "offsite": {"durable", "config", "s3", "archive", "backup"},
    "backup_setup": {"config", "backup"},
    "moment": set(),
    "shown": {"backup", "keys", "moment"},
    "adopt": {"durable", "db", "sqlite_trouble"},
    "restore": {"durable", "scratch", "db", "snapshot", "condition", "archive", "backup", "adopt"},
    "arrival": {"db", "condition", "backup", "restore"},
    "keys": {"durable"},
    "sessions": {"durable"},
    # model files
    "catalogue": {"engine"},  # LANGUAGES
    "hub": {"catalogue"},
    "ct2": {"catalogue"},  # BadSource
    "ggml": {"catalogue", "ct2", "engine"},
    "models": {"catalogue", "hub", "ggml"},
    # the machinery
    "leash": set(),
    "child": {"task", "engine", "leash"},
    "children": {"task", "engine", "gpu"},
    "orders": {"task", "spool", "engine", "children"},
    "holding": {"task", "engine", "children", "counts"},
    "canary": {"task", "engine", "children"},
    "muting": {"task", "engine", "children", "orders", "spool", "turns"},
    "residency": {"orders"},
    "conversation": {"task", "engine", "children", "holding", "orders", "restarts"},
    "slot": {
        "task",
        "spool",
        "engine",
        "children",
        "canary",
        "conversation",
        "counts",
        "holding",
        "orders",
        "residency",
        "restarts",
        "restraint",
    },
    "worker_pool": {"task", "events", "spool", "counts", "orders", "restraint", "slot"},
    "queue": {"task", "job", "db", "events", "sql", "forecast", "counts"},
    "outlook": {"task", "aside", "events", "forecast"},
    "history": {"task", "db", "sql", "timeline", "usage"},
    "detections": {"task", "db", "events", "look", "sql"},
    "searcher": {"task", "children", "risk_protocol"},
    "detector": {"task", "counts", "detections", "events", "look", "risk_protocol", "searcher"},
    "tracing": {"task", "config", "events", "history", "timeline"},
    # what the outside is told
    "outbox": {"db", "delivery", "sql"},
    "minutes": {"db", "sql"},
    "deliveries": {"task", "delivery", "events", "outbox"},
    "signing": {"durable"},
    "webhooks": {"task", "config", "delivery", "outbound", "shown", "signing"},
    "redacting": {"task", "aside", "look", "detections", "risk", "transcript"},
    "results": {"task", "delivery", "outbound", "s3", "buckets", "redacting", "transcript"},
    # the queue that several hosts share
    "redis_queue": {
        *("task", "job", "config", "db", "sql", "events", "queue", "shown", "spool", "transcript"),
        *("outbound", "s3", "buckets", "sources", "turns", "look", "detections", "rulebooks"),
    },
    "links": {"task", "config", "s3", "buckets", "redacting", "transcript"},
    "brokers": {"config", "delivery"},
    # HTTP
    "metrics": {"task", "job", "backup", "counts", "gpu", "worker_pool"},
    "routes": {
        *("task", "job", "config", "events", "spool", "sniff", "transcript", "worker_pool", "metrics"),
        *("aside", "archive", "backup", "arrival", "shown", "attendance", "keys", "outbox", "delivery"),
        *("outbound", "s3", "buckets", "sources", "outlook", "forecast", "turns", "pace", "sessions"),
        *("history", "timeline", "usage", "minutes", "redacting", "links", "muting", "drain"),
        *("counts", "gpu", "lag", "tracing"),
        *("risk", "rulebooks", "risk_protocol", "searcher", "look", "detections"),
    },
    "traced": {"access", "routes", "tracing"},
    "access": {"routes"},
    "guard": {"config", "keys", "routes", "sessions"},
    "http": {"config", "access", "guard", "routes", "traced"},
    # the composition root
    "model_store": {"task", "config", "models", "together", "worker_pool"},
    "housekeeping": {"task", "config", "events", "queue", "outbox", "spool", "history", "usage"},
    "machine": {
        *("task", "config", "clock", "db", "events", "spool", "queue", "worker_pool"),
        *("malloc", "condition", "archive", "backup", "backup_setup", "offsite", "arrival"),
        *("housekeeping", "model_store", "outbox", "outlook", "deliveries"),
        *("history", "detections", "muting", "redacting", "risk_protocol", "searcher"),
        *("counts", "fitting"),
    },
    "upkeep": {"task", "engine", "gpu", "minutes", "archive", "housekeeping", "machine"},
    "sharing": {
        "task",
        "job",
        "config",
        "detections",
        "machine",
        "redis_queue",
        "s3",
        "sources",
        "worker_pool",
    },
    "connections": {"config", "counts", "routes", "http"},
    "listening": {"config", "routes", "http", "connections"},
    "pulse": {"task", "machine", "notify", "worker_pool"},
    "daemon": {
        *("task", "config", "logs", "malloc", "notify", "reload", "models", "db", "worker_pool", "routes"),
        *("archive", "arrival", "housekeeping", "listening", "machine", "upkeep", "deliveries", "webhooks"),
        *("keys", "links", "sessions", "minutes", "outbound", "pulse", "s3", "buckets", "sources", "results"),
        *("lag", "tracing", "pace"),
        *("sharing", "redis_queue", "drain", "redacting"),
        *("detector", "rulebooks", "searcher"),
        "brokers",
    },
    "embedded": {"task", "config", "transcript", "worker_pool", "machine"},
    "bench": {"task", "config", "engine", "gpu", "models", "embedded", "worker_pool"},
    "unit": set(),
    "service": {"config", "unit"},
    # the commands
    "recordings": set(),
    "batch": {"recordings", "task", "config", "logs", "client", "terminal", "transcript", "embedded"},
    "sheet": {"client", "terminal"},
    "monitor": {"client", "terminal", "sheet"},
    "doctor": {
        *("config", "client", "terminal", "catalogue", "models", "engine", "fitting"),
        *("condition", "archive", "backup", "keys", "service"),
    },
    "commands": {
        *("config", "logs", "client", "terminal", "transcript", "catalogue", "models"),
        *(
            "durable",
            "scratch",
            "db",
            "archive",
            "backup",
            "backup_setup",
            "shown",
            "offsite",
            "restore",
            "keys",
            "service",
            "signing",
        ),
        *("batch", "recordings", "sheet", "monitor", "doctor", "bench", "daemon"),
        *("task", "risk", "rulebooks"),
    },
    "cli": {"commands", "terminal"},
    "__main__": {"cli"},
}

# Which of ours may import what of others, where it matters who does.
ONLY = {
    # the doctor names its version
    "sqlite3": {
        "db",
        "sql",
        "connection",
        "snapshot",
        "sqlite_trouble",
        "condition",
        "archive",
        "adopt",
        "doctor",
    },
    "aiosqlite": {"db", "connection"},
    "starlette": {"routes", "http", "access", "traced", "guard", "connections", "listening"},
    "python_multipart": {"routes"},
    "uvicorn": {"listening", "connections"},
    "apscheduler": {"upkeep"},
    "prometheus_client": {"counts", "metrics"},
    "opentelemetry": {"tracing"},
    "obstore": {"s3", "buckets", "offsite", "links", "redis_queue"},
    "redis": {"redis_queue"},
    "bullmq": {"redis_queue"},
    "faststream": {"brokers"},
    "aiokafka": {"brokers"},
    "pamqp": {"brokers"},
    "httpx": {"client", "outbound", "brokers"},
    "huggingface_hub": {"hub"},
    "typer": {"cli", "commands"},
    "av": {"engine"},
    "_pywhispercpp": {"engine"},
    "pywhispercpp": {"engine"},
    "numpy": {"engine", "child", "ct2", "ggml"},
    "re2": {"risk"},
    "rapidfuzz": {"risk"},
    "phonenumbers": {"risk"},
    "yaml": {"risk"},
}

# What the daemon may know of the engine: how to talk to it, not how it works.
ENGINE_FOR_THE_DAEMON = {
    "whisperd.engine.protocol",
    "whisperd.engine.features",
    "whisperd.engine.memory",
    "whisperd.engine.languages",
    "whisperd.engine.ggml_file",  # the format of the file,
    "whisperd.engine.layout",  # which it writes, too
}


def modules():
    """Each file, the name that ALLOWED has for it, and the full names that its import statements mean."""
    for file in sorted(ROOT.rglob("*.py")):
        part = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if part in ("__init__", "migrations"):
            continue
        names = [name for node in ast.walk(ast.parse(file.read_text())) for name in imported(node)]
        yield file.relative_to(ROOT), part, names


def imported(node):
    """The modules that a statement imports, wherever it stands and however it is spelled."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom(module=str(module), level=0):
            inner = [f"{module}.{alias.name}" for alias in node.names]
            return [name for name in inner if is_module(name)] or [module]
        case ast.ImportFrom():
            return ["a relative import"]
        case _:
            return []


def is_module(name):
    path = ROOT.parent / name.replace(".", "/")
    return name.startswith("whisperd") and (path.is_dir() or path.with_suffix(".py").is_file())


def ours(name):
    return name.split(".")[1] if name.startswith("whisperd.") else None


def test_every_import_is_allowed():
    wrong = [
        f"{file} imports {name}"
        for file, part, names in modules()
        for name in names
        if ours(name) and ours(name) not in (part, *ALLOWED[part])
    ]

    assert wrong == []


def test_no_import_is_allowed_that_nobody_needs():
    used = {part: set() for _, part, _ in modules()}
    for _, part, names in modules():
        used[part] |= {ours(name) for name in names} - {None, part}

    assert {part: allowed - used[part] for part, allowed in ALLOWED.items() if allowed - used[part]} == {}


def test_imports_go_one_way_round():
    order = list(TopologicalSorter(ALLOWED).static_order())  # raises CycleError

    assert order.index("queue") < order.index("routes") < order.index("http") < order.index("daemon")
    assert order.index("daemon") < order.index("cli")


def test_what_comes_from_outside_has_its_place():
    wrong = [
        f"{file} imports {name}"
        for file, part, names in modules()
        for name in names
        if part not in ONLY.get(name.split(".")[0], {part})
    ]

    assert wrong == []


def test_no_import_is_relative():
    assert [file for file, _, names in modules() if "a relative import" in names] == []


def test_only_the_child_knows_how_the_engine_works():
    wrong = [
        f"{file} imports {name}"
        for file, part, names in modules()
        for name in names
        if part not in ("child", "engine")
        and name.startswith("whisperd.engine")
        and name not in ENGINE_FOR_THE_DAEMON
    ]

    assert wrong == []


# What is really in memory after an import, by whatever way it came there.
SERVER = {"starlette", "uvicorn", "apscheduler", "aiosqlite", "sqlite3", "aiofiles", "python_multipart"}
SCREEN = {"typer", "click", "rich", "httpx"}
HEAVY = {
    "numpy",
    "av",
    "_pywhispercpp",
    "pywhispercpp",
    "huggingface_hub",
    "opentelemetry",
    "redis",
    "bullmq",
    "faststream",
}


def loaded_by(module):
    code = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    command = [sys.executable, "-P", "-c", code]
    env = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    return set(json.loads(subprocess.run(command, env=env, stdout=-1, check=True).stdout))


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("whisperd.daemon", HEAVY | {"typer", "httpx"}),
        ("whisperd.embedded", HEAVY | {"typer", "httpx"}),
        ("whisperd.queue", SERVER - {"aiosqlite", "sqlite3"} | SCREEN | HEAVY),
        ("whisperd.cli", SERVER | HEAVY | {"httpx", "rich", "msgspec", "structlog"}),
        ("whisperd.client", SERVER | HEAVY | {"typer", "structlog", "asyncio", "whisperd.task"}),
    ],
)
def test_what_is_not_needed_is_not_loaded(module, unwanted):
    assert unwanted & loaded_by(module) == set()


def test_the_child_loads_the_engine_and_nothing_of_the_server():
    loaded = loaded_by("whisperd.child")

    assert (SERVER | SCREEN | {"asyncio", "structlog", "huggingface_hub"}) & loaded == set()
    assert {ours(name) for name in loaded} - {None} == {"child", "engine", "leash", "task"}
