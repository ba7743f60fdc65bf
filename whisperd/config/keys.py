"""The keys: their types, bounds, defaults, descriptions, which of them SIGHUP changes, which are secret.

All else is made from these declarations: `config.toml`, the names of the variables, the error messages, what
a reload takes over. Nothing is read here but the environment's idea of where data belongs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields, replace

S = TypeVar("S", bound=Struct)

_DAY_SECONDS = 24 * 3600
_YEAR_SECONDS = 366 * _DAY_SECONDS
_DECADE_HOURS = 10 * 366 * 24
# A user and a password in it would be printed wherever the address is.
_PLAIN_URL = r"^(https?://[^@/?#\s]+(/[^@?#\s]*)?)?$"
_ENDPOINT = r"^https?://[^@/?#\s]+([/?][^#\s]*)?$"
# Of 24 bytes (no padding), to 64.
_SIGNING_SECRET = r"^whsec_(?:[A-Za-z0-9+/]{4}){8,21}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

_BUCKET = r"^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$"

DATABASE = "whisperd.db"  # its name in the data folder, and wherever it was set aside to

_NotEmpty = Annotated[str, Meta(min_length=1)]


def _is(about: str, least: float | None = None, most: float | None = None, **marks: bool) -> Meta:
    """What holds for a key. A number has both bounds: a lone lower one would let "nan" through.

    `reload`: SIGHUP changes it in the running daemon. `secret`: never printed. `networks`: a list of them.
    """
    return Meta(description=about, ge=least, le=most, extra=marks)


class Http(Struct, frozen=True, kw_only=True):
    """Where the daemon listens, and whom it serves."""

    host: Annotated[_NotEmpty, _is("Address to bind. Without keys only loopback is served.")] = "127.0.0.1"
    port: Annotated[int, _is("0 takes a free port; the ready line names it.", 0, 65535)] = 8002
    max_upload_bytes: Annotated[
        int, _is("Larger submissions are refused with 413, before they are stored (4 GiB).", 1, 2**50)
    ] = 4 * 2**30
    allowed_hosts: Annotated[
        tuple[str, ...],
        _is(
            "Host headers served, while there are no keys, besides localhost, 127.0.0.1 and [::1]; written "
            "without the port."
        ),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        _is(
            "Sites whose pages a browser lets read the answers (CORS), and which are served without keys "
            'besides the daemon\'s own: "https://app.example.org".'
        ),
    ] = ()
    allowed_roots: Annotated[
        tuple[str, ...],
        _is("Folders below which `audio_path` may name a file. With none, `audio_path` is refused."),
    ] = ()
    max_connections: Annotated[
        int,
        _is(
            "At a time. Beyond, requests are answered 503, but for /health, and connections that ask "
            "nothing are closed.",
            1,
            1_000_000,
        ),
    ] = 1000
    head_seconds: Annotated[
        float, _is("How long the head of a request may take to come.", 0.001, _DAY_SECONDS)
    ] = 10
    keep_alive_seconds: Annotated[
        int, _is("How long a connection stays open for a next request.", 0, _DAY_SECONDS)
    ] = 15
    slow_seconds: Annotated[
        float,
        _is(
            "A client is cut off when the body that it sends, or the answer that it reads, for so long,",
            0.001,
            _DAY_SECONDS,
        ),
    ] = 30
    min_bytes_per_second: Annotated[int, _is("goes on more slowly than this.", 0, 2**30)] = 1024
    interactive_priority: Annotated[
        int, _is("Of tasks whose client waits for the transcript, connected.", -100, 100, reload=True)
    ] = 10
    abandoned_seconds: Annotated[
        float,
        _is("Such a task is cancelled when its client has been gone for so long.", 0, 86_400, reload=True),
    ] = 30
    heartbeat_after_seconds: Annotated[
        float,
        _is(
            "An answer in JSON that takes longer is begun: with spaces, so that no client gives up.",
            0,
            86_400,
            reload=True,
        ),
    ] = 15
    heartbeat_seconds: Annotated[float, _is("Wait between two such spaces.", 0.001, 86_400, reload=True)] = 10


class Queue(Struct, frozen=True, kw_only=True):
    """What runs next, what is tried again, and how much may wait."""

    order: Annotated[
        Literal["lifo", "fifo"], _is("Within one priority: lifo runs the newest first, fifo the oldest.")
    ] = "lifo"
    max_retries: Annotated[int, _is("How often a chunk that failed is tried again.", 0, 100, reload=True)] = 3
    retry_delay_ms: Annotated[
        int,
        _is(
            "Wait before the first retry; doubled for each next one, with jitter.", 0, 86_400_000, reload=True
        ),
    ] = 1000
    max_retry_delay_seconds: Annotated[
        float, _is("No retry waits longer.", 0, _YEAR_SECONDS, reload=True)
    ] = 300
    max_queued: Annotated[
        int,
        _is("With so many tasks queued, the next is refused (503 queue_full).", 1, 100_000_000, reload=True),
    ] = 1_000_000
    max_wait_seconds: Annotated[
        float,
        _is(
            "What a tenant has had in line for longer goes before what it sent later, the oldest first, so "
            "that lifo leaves none behind; 0: never.",
            0,
            _YEAR_SECONDS,
            reload=True,
        ),
    ] = 3600
    tenant_concurrent: Annotated[
        int,
        _is("Tasks that run at a time, of a tenant without a plan; 0: no limit.", 0, 10_000, reload=True),
    ] = 0
    tenants: Annotated[
        dict[str, Annotated[int, Meta(ge=0, le=10_000)]],
        _is(
            "The same limit for single tenants, whatever their plan: { acme = 4, other = 1 }",
            reload=True,
        ),
    ] = {}
    idempotency_hours: Annotated[float, _is("How long an Idempotency-Key is kept.", 0, _DECADE_HOURS)] = 24


class Cache(Struct, frozen=True, kw_only=True):
    """Duplicate work: same tenant, audio, model and options. It is decoded once; each task stays its own."""

    enabled: Annotated[bool, _is("false: every task is decoded by itself.", reload=True)] = True
    hours: Annotated[
        float,
        _is(
            "How long a transcript serves others, while its task is kept; 0: only while it is made.",
            0,
            _DECADE_HOURS,
            reload=True,
        ),
    ] = 24


class Plans(Struct, frozen=True, kw_only=True, rename="upper"):
    """The named priorities that `plan` of a submission stands for, -100 to 100; higher runs first."""

    free: Annotated[int, Meta(ge=-100, le=100)] = 1
    pro: Annotated[int, Meta(ge=-100, le=100)] = 5
    payg: Annotated[int, Meta(ge=-100, le=100)] = 10

    def priority(self, name: str) -> int | None:
        """The priority of plan `FREE`, `PRO` or `PAYG`; None when there is no such plan."""
        return {f.encode_name: getattr(self, f.name) for f in fields(self)}.get(name)


class PlanLimits(Struct, frozen=True, kw_only=True):
    """What a tenant of this plan may do. A tenant has the plan that its last submission named."""

    concurrent: Annotated[int, _is("Its tasks that run at a time; 0: no limit.", 0, 10_000, reload=True)] = 0
    queued: Annotated[
        int,
        _is(
            "Its tasks that may wait; more are refused (429 tenant_queue_full). 0: no limit.",
            0,
            100_000_000,
            reload=True,
        ),
    ] = 0
    per_minute: Annotated[
        int,
        _is(
            "Its submissions in a minute; more are refused (429 rate_limited). 0: no limit.",
            0,
            1_000_000,
            reload=True,
        ),
    ] = 0
    weight: Annotated[
        float,
        _is(
            "Its share of the workers, in seconds of audio, beside tenants of the same priority.",
            0.001,
            1000,
            reload=True,
        ),
    ] = 1


class TenantLimits(Struct, frozen=True, kw_only=True):
    """What tenants may do, by plan; how often they get their turn."""

    weights: Annotated[
        dict[str, Annotated[float, Meta(ge=0.001, le=1000)]],
        _is("Shares of single tenants, whatever their plan: { acme = 3, other = 0.5 }", reload=True),
    ] = {}
    FREE: PlanLimits = PlanLimits(concurrent=1)
    PRO: PlanLimits = PlanLimits(concurrent=3)
    PAYG: PlanLimits = PlanLimits(concurrent=10)

    def of_plan(self, name: str | None) -> PlanLimits | None:
        """What the plan `FREE`, `PRO` or `PAYG` allows; None when there is no such plan."""
        return {"FREE": self.FREE, "PRO": self.PRO, "PAYG": self.PAYG}.get(name or "")


class Retention(Struct, frozen=True, kw_only=True):
    """How long finished tasks are kept, with their transcript and audio."""

    job_hours: Annotated[float, _is("For completed and cancelled tasks.", 0, _DECADE_HOURS, reload=True)] = 24
    failed_job_hours: Annotated[float, _is("For failed tasks.", 0, _DECADE_HOURS, reload=True)] = 168


class Workers(Struct, frozen=True, kw_only=True):
    """The child processes that transcribe."""

    count: Annotated[
        int,
        _is(
            "Processes; 0: one a core up to 4, or 1 with a GPU build. A reload leaves the threads of each as "
            "they are.",
            0,
            256,
            reload=True,
        ),
    ] = 0
    threads: Annotated[
        int, _is("Threads of each; 0: the cores shared out among as many as there are at the start.", 0, 256)
    ] = 0
    model: Annotated[_NotEmpty, _is("For tasks that name none; see `whisperd models list`.")] = "tiny.en"
    max_processing_seconds: Annotated[
        float,
        _is(
            "The longest that a worker may take for one chunk (at most 28 s of speech), or to decode and "
            "plan a file.",
            0.001,
            _YEAR_SECONDS,
            reload=True,
        ),
    ] = 600
    silence_seconds: Annotated[
        float,
        _is("A worker without a sign of life for so long is killed.", 0.001, _YEAR_SECONDS, reload=True),
    ] = 60
    max_memory_mb: Annotated[
        int,
        _is(
            "Address space of each worker (RLIMIT_AS); 0: what the machine has; with a GPU no limit.",
            0,
            2**24,
        ),
    ] = 0
    max_rss_mb: Annotated[
        int,
        _is(
            "A worker that holds more memory is replaced between two chunks; one and a half times as much "
            "ends it within a chunk, which counts as out of memory. 0: never.",
            0,
            2**24,
            reload=True,
        ),
    ] = 0
    step_up_seconds: Annotated[
        float,
        _is(
            "After a worker ran out of memory, fewer run; one more is tried after so long.",
            1,
            _YEAR_SECONDS,
            reload=True,
        ),
    ] = 600
    nice: Annotated[
        int, _is("Scheduling niceness, so that the daemon answers while all cores transcribe.", 0, 19)
    ] = 10
    gpu: Annotated[bool, _is("Use the GPU when pywhispercpp was built for one.")] = True

    def sized(self, cores: int, gpu_build: bool = False) -> tuple[int, int]:
        """How many workers with how many threads each: the zeros filled in for a machine of `cores`."""
        most = 1 if gpu_build and self.gpu else min(4, cores // max(1, self.threads))
        count = self.count or max(1, most)
        return count, self.threads or max(1, cores // count)


class Audio(Struct, frozen=True, kw_only=True):
    """What is accepted as audio."""

    max_seconds: Annotated[
        float, _is("Decoded length above which a task fails (12 hours).", 0.001, _YEAR_SECONDS)
    ] = 43_200


class Outbound(Struct, frozen=True, kw_only=True):
    """Requests to addresses that users name: only to the public internet, but for what is allowed here."""

    allowed_networks: Annotated[
        tuple[str, ...],
        _is(
            'Networks that may be called too: "10.1.0.0/16". The daemon is in 127.0.0.0/8.',
            networks=True,
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...], _is('Hosts that may be called whatever their address: "nas.lan"; without the port.')
    ] = ()
    connect_seconds: Annotated[
        float,
        _is("How long a host may take to be found, and to take a connection.", 0.001, 600),
    ] = 10
    download_seconds: Annotated[
        float, _is("How long the file of an `audio_url` may take to come.", 0.001, _DAY_SECONDS)
    ] = 300


class Storage(Struct, frozen=True, kw_only=True):
    """Where everything is kept."""

    data_dir: Annotated[
        str, _is('"": $STATE_DIRECTORY, else $XDG_DATA_HOME/whisperd, else ~/.local/share/whisperd.')
    ] = ""
    models_dir: Annotated[str, _is('"": the folder models in data_dir.')] = ""
    min_free_mb: Annotated[
        int, _is("Submissions are refused (507) when less disk space is free.", 0, 2**30, reload=True)
    ] = 200


class S3Service(Struct, frozen=True, kw_only=True):
    """S3, or what speaks like it: where it is, and the key to it."""

    endpoint: Annotated[
        str,
        Meta(pattern=_PLAIN_URL),
        _is('"": Amazon\'s; else the URL of the service, without user and password.'),
    ] = ""
    region: Annotated[_NotEmpty, _is("Where the buckets are.")] = "us-east-1"
    access_key_id: Annotated[
        str,
        _is('"": AWS_ACCESS_KEY_ID and the other AWS_ variables hold. Is never printed.', secret=True),
    ] = ""
    secret_access_key: Annotated[
        str,
        _is("Is never printed. Better kept in a variable than in a file that others may read.", secret=True),
    ] = ""
    path_style: Annotated[bool, _is("Name the bucket in the path of the URL, not in the host.")] = True


class S3(S3Service, frozen=True, kw_only=True):
    """Where `s3://` of `audio_url` and `result_url` leads. Needs the extra s3: pip install 'whisperd[s3]'."""

    buckets: Annotated[
        tuple[Annotated[str, Meta(pattern=_BUCKET)], ...],
        _is(
            "Those that whoever may submit can read and write with the key above. With none, `s3://` is "
            "refused."
        ),
    ] = ()

    def __repr__(self) -> str:
        return f"S3(buckets={self.buckets!r}, …)"  # a log line or a traceback is no place for the key


class BackupS3(S3Service, frozen=True, kw_only=True):
    """A copy of each backup in S3, or what speaks like it. Needs the extra s3: pip install 'whisperd[s3]'."""

    bucket: Annotated[str, _is('"": no copy is made.')] = ""
    prefix: Annotated[str, _is("What the names of the copies begin with.")] = "whisperd/"

    def __repr__(self) -> str:
        return f"BackupS3(bucket={self.bucket!r}, …)"


class Backup(Struct, frozen=True, kw_only=True):
    """Snapshots of the database while it runs: checked, compressed, and thinned out as they age."""

    interval_seconds: Annotated[
        float, _is("From one backup to the next, at most a day.", 1, _DAY_SECONDS, reload=True)
    ] = 300
    folder: Annotated[str, _is('"": the folder backups in data_dir. Another disk is better.')] = ""
    keep_newest: Annotated[int, _is("So many of the newest are kept,", 1, 100_000, reload=True)] = 12
    keep_hourly: Annotated[
        int, _is("and the last one of each of so many hours,", 0, 100_000, reload=True)
    ] = 24
    keep_daily: Annotated[int, _is("and of so many days (UTC).", 0, 100_000, reload=True)] = 14
    compression_level: Annotated[int, _is("Of zstd: 1 is quick, 19 small.", 1, 19)] = 3
    s3: BackupS3 = BackupS3()


class Webhooks(Struct, frozen=True, kw_only=True):
    """Who is told of tasks that are over, besides their `callback_url`: see docs/webhooks.md."""

    endpoints: Annotated[
        tuple[Annotated[str, Meta(pattern=_ENDPOINT, title="URLs with no user or password in them")], ...],
        _is(
            "Hear of every task. Never printed, since their paths are often secret. May be on a private "
            "network.",
            reload=True,
            secret=True,
        ),
    ] = ()
    secrets: Annotated[
        tuple[Annotated[str, Meta(pattern=_SIGNING_SECRET, title='texts "whsec_…" (base64)')], ...],
        _is(
            'Sign what is sent: "whsec_" and 24 to 64 bytes as base64. With several each signs, so that '
            "one can be replaced without a break. []: one is made and kept in data_dir; see `whisperd "
            "webhooks secret`.",
            reload=True,
            secret=True,
        ),
    ] = ()

    def __repr__(self) -> str:
        return f"Webhooks(<{len(self.endpoints)} endpoints>, …)"


class Shutdown(Struct, frozen=True, kw_only=True):
    """SIGTERM and SIGINT stop the daemon; a second one stops it at once."""

    grace_seconds: Annotated[
        float, _is("Running chunks may go on for so long; then they are handed back.", 0, 86_400, reload=True)
    ] = 30


class Log(Struct, frozen=True, kw_only=True):
    """What the daemon says on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], _is("debug, info, warning or error.", reload=True)
    ] = "info"
    format: Annotated[
        Literal["auto", "console", "json"], _is("auto: console on a terminal, json elsewhere.")
    ] = "auto"


class Config(Struct, frozen=True, kw_only=True):
    """Everything that can be set, checked. From `load`, all folders are absolute."""

    http: Http = Http()
    queue: Queue = Queue()
    cache: Cache = Cache()
    plans: Plans = Plans()
    limits: TenantLimits = TenantLimits()
    retention: Retention = Retention()
    workers: Workers = Workers()
    audio: Audio = Audio()
    outbound: Outbound = Outbound()
    s3: S3 = S3()
    storage: Storage = Storage()
    backup: Backup = Backup()
    webhooks: Webhooks = Webhooks()
    shutdown: Shutdown = Shutdown()
    log: Log = Log()

    @property
    def data_dir(self) -> Path:
        return Path(self.storage.data_dir or default_data_dir(os.environ))

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
    def backups_dir(self) -> Path:
        return Path(self.backup.folder or self.data_dir / "backups")


class Key(NamedTuple):
    """One setting, as it is declared above."""

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


def cores() -> int:
    """The cores this process may use: its affinity, within the CPU quota of its container."""
    usable = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(usable, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2 here, or "max"
        return usable


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
