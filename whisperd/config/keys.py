"""The keys: their types, bounds, defaults, descriptions, which of them SIGHUP changes, which are secret.

Each section is declared in the module of its subject; here they are joined. All else is made from the
declarations: `config.toml`, the names of the variables, the error messages, what a reload takes over. Nothing
is read here but the environment's idea of where data belongs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields, replace

from whisperd.config.brokers import Brokers
from whisperd.config.daemon import Logging, Metrics, Shutdown, Tracing
from whisperd.config.http import Http
from whisperd.config.outbound import Outbound, Webhooks
from whisperd.config.queue import Cache, Plans, Queue, Retention, Search, TenantLimits
from whisperd.config.redis import Redis
from whisperd.config.risk import Risk
from whisperd.config.storage import S3, Backup, Storage
from whisperd.config.workers import Audio, Models, Workers

S = TypeVar("S", bound=Struct)

DATABASE = "whisperd.db"  # its name in the data folder, and wherever it was set aside to


class Config(Struct, frozen=True, kw_only=True):
    """Everything that can be set, checked. From `load`, all folders are absolute."""

    http: Http = Http()
    queue: Queue = Queue()
    cache: Cache = Cache()
    search: Search = Search()
    plans: Plans = Plans()
    limits: TenantLimits = TenantLimits()
    retention: Retention = Retention()
    workers: Workers = Workers()
    models: Models = Models()
    audio: Audio = Audio()
    risk: Risk = Risk()
    outbound: Outbound = Outbound()
    s3: S3 = S3()
    redis: Redis = Redis()
    brokers: Brokers = Brokers()
    storage: Storage = Storage()
    backup: Backup = Backup()
    webhooks: Webhooks = Webhooks()
    shutdown: Shutdown = Shutdown()
    logging: Logging = Logging()
    metrics: Metrics = Metrics()
    tracing: Tracing = Tracing()

    @property
    def data_dir(self) -> Path:
        return Path(self.storage.data_dir or default_data_dir(os.environ))

    @property
    def listeners(self) -> tuple[str, ...]:
        """The addresses that hear of the end of every task."""
        return (*self.webhooks.endpoints, *([self.brokers.address] if self.brokers.address else []))

    @property
    def database(self) -> Path:
        return self.data_dir / DATABASE

    @property
    def spool_dir(self) -> Path:
        return self.data_dir / "spool"

    @property
    def models_dir(self) -> Path:
        return Path(self.storage.models_dir or self.data_dir / "models")

    @property
    def rules_dir(self) -> Path:
        return Path(self.risk.rules_dir or self.data_dir / "rules")

    @property
    def backups_dir(self) -> Path:
        return Path(self.backup.folder or self.data_dir / "backups")


class Key(NamedTuple):
    """One setting, as it is declared."""

    name: str  # "backup.s3.bucket"
    path: tuple[str, ...]  # the attributes that lead to it from a Config
    type: Any
    about: str
    reload: bool  # SIGHUP changes it in the running daemon
    secret: bool  # is shown as ***
    networks: bool  # each text of its list is one

    @property
    def section(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def variable(self) -> str:
        return f"WHISPERD_{self.name.replace('.', '__').upper()}"

    def of(self, config: Config) -> Any:
        """Its value in `config`."""
        return reduce(getattr, self.path, config)


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with these keys set; the values must have been checked."""
    for name, value in values.items():
        config = _with(config, KEYS[name].path, value)
    return config


def _with(struct: S, path: tuple[str, ...], value: Any) -> S:
    name, rest = path[0], path[1:]
    return replace(struct, **{name: _with(getattr(struct, name), rest, value) if rest else value})


def default_data_dir(environ: Mapping[str, str]) -> Path:
    if state := environ.get("STATE_DIRECTORY"):  # systemd's; a list when the unit names several
        return Path(state.partition(":")[0])
    return Path(environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "whisperd"


def _sections(
    kind: type[Struct], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], type[Struct]]]:
    """Each section below `kind` with the way to it; one that is within another comes after it."""
    for field in fields(kind):
        if is_section(field.type):
            yield (*path, field.name), field.type
            yield from _sections(field.type, (*path, field.name))


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _keys() -> Iterator[Key]:
    for path, kind in _sections(Config):
        for field in fields(kind):
            if not is_section(field.type):
                yield _key(".".join((*path, field.encode_name)), (*path, field.name), field)


def _key(name: str, path: tuple[str, ...], field: FieldInfo) -> Key:
    metas: tuple[Meta, ...] = getattr(field.type, "__metadata__", ())
    marks = {mark: True for meta in metas for mark, is_set in (meta.extra or {}).items() if is_set}
    about = next((meta.description for meta in metas if meta.description), "")
    return Key(name, path, field.type, about, "reload" in marks, "secret" in marks, "networks" in marks)


SECTIONS: dict[str, type[Struct]] = {".".join(path): kind for path, kind in _sections(Config)}
KEYS: dict[str, Key] = {key.name: key for key in _keys()}
